"""Spearman, numerai_corr and MMC of 20 prediction columns over 1M rows in 200 eras; aim: a second.

    python -m benchmarks.metrics [--full] [--rounds 5] [--cpu-time]

The ratio is against numerai-tools 0.7.2, where it is installed, on ten of the eras: its `numerai_corr`,
`spearman_correlation` and `correlation_contribution`, an era after the other. --full adds 4M rows to the line.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.claims import claim
from benchmarks.lines import line
from benchmarks.spearman import ROWS, ROWS_AN_ERA, made_up
from benchmarks.training_rounds import add_options, claim_ratio, interleaved, machine_text
from eraflow.prepared import PreparedScores

Array = npt.NDArray[Any]

COLUMNS, COMPARED = 20, 10 * ROWS_AN_ERA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    print(machine_text(given))
    if find_spec("numerai_tools"):
        against_numerai_tools(given)
    target_N, era_N, meta_N, prediction_NK = columns(ROWS)
    prepared = PreparedScores(target_N, era_N, {"mmc": meta_N})
    sides: dict[str, Callable[[], Any]] = {
        "all": lambda: prepared(prediction_NK),
        "float64": lambda: prepared(prediction_NK.astype(np.float64)),
        "one": lambda: prepared(prediction_NK[:, 0]),
        "preparation": lambda: PreparedScores(target_N, era_N, {"mmc": meta_N}),
    }
    found = interleaved(sides, given)
    for name, what, aim in (
        ("all", "of 20 columns", 1.0),
        ("float64", "of 20 columns of float64", None),
        ("one", "of one column", None),
        ("preparation", "are prepared", None),
    ):
        title = f"Spearman, numerai_corr and MMC {what}, 1M rows"
        claim(title, statistics.median(found[name]), each=found[name], unit=" s", at_most=aim)
    sizes = [250_000, 500_000, 1_000_000, *([4_000_000] if given.full else [])]
    line("the three scores of 20 columns", sizes, _scoring, given)


def columns(rows: int) -> tuple[Array, Array, Array, Array]:
    target_N, era_N, _ = made_up(rows)
    rng = np.random.default_rng(1)
    prediction_NK = 0.5 + 0.02 * rng.standard_normal((rows, COLUMNS), np.float32)
    return target_N, era_N, rng.standard_normal(rows), prediction_NK


def against_numerai_tools(given: argparse.Namespace) -> None:
    tools = importlib.import_module("numerai_tools.scoring")
    target_N, era_N, meta_N, prediction_NK = columns(COMPARED)
    prepared = PreparedScores(target_N, era_N, {"mmc": meta_N})
    target_N = target_N.astype(np.float64)  # theirs would centre float32 in float32, 3e-9 from the truth
    target, meta, table = pd.Series(target_N, name="target"), pd.Series(meta_N), pd.DataFrame(prediction_NK)
    eras = [slice(start, start + ROWS_AN_ERA) for start in range(0, COMPARED, ROWS_AN_ERA)]

    def theirs() -> dict[str, Array]:
        here = [(table[era], target[era], meta[era]) for era in eras]
        return {
            "spearman": np.array([p.apply(lambda c, t=t: tools.spearman_correlation(t, c)) for p, t, _ in here]),
            "numerai_corr": np.array([tools.numerai_corr(p, t) for p, t, _ in here]),
            "mmc": np.array([tools.correlation_contribution(p, m, t) for p, t, m in here]),
        }

    ours = prepared(prediction_NK)
    for name, value_EK in theirs().items():
        apart = float(np.abs(value_EK - ours[name]).max())
        claim(f"{name}: largest difference from numerai-tools", apart, at_most=1e-12)
    sides: dict[str, Callable[[], Any]] = {"theirs": theirs, "ours": lambda: prepared(prediction_NK)}
    found = interleaved(sides, given)
    claim_ratio("three scores of 20 columns: speed against numerai-tools", found["theirs"], found["ours"])


def _scoring(rows: int) -> Callable[[], Any]:
    target_N, era_N, meta_N, prediction_NK = columns(rows)
    prepared = PreparedScores(target_N, era_N, {"mmc": meta_N})
    return lambda: prepared(prediction_NK)


if __name__ == "__main__":
    main()
