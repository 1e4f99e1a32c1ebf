"""Rows a second of the training loop against the write-up's, fastai's, and the machine's own matrix products.

    python benchmarks/training_speed.py [--rounds 5] [--cpu-time] [--rows N] [--features N ...] [--fastai] [--full]

The network is the write-up's (256 ReLU units, batches of 2048 in order, Adam); one round is one epoch of each side.
Aims: 2.7 / 3.5 / 4.3 times the write-up at 2400 / 780 / 310 features, 3 times fastai at 2400, and .85 / .80 of the
products' own speed at 2400 / 780. `--fastai` needs fastai 2.8.12 with torchvision.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from baselines import fastai_tabular
from baselines.write_up import BATCH_SIZE, FrameRows, WriteUp
from training_rounds import add_options, interleaved, machine_text, made_up, products, ratio_text, trainer

from eraflow.recipes import get
from eraflow.rows import Rows

CODES = 300_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--rows", type=int, help="default: as many as give 300 million codes")
    parser.add_argument("--features", type=int, nargs="+", default=[2400, 780, 310])
    parser.add_argument("--fastai", action="store_true", help="also against fastai, at the largest width")
    parser.add_argument("--full", action="store_true", help="four times as many")
    given = parser.parse_args()
    print(machine_text(given))
    for features in given.features:
        rows = given.rows or CODES * (4 if given.full else 1) // features // BATCH_SIZE * BATCH_SIZE
        measure(rows, features, given, with_fastai=given.fastai and features == max(given.features))


def measure(count: int, features: int, given: argparse.Namespace, *, with_fastai: bool) -> None:
    rows, recipe = made_up(count, features), get("simple-mlp")
    training = replace(recipe.training, epochs=1, device="cpu")
    sides = {
        "products": products(recipe.model, features, BATCH_SIZE, -(-count // BATCH_SIZE)),
        "eraflow": trainer(rows, recipe.model, training, [0]),
        "write-up": write_up(rows),
    }
    if with_fastai:
        sides["fastai"] = fastai(rows)
    found = interleaved(sides, given)
    print(f"\nF = {features}, {count:,} rows, {given.rounds} rounds")
    for name, seconds in found.items():
        middle, best = count / statistics.median(seconds), count / min(seconds)
        print(f"  {name:9} {middle:10,.0f} rows/s, fastest {best:10,.0f}")
    for name in [name for name in sides if name not in ("products", "eraflow")]:
        print(f"  eraflow against {name}: {ratio_text(found[name], found['eraflow'])}")
    print(f"  eraflow's share of the products' speed: {ratio_text(found['products'], found['eraflow'])}", flush=True)


def frame_of(rows: Rows) -> tuple[pd.DataFrame, list[str]]:
    """The rows as the tournament's file has them: codes 0 to 4."""
    code = np.empty((len(rows), rows.n_features), np.int8)
    rows.gather(np.arange(len(rows)), code)
    names = [f"feature_{i:04d}" for i in range(rows.n_features)]
    frame = pd.DataFrame(code + np.int8(2), columns=names)
    more = pd.DataFrame({"target": rows.target_M, "era": [f"{era:04d}" for era in rows.era_M]})
    return pd.concat([frame, more], axis=1), names


def write_up(rows: Rows) -> Callable[[], None]:
    frame, names = frame_of(rows)
    items, model = FrameRows(frame, names, ["target"]), WriteUp(rows.n_features)
    return lambda: model.epoch(items)


def fastai(rows: Rows) -> Callable[[], None]:
    """One epoch of the learner without its validation (two rows are held out, as it must have some)."""
    frame, names = frame_of(rows)
    model = fastai_tabular.learner(
        frame.astype(dict.fromkeys(names, np.float32)), names, ["target"], list(range(2, len(rows))), [0, 1]
    )
    model.metrics = []
    torch.manual_seed(0)

    def epoch() -> None:
        with model.no_bar(), model.no_logging():
            model.fit_one_cycle(1, wd=fastai_tabular.WEIGHT_DECAY)

    return epoch


if __name__ == "__main__":
    main()
