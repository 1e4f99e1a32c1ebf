"""Spearman by era, prepared once for a target, against the ways that are in use; aim: 9 times pandas.

    python -m benchmarks.spearman [--full] [--rounds 5] [--cpu-time]

1M rows in 200 eras, five-bin targets, float32 predictions. pandas is `groupby.apply(spearmanr)`; the others are a loop
over eras with scipy's `spearmanr`, and numerai-tools' function by era where that is installed. All give the same
numbers, which is checked first. --full adds 4M rows to the line.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from benchmarks.claims import claim
from benchmarks.lines import line
from benchmarks.training_rounds import add_options, claim_ratio, interleaved, machine_text
from eraflow.prepared import PreparedSpearman

Array = npt.NDArray[Any]

ROWS, ROWS_AN_ERA = 1_000_000, 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    print(machine_text(given))
    target_N, era_N, prediction_N = made_up(ROWS)
    prepared, wide_N = PreparedSpearman(target_N, era_N), np.random.default_rng(1).standard_normal(ROWS)
    others = baselines(target_N, era_N, prediction_N)
    check(others, prepared(prediction_N)[1])
    sides: dict[str, Callable[[], Any]] = {
        **others,
        "eraflow": lambda: prepared(prediction_N),
        "eraflow, float64": lambda: prepared(wide_N),
        "preparation": lambda: PreparedSpearman(target_N, era_N),
    }
    found = interleaved(sides, given)
    aim = {"pandas": 9.0}
    for name in others:
        claim_ratio(
            f"Spearman by era, prepared: speed against {name}", found[name], found["eraflow"], at_least=aim.get(name)
        )
    claim_ratio("Spearman by era of float64: speed against pandas", found["pandas"], found["eraflow, float64"])
    claim_ratio("Spearman by era: preparation, in scorings", found["preparation"], found["eraflow"], unit="")
    sizes = [125_000, 250_000, 500_000, 1_000_000, *([4_000_000] if given.full else [])]
    line("Spearman by era", sizes, _scoring, given)


def made_up(rows: int) -> tuple[Array, Array, Array]:
    """Targets, eras in order and float32 predictions with the few ties that such a network's have."""
    rng = np.random.default_rng(0)
    target_N = (rng.choice(5, rows, p=[0.05, 0.2, 0.5, 0.2, 0.05]) / 4).astype(np.float32)
    prediction_N = (0.5 + 0.02 * rng.standard_normal(rows)).astype(np.float32)
    return target_N, (np.arange(rows) // ROWS_AN_ERA).astype(np.int32), prediction_N


def baselines(target_N: Array, era_N: Array, prediction_N: Array) -> dict[str, Callable[[], Any]]:
    """What gives the same numbers by other means, each from data as it wants them."""
    table = pd.DataFrame({"era": era_N, "target": target_N, "prediction": prediction_N})
    columns = table.groupby("era")[["prediction", "target"]]
    bound = [*np.flatnonzero(np.diff(era_N, prepend=-1)).tolist(), len(era_N)]
    eras = [slice(*each) for each in pairwise(bound)]
    sides: dict[str, Callable[[], Any]] = {
        "pandas": lambda: columns.apply(lambda era: stats.spearmanr(era.prediction, era.target).statistic),
        "a scipy loop": lambda: [stats.spearmanr(prediction_N[era], target_N[era]).statistic for era in eras],
    }
    if find_spec("numerai_tools"):
        tools = importlib.import_module("numerai_tools.scoring")
        sides["numerai-tools"] = lambda: columns.apply(
            lambda era: tools.spearman_correlation(era.target, era.prediction)
        )
    return sides


def check(others: dict[str, Callable[[], Any]], ours_E: Array) -> None:
    for name, run in others.items():
        apart = float(np.abs(np.asarray(run()) - ours_E).max())
        claim(f"Spearman by era: largest difference from {name}", apart, at_most=1e-15)


def _scoring(rows: int) -> Callable[[], Any]:
    target_N, era_N, prediction_N = made_up(rows)
    prepared = PreparedSpearman(target_N, era_N)
    return lambda: prepared(prediction_N)


if __name__ == "__main__":
    main()
