"""Rows a second of the training loop against the write-up's, fastai's, and the machine's own matrix products.

    python -m benchmarks.training_speed [--rounds 5] [--cpu-time] [--rows N] [--features N ...] [--full]

The network is the write-up's (256 ReLU units, batches of 2048 in order, Adam); one round is one epoch of each side.
Aims: 2.7 / 3.5 / 4.3 times the write-up at 2400 / 780 / 310 features, 3 times fastai at 2400, and .85 / .80 of the
products' own speed at 2400 / 780. fastai stands beside it where it is installed (benchmarks/requirements.txt).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import torch

from benchmarks.baselines import fastai_tabular
from benchmarks.baselines.write_up import BATCH_SIZE, FrameRows, WriteUp
from benchmarks.training_rounds import add_options, claim_ratio, interleaved, machine_text, made_up, products, trainer
from eraflow.recipes import get
from eraflow.rows import Rows

CODES = 200_000_000
WRITE_UP, ROOF = {2400: 2.7, 780: 3.5, 310: 4.3}, {2400: 0.85, 780: 0.8}  # the aims, by features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--rows", type=int, help="default: as many as give 200 million codes")
    parser.add_argument("--features", type=int, nargs="+", default=[2400, 780, 310])
    parser.add_argument("--full", action="store_true", help="three times as many: fastai needs 12 GB for them")
    given = parser.parse_args()
    print(machine_text(given))
    has_fastai = find_spec("fastai") is not None
    if not has_fastai:
        print("fastai is not installed: not compared")
    for features in given.features:
        rows = given.rows or CODES * (3 if given.full else 1) // features // BATCH_SIZE * BATCH_SIZE
        measure(rows, features, given, with_fastai=has_fastai and features == max(given.features))


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
    at = f"at F = {features}"
    claim_ratio(
        f"training, rows/s against the write-up's loop {at}",
        found["write-up"],
        found["eraflow"],
        at_least=WRITE_UP.get(features),
    )
    if with_fastai:
        claim_ratio(f"training, rows/s against fastai {at}", found["fastai"], found["eraflow"], at_least=3)
    claim_ratio(
        f"training, share of the machine's matrix products {at}",
        found["products"],
        found["eraflow"],
        unit="",
        at_least=ROOF.get(features),
    )


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
