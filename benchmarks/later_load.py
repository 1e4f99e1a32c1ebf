"""Later loads: what `decode` costs when the decoded form is there, found among several, checked and mapped.

    python -m benchmarks.later_load [--full] [--rounds 5]

Four stores of one file lie in the folder, of 3555 features and fewer; a request for 700 features is served by the
narrowest that has them. Each round is a new process, watched from outside after its imports, as after a restart; the
files are in the page cache. Then a store is spoiled in four ways, and the time is shown in which that is noticed.
Aims: 50 ms, and no anonymous memory of the size of the data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.claims import claim
from benchmarks.outside import begin, end, watched
from eraflow import columns, store  # noqa: F401 - `decode` imports them when it is called
from eraflow.dataset import decode
from eraflow.errors import StorageError
from eraflow.stored import CODES, ERAS, HEADER, IDS, TARGETS, header_of, open_stored

ROWS, FULL_ROWS = 100_000, 300_000
WIDTHS, ASKED = (3555, 2400, 780, 310), 700
SHA256 = "ab" * 32
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help=f"{FULL_ROWS:,} rows instead of {ROWS:,}")
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "FEATURES"), help="be the process that is watched")
    given = parser.parse_args()
    if given.load:
        load(Path(given.load[0]), int(given.load[1]))
        return
    rows = FULL_ROWS if given.full else ROWS
    with tempfile.TemporaryDirectory() as folder:
        stores = [made_up(Path(folder), rows, width) for width in WIDTHS]
        print(f"{rows:,} rows, stores of {', '.join(map(str, WIDTHS))} features")
        for features in (WIDTHS[0], ASKED):
            fresh(Path(folder), features, rows, given.rounds)
        spoiled(stores[0])


def fresh(folder: Path, features: int, rows: int, rounds: int) -> None:
    found = [
        watched([sys.executable, "-m", "benchmarks.later_load", "--load", str(folder), str(features)])
        for _ in range(rounds + 1)
    ][1:]
    first_ms = [float(one.printed[0]) for one in found]
    again_ms = [float(one.printed[1]) for one in found]
    added = max(one.added_anonymous_bytes for one in found)
    name = f"later load of {features} features"
    claim(f"{name}, new process", statistics.median(first_ms), each=first_ms, unit=" ms", at_most=50)
    claim(f"{name}, same process", statistics.median(again_ms), each=again_ms, unit=" ms", at_most=50)
    note = f"of {rows * features / MIB:.0f} MiB payload; the list of names and the open maps"
    claim(f"{name}, anonymous memory added", added / MIB, unit=" MiB", at_most=16, note=note)


def load(folder: Path, features: int) -> None:
    asked = names(features)
    begin()
    first_s = _seconds(
        lambda: decode(folder / "train.parquet", into=folder, sha256=SHA256, features=asked, kind="train")
    )
    end()
    again_s = _seconds(
        lambda: decode(folder / "train.parquet", into=folder, sha256=SHA256, features=asked, kind="train")
    )
    print(first_s * 1000)
    print(again_s * 1000)


def spoiled(folder: Path) -> None:
    """How soon damage is noticed; each is undone."""
    codes, header = folder / CODES, folder / HEADER
    size, text = codes.stat().st_size, header.read_text(encoding="utf-8")

    def flip() -> None:
        with codes.open("r+b") as file:
            file.seek(size - 1)
            last = file.read(1)[0]
            file.seek(size - 1)
            file.write(bytes([last ^ 1]))

    def said(**changes: object) -> None:
        header.write_text(json.dumps(json.loads(text) | changes), encoding="utf-8")

    slowest_ms = 0.0
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "a flipped bit at the end": (flip, flip),
        "another version": (lambda: said(format=0), lambda: header.write_text(text, encoding="utf-8")),
        "other lengths": (lambda: said(rows=1), lambda: header.write_text(text, encoding="utf-8")),
        "a missing end": (lambda: os.truncate(codes, size - 1), lambda: None),
    }
    for name, (spoil, undo) in ways.items():
        spoil()
        taken_ms = 1000 * _seconds(lambda: _refused(folder))
        slowest_ms = max(slowest_ms, taken_ms)
        print(f"  {name} is noticed in {taken_ms:.1f} ms")
        undo()
    claim("damage of a stored matrix noticed, slowest way", slowest_ms, unit=" ms", at_most=50)


def made_up(into: Path, rows: int, width: int) -> Path:
    """A store as `decode` leaves it, of random codes."""
    folder, rng = into / f"{SHA256[:16]}-{width:08x}", np.random.default_rng(width)
    folder.mkdir()
    codes_NF = np.lib.format.open_memmap(folder / CODES, mode="w+", dtype=np.int8, shape=(rows, width))
    for first in range(0, rows, 10_000):
        codes_NF[first : first + 10_000] = rng.integers(-2, 3, (min(10_000, rows - first), width), dtype=np.int8)
    np.save(folder / TARGETS, rng.random((rows, 3), dtype=np.float32))
    np.save(folder / ERAS, (np.arange(rows) // 5000 + 1).astype(np.int32))
    np.save(folder / IDS, np.array([f"n{row:015x}" for row in range(rows)], "S16"))
    more = {"targets": ["target", "target_20", "target_60"], "rows": rows, "data_types": {"train": 0}}
    source = into / "train.parquet"
    header = header_of(folder, source=source, sha256=SHA256, features=names(width), **more)
    (folder / HEADER).write_text(json.dumps(header), encoding="utf-8")
    return folder


def names(width: int) -> tuple[str, ...]:
    return tuple(f"feature_of_some_length_{i:05d}" for i in range(width))


def _refused(folder: Path) -> None:
    try:
        open_stored(folder)
    except StorageError:
        return
    raise ValueError(f"{folder} is spoiled and was opened")


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
