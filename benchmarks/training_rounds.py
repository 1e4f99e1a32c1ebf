"""What the scripts of the training loop share: rows to train on, the machine's own products, and interleaved rounds.

Both sides run in one process, one after the other, round after round, because a shared machine drifts by more than
what is measured; quoted are ratios: of the medians with the range over the rounds, and of the fastest rounds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.claims import claim
from eraflow.models import ModelConfig
from eraflow.rows import Rows
from eraflow.training import TrainingConfig, fit

ROWS_AN_ERA = 5000


def made_up(rows: int, features: int, rows_an_era: int = ROWS_AN_ERA, seed: int = 0) -> Rows:
    """Codes, five-bin targets and eras of v5.3's shape, without any signal: speed does not depend on it."""
    rng = np.random.default_rng(seed)
    code = rng.integers(-2, 3, (rows, features), dtype=np.int8)
    target = (rng.choice(5, rows, p=[0.05, 0.2, 0.5, 0.2, 0.05]) / 4).astype(np.float32)
    return Rows.of(code, target, (np.arange(rows) // rows_an_era + 1).astype(np.int32))


def trainer(
    rows: Rows, model: ModelConfig, training: TrainingConfig, seeds: Sequence[int], holdout: Rows | None = None
) -> Callable[[], None]:
    """A whole `fit` of these members in a new folder, its checkpoints included."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            folders = [Path(folder) / str(seed) for seed in seeds]
            fit(rows, model=model, training=training, seeds=seeds, folders=folders, holdout=holdout)

    return run


def products(model: ModelConfig, n_features: int, batch: int, steps: int) -> Callable[[], None]:
    """The matrix products that `steps` steps cannot do without: the roof.

    Forward and weight gradient of every layer, and the slope by the input of all but the first.
    """
    sizes = [n_features, *model.hidden, 1]
    x = [torch.randn(batch, n) for n in sizes]
    weight = [torch.randn(n_out, n_in) for n_in, n_out in pairwise(sizes)]
    out, grad, slope = [torch.empty_like(each) for each in x], [torch.empty_like(each) for each in weight], x

    def run() -> None:
        for _ in range(steps):
            for i, w in enumerate(weight):
                torch.mm(x[i], w.t(), out=out[i + 1])
            for i, w in enumerate(weight):
                torch.mm(slope[i + 1].t(), x[i], out=grad[i])
                if i:
                    torch.mm(slope[i + 1], w, out=out[i])

    return run


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread and the process's own time in place of the clock: for a machine that others keep busy",
    )


def interleaved(sides: Mapping[str, Callable[[], None]], given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one round that is not counted."""
    clock = time.process_time if given.cpu_time else time.perf_counter
    if given.cpu_time:
        torch.set_num_threads(1)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(given.rounds + 1):
        for name, run in sides.items():
            started = clock()
            run()
            if number:
                found[name].append(clock() - started)
    return found


def claim_ratio(
    name: str,
    over: Sequence[float],
    under: Sequence[float],
    *,
    unit: str = "x",
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """`over / under`: of the medians, the range over the rounds, and of each side's fastest round.

    On a shared machine the last is the nearest to what an idle one would show.
    """
    each = [a / b for a, b in zip(over, under, strict=True)]
    middle, fastest = statistics.median(over) / statistics.median(under), min(over) / min(under)
    note = f"fastest rounds {fastest:.2f}{unit}"
    claim(name, middle, each=each, unit=unit, at_least=at_least, at_most=at_most, note=note)


def machine_text(given: argparse.Namespace) -> str:
    """Processor, threads and versions, for beneath a table."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return (
        f"{name}, {'one thread, its own time' if given.cpu_time else f'{torch.get_num_threads()} threads'},"
        f" {torch.backends.cpu.get_cpu_capability()};"
        f" torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )
