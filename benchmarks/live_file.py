"""From the round's live file to a valid submission file: seconds in a warm process, and where they go.

    python -m benchmarks.live_file [--full] [--rounds 5] [--cpu-time]

6000 live rows of 2400 and of 3555 features, `era-pearson` with its three members, by the functions of the weekly
round: `decode`, `steps.predict` (which reads the members from the disk), the submission's checks and its write. The
live file is in the page cache, as it is after the download, and is decoded anew each time. Aim: less than a second;
with --cpu-time one thread's own time, for a machine that others keep busy, of which the predicting is halved by two.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.claims import claim
from benchmarks.training_rounds import add_options, machine_text
from eraflow import checks, recipes, steps, trained
from eraflow.config import override
from eraflow.dataset import decode, open_stored
from eraflow.request import Request
from eraflow.steps import Prepared, report_of
from eraflow.store import Store, sha256_of, write_atomically
from eraflow.trained import Trained

LIVE_ROWS, WIDTHS = 6000, (2400, 3555)
SMALL_SETTINGS = {"training.steps": "2", "training.refit": "false", "training.device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--full", action="store_true", help="four times the rounds")
    given = parser.parse_args()
    print(machine_text(given))
    if given.cpu_time:
        torch.set_num_threads(1)
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), width, given.rounds * (4 if given.full else 1), cpu_time=given.cpu_time)


def measure(home: Path, width: int, rounds: int, *, cpu_time: bool) -> None:
    features = tuple(f"feature_{i:04d}" for i in range(width))
    made = made_up_model(home, features)
    live = written(home / "live.parquet", ["X"], LIVE_ROWS, features, live=True)
    sha256 = sha256_of(live)  # known from the download
    clock = time.process_time if cpu_time else time.perf_counter
    found: list[dict[str, float]] = []
    for number in range(rounds + 1):
        spent = submission_file(Request(home=home), live, sha256, made, home / f"decoded-{number}", clock)
        found += [spent] if number else []
    print(f"{LIVE_ROWS} live rows of {width} features, {rounds} rounds after one to warm up")
    for part in found[0]:
        each = [spent[part] for spent in found]
        print(f"  {part:24} {statistics.median(each) * 1e3:6.0f} ms ({min(each) * 1e3:.0f} to {max(each) * 1e3:.0f})")
    total = [sum(spent.values()) for spent in found]
    how = ", processor time of one thread" if cpu_time else ""
    aim = None if cpu_time else 1.0
    claim(
        f"live file to submission file, {width} features{how}",
        statistics.median(total),
        each=total,
        unit=" s",
        at_most=aim,
    )


def submission_file(
    request: Request, live: Path, sha256: str, made: Trained, into: Path, clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds of each part."""
    spent: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started = clock()
        yield
        spent[part] = clock() - started

    with timed("decode"):
        stored = decode(live, into=into, sha256=sha256, features=made.features, kind="live")
    prepared = Prepared(
        recipe=made.recipe,
        notes=(),
        features=made.features,
        train=made.folder,
        validation=made.folder,
        live=stored.folder,
        model_id=made.model_id,
        round=1,
    )
    with timed("read members and predict"):
        predicted = steps.predict(request, prepared, report_of(made))
    with timed("check and write"):
        data = predicted.path.read_bytes()
        table = checks.check_bytes(data, open_stored(predicted.live).id_N.tolist())
        checks.require(table, "the benchmark")
        write_atomically(Store.open(request.home).round_folder(1) / "submission.csv", data)
    return spent


def made_up_model(home: Path, features: tuple[str, ...]) -> Trained:
    """The recipe after two steps: as large, and as slow to predict with, as after all."""
    recipe = override(recipes.get("era-pearson"), SMALL_SETTINGS)
    parts = {"train": range(1, 61), "validation": range(61, 71)}
    stored = {
        name: decode(path, into=home / name, sha256=sha256_of(path), features=features)
        for name, eras in parts.items()
        for path in [written(home / f"{name}.parquet", [f"{era:04d}" for era in eras], 20, features)]
    }
    return trained.train(
        recipe,
        train=stored["train"],
        validation=stored["validation"],
        features=features,
        folder=Store.open(home).model_folder("benchmark"),
    )


def written(path: Path, eras: list[str], rows: int, features: tuple[str, ...], *, live: bool = False) -> Path:
    """A file of v5.3's layout with `rows` random rows an era."""
    rng, n = np.random.default_rng(0), rows * len(eras)
    columns = {"id": pa.array([f"n{row:015x}" for row in range(n)])}
    columns["era"] = pa.array(np.repeat(eras, rows))
    columns["data_type"] = pa.array(["live" if live else "train"] * n)
    columns |= {name: pa.array(rng.integers(0, 5, n, dtype=np.int8)) for name in features}
    for name in ("target", "target_ender_20", "target_ender_60"):
        target = np.full(n, np.nan) if live else rng.integers(0, 5, n) / 4
        columns[name] = pa.array(target.astype(np.float32))
    pq.write_table(pa.table(columns), path)
    return path


if __name__ == "__main__":
    main()
