"""The first load of a training file: time, memory, and how both grow; against pandas and the write-up's way.

    python -m benchmarks.first_load [--full] [--rounds 5] [--only race line group]

Each side is a process of its own, watched from outside after its imports; the sides take turns, and the file is in
the page cache. eraflow's side checks every value, and writes and syncs the matrix that later loads map, which the
others do not do. Aims: 0.4 of the time of pandas -> int8 (a row's values together, as row batches need them and
eraflow writes them; "pandas-columns" leaves a column's together, as pandas has them), and at 300,000 rows 1.2 times
the payload (a byte a feature value, as int8) at the peak. Then files of three lengths and three widths, each decoded
in turn, show what a value costs, and one of a single large row group, as the tournament's own may be, what bounds the
memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.claims import claim
from benchmarks.outside import Watched, begin, end, watched

ROWS, FEATURES, GROUP_ROWS = 100_000, 2400, 1 << 20
FULL_ROWS = 300_000
ROWS_AN_ERA = 5000
MIB = 1 << 20
PARTS = ("race", "line", "group")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help=f"{FULL_ROWS:,} rows instead of {ROWS:,}")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "FILE"), help="be the process that is watched")
    given = parser.parse_args()
    if given.side:
        SIDES[given.side[0]](Path(given.side[1]))
        return
    rows = FULL_ROWS if given.full else ROWS
    with tempfile.TemporaryDirectory() as folder:
        if "race" in given.only:
            race(Path(folder), rows, given.rounds)
        if "line" in given.only:
            line(Path(folder), rows, given.rounds if given.full else 2)
        if "group" in given.only:
            one_group(Path(folder), 1_000_000 if given.full else 400_000)


def race(folder: Path, rows: int, rounds: int) -> None:
    path = made_up(folder / "train.parquet", rows, FEATURES)
    payload_bytes = rows * FEATURES
    print(
        f"{rows:,} rows x {FEATURES} features, {payload_bytes / MIB:.0f} MiB, {path.stat().st_size / MIB:.0f} MiB file"
    )
    found: dict[str, list[Watched]] = {name: [] for name in SIDES}
    for number in range(rounds + 1):
        for name, each in found.items():
            if number and (name != "write-up" or number == 1):
                each.append(side(name, path))
            elif not number and name != "write-up":
                side(name, path)
    for name, each in found.items():
        seconds, cpu_s = [one.seconds for one in each], [one.processor_s for one in each]
        print(
            f"  {name:12} {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f}),"
            f" {statistics.median(cpu_s):5.2f} s of processor, anonymous memory"
            f" +{_anonymous(each) / payload_bytes:.2f} x, all +{_resident(each) / payload_bytes:.2f} x"
        )
    ours = found["eraflow"]
    for name, aim in (("pandas-int8", 0.4), ("pandas-columns", None)):
        both = list(zip(ours, found[name], strict=True))
        ratios = [a.seconds / b.seconds for a, b in both]
        cpu = statistics.median(a.processor_s / b.processor_s for a, b in both)
        note = f"processor time {cpu:.2f}"
        claim(f"first load / {name}", statistics.median(ratios), each=ratios, at_most=aim, note=note)
    note = f"anonymous {_anonymous(ours) / payload_bytes:.2f}; the rest is the written matrix in the page cache"
    aim = 1.2 if rows >= FULL_ROWS else None  # some 80 MiB do not grow with the file
    claim("first load, peak / payload", _resident(ours) / payload_bytes, unit="x", at_most=aim, note=note)
    for name in ("pandas-int8", "write-up"):
        claim(f"{name}, peak / payload", _resident(found[name]) / payload_bytes, unit="x")
        claim(f"first load, anonymous peak / that of {name}", _anonymous(ours) / _anonymous(found[name]))
    path.unlink()


def line(folder: Path, rows: int, rounds: int) -> None:
    """Seconds of processor time for a thousand million values, at three lengths and three widths."""
    half = FEATURES // 2
    shapes = [(rows // 4, half), (rows // 2, half), (rows, half), (rows // 2, half // 2), (rows // 2, FEATURES)]
    paths = [made_up(folder / f"{n}x{f}.parquet", n, f) for n, f in shapes]
    each: list[list[float]] = [[] for _ in shapes]
    for _ in range(rounds):
        for at, (n, f) in enumerate(shapes):
            each[at].append(side("eraflow", paths[at]).processor_s / (n * f) * 1e9)
    costs = [min(costs) for costs in each]
    for (n, f), cost in zip(shapes, costs, strict=True):
        print(f"  {n:9,} rows x {f:4} features: {cost:.2f} s of processor for 10^9 values")
    claim(
        "cost of a value, dearest shape / cheapest",
        max(costs) / min(costs),
        note="fastest rounds",
    )
    for path in paths:
        path.unlink()


def one_group(folder: Path, rows: int, features: int = 600) -> None:
    """One row group of many rows: a block is as narrow as memory asks for."""
    path = made_up(folder / "one.parquet", rows, features, group_rows=rows)
    added = side("eraflow", path).added_anonymous_bytes
    print(f"  one row group of {rows:,} rows x {features}: anonymous memory +{added / MIB:.0f} MiB")
    claim("one row group, anonymous peak / payload", added / (rows * features), at_most=0.5)
    path.unlink()


def side(name: str, path: Path) -> Watched:
    return watched([sys.executable, "-m", "benchmarks.first_load", "--side", name, str(path)])


def eraflow(path: Path) -> None:
    from eraflow import columns, store  # noqa: F401 - `decode` imports them when it is called
    from eraflow.dataset import decode
    from eraflow.store import sha256_of

    features = _features(path)
    sha256 = sha256_of(path)  # known from the download
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        begin()
        decode(path, into=Path(folder), sha256=sha256, features=features)
        end()


def pandas_int8(path: Path) -> None:
    from benchmarks.baselines import loads

    _features(path)
    begin()
    kept = loads.pandas_int8(path)
    end()
    del kept


def pandas_columns(path: Path) -> None:
    from benchmarks.baselines import loads

    _features(path)
    begin()
    kept = loads.pandas_columns(path)
    end()
    del kept


def write_up(path: Path) -> None:
    from benchmarks.baselines import loads

    _features(path)
    begin()
    kept = loads.write_up(path)
    end()
    del kept


SIDES = {"eraflow": eraflow, "pandas-int8": pandas_int8, "pandas-columns": pandas_columns, "write-up": write_up}


def made_up(path: Path, rows: int, features: int, group_rows: int = GROUP_ROWS) -> Path:
    """A file of v5.3's layout with random codes, written a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(0), None
    for first in range(0, rows, group_rows):
        n = min(group_rows, rows - first)
        number = range(first, first + n)
        columns = {"id": pa.array([f"n{row:015x}" for row in number])}
        columns["era"] = pa.array([f"{row // ROWS_AN_ERA + 1:04d}" for row in number])
        columns["data_type"] = pa.array(["train"] * n)
        columns |= {f"feature_{i:04d}": pa.array(rng.integers(0, 5, n, dtype=np.int8)) for i in range(features)}
        for name in ("target", "target_ender_20", "target_ender_60"):
            columns[name] = pa.array((rng.integers(0, 5, n) / 4).astype(np.float32))
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=group_rows)
    if writer is not None:
        writer.close()
    return path


def _features(path: Path) -> tuple[str, ...]:
    import pyarrow.parquet as pq

    return tuple(name for name in pq.read_schema(path).names if name.startswith("feature"))


def _anonymous(each: Sequence[Watched]) -> float:
    return max(one.added_anonymous_bytes for one in each)


def _resident(each: Sequence[Watched]) -> float:
    return max(one.added_rss_bytes for one in each)


if __name__ == "__main__":
    main()
