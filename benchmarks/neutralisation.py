"""Neutralising one era, 5000 rows x 2400 features, against numerai-tools; aim: 8 times its speed, within 1e-6 of it.

    python -m benchmarks.neutralisation [--full] [--rounds 5] [--cpu-time]

The other side is numerai-tools 0.7.2 itself where it is installed, otherwise its arithmetic: `numpy.linalg.lstsq` on
the codes and a column of ones, rcond 1e-6. --full times both. --cpu-time is one thread on
both sides; for it the script starts itself again, since numpy's threads are set before it is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.claims import claim
from benchmarks.lines import line
from benchmarks.training_rounds import add_options, claim_ratio, machine_text
from eraflow.neutral import Neutralizer, residual

Array = npt.NDArray[Any]

ROWS, FEATURES, COLUMNS = 5000, 2400, 20
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    if given.cpu_time and not ONE_THREAD.items() <= os.environ.items():
        argv = [sys.executable, "-m", "benchmarks.neutralisation", *sys.argv[1:]]
        os.execve(sys.executable, argv, {**os.environ, **ONE_THREAD})  # noqa: S606  no shell is wanted
    print(machine_text(given), f"; OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'not set')}")
    feature_MF, value_MK = made_up(ROWS, FEATURES)
    others = baselines(value_MK[:, 0], feature_MF)
    others = others if given.full else dict([*others.items()][:1])
    check(others, residual(value_MK[:, 0], feature_MF))
    found = apart([*others, "eraflow", "one more", "20 at once"], given)
    for name in others:
        claim_ratio(f"neutralising an era: speed against {name}", found[name], found["eraflow"], at_least=8)
    claim_ratio("neutralising one more prediction: part of the first one's cost", found["one more"], found["eraflow"])
    claim_ratio("neutralising 20 predictions: times the cost of one", found["20 at once"], found["eraflow"], at_most=2)
    line("neutralising, 600 features", [2500, 5000, 10_000, 20_000], _neutralising, given)


def made_up(rows: int, features: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.integers(-2, 3, (rows, features), dtype=np.int8), rng.standard_normal((rows, COLUMNS))


def baselines(value_M: Array, feature_MF: Array) -> dict[str, Callable[[], Any]]:
    """numerai-tools first, if it is there."""
    sides: dict[str, Callable[[], Any]] = {}
    if find_spec("numerai_tools"):
        tools = importlib.import_module("numerai_tools.scoring")
        prediction, features = pd.DataFrame({"prediction": value_M}), pd.DataFrame(feature_MF)
        sides["numerai-tools"] = lambda: tools.neutralize(prediction, features).to_numpy()[:, 0]
    return {**sides, "lstsq": lambda: _least_squares(value_M, feature_MF)}


def apart(names: Sequence[str], given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one that is not counted, in turn.

    A process a side: numpy's and torch's threads spin for a while after their work, and would do so at each other's
    cost.
    """
    with ExitStack() as stack:
        spawn = get_context("spawn")
        pools = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in names}
        rounds = [
            {name: pools[name].submit(timed, name, given.cpu_time).result() for name in names}
            for _ in range(given.rounds + 1)
        ]
    return {name: [each[name] for each in rounds[1:]] for name in names}


def timed(name: str, cpu_time: bool) -> float:
    run, clock = _side(name), time.process_time if cpu_time else time.perf_counter
    started = clock()
    run()
    return clock() - started


@cache
def _side(name: str) -> Callable[[], Any]:
    feature_MF, value_MK = made_up(ROWS, FEATURES)
    value_M = value_MK[:, 0]
    if name == "one more":
        prepared = Neutralizer(feature_MF)
        return lambda: prepared.residual(value_M)
    ours: dict[str, Callable[[], Any]] = {
        "eraflow": lambda: residual(value_M, feature_MF),
        "20 at once": lambda: residual(value_MK, feature_MF),
    }
    return ours[name] if name in ours else baselines(value_M, feature_MF)[name]


def check(others: dict[str, Callable[[], Any]], ours_M: Array) -> None:
    for name, run in others.items():
        theirs_M = np.asarray(run())
        apart = np.abs(theirs_M - theirs_M.mean() - ours_M).max() / theirs_M.std()
        claim(f"neutralising an era: largest difference from {name}", float(apart), at_most=1e-6, note="of its spread")


def _least_squares(value_M: Array, feature_MF: Array) -> Array:
    x = np.hstack([feature_MF, np.ones((len(feature_MF), 1), np.int64)])
    return np.asarray(value_M - x @ np.linalg.lstsq(x, value_M, rcond=1e-6)[0])


def _neutralising(rows: int) -> Callable[[], Any]:
    feature_MF, value_MK = made_up(rows, 600)
    return lambda: residual(value_MK[:, 0], feature_MF)


if __name__ == "__main__":
    main()
