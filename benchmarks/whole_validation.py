"""Predicting a whole validation file: the share of the machine's own matrix products, and the memory it takes.

    python -m benchmarks.whole_validation [--rounds 5] [--cpu-time] [--full]

Both roofs run in the same rounds: the products of the first layer alone, on features that lie there as floats, and
those of all layers; beside them what it takes to widen the codes, which is the traffic with memory. Aim: 0.8 of the
first layer's products at 2400 features. Then a matrix of 3555 features on the disk (1M rows with --full) is predicted
by a process that is watched from outside, first read from the disk, then from the page cache; aim: 300 MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims import claim
from benchmarks.outside import begin, end, watched
from benchmarks.training_rounds import add_options, claim_ratio, interleaved, machine_text, made_up
from eraflow.batches import Batches, Step
from eraflow.inference import predict
from eraflow.models import Mlp, ModelConfig
from eraflow.recipes import get
from eraflow.rows import Rows
from eraflow.training import initial

# Recipe, members, features, thousand million multiplications of the first layer, aim. Sizes that take half a second.
CASES = [
    ("simple-mlp", 1, 2400, 40, 0.8),
    ("simple-mlp", 3, 2400, 40, 0.8),
    ("fastai-tabular", 1, 2400, 40, None),
    ("era-pearson", 3, 2400, 60, None),
    ("simple-mlp", 1, 780, 20, None),
]
BLOCK, MAPPED_ROWS, MAPPED_FEATURES = 4096, 100_000, 3555


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--full", action="store_true", help="four times the rows, and a million on the disk")
    parser.add_argument("--map", type=Path, help="be the process that is watched, and predict this matrix")
    given = parser.parse_args()
    if given.map:
        predict_map(given.map)
        return
    print(machine_text(given))
    for case in CASES:
        race(*case, given)
    with tempfile.TemporaryDirectory() as folder:
        from_disk(Path(folder) / "codes.npy", MAPPED_ROWS * (10 if given.full else 1))


def race(name: str, members: int, features: int, work: float, aim: float | None, given: argparse.Namespace) -> None:
    model = get(name).model
    count = round(work * 1e9 / (features * model.hidden[0] * members)) * (4 if given.full else 1)
    rows, nets = made_up(count, features), [initial(model, features, seed).eval() for seed in range(members)]
    sides: dict[str, Callable[[], None]] = {
        "first": products(model, features, members, count, layers=1),
        "all": products(model, features, members, count),
        "widen": lambda: widen(rows),
        "plain": lambda: plain(nets, rows),
        "eraflow": lambda: predicted(nets, rows),
    }
    found = interleaved(sides, given)
    print(f"\n{name}, {members} members, {count:,} rows x {features}")
    for side, seconds in found.items():
        print(f"  {side:8} {count / min(seconds):11,.0f} rows/s in the fastest round")
    what = f"predicting with {members} x {name} at F = {features}"
    claim_ratio(f"{what}, share of the first layer's products", found["first"], found["eraflow"], at_least=aim)
    claim_ratio(f"{what}, share of all products", found["all"], found["eraflow"])
    claim_ratio(f"{what}, against the modules as they are", found["plain"], found["eraflow"])


def products(
    model: ModelConfig, features: int, members: int, count: int, layers: int | None = None
) -> Callable[[], None]:
    """The matrix products of the first `layers` (default: all) for `count` rows."""
    sizes = [features, *model.hidden, 1][: None if layers is None else layers + 1]
    x = [torch.randn(BLOCK, n) for n in sizes]
    weight = [torch.randn(n_out, n_in) for n_in, n_out in pairwise(sizes)]

    def run() -> None:
        for start in range(0, count, BLOCK):
            n = min(BLOCK, count - start)
            for _ in range(members):
                for i, w in enumerate(weight):
                    torch.mm(x[i][:n], w.t(), out=x[i + 1][:n])

    return run


def blocks(rows: Rows) -> Iterator[Tensor]:
    """The rows' codes as floats, block by block."""
    starts = range(0, len(rows), BLOCK)
    steps: Iterator[Step] = ((start, np.arange(start, min(start + BLOCK, len(rows))), []) for start in starts)
    return (code_BF for _, _, code_BF, _ in Batches(rows, BLOCK, torch.device("cpu")).of(steps))


def widen(rows: Rows) -> None:
    for _ in blocks(rows):
        pass


def predicted(nets: list[Mlp], rows: Rows) -> None:
    predict(nets, rows)


def plain(nets: list[Mlp], rows: Rows) -> None:
    """The modules' own forward pass on the same blocks: the way before weights were folded."""
    with torch.no_grad():
        for code_BF in blocks(rows):
            for net in nets:
                net(code_BF)


def from_disk(path: Path, count: int) -> None:
    write_codes(path, count)
    command = [sys.executable, "-m", "benchmarks.whole_validation", "--map", str(path)]
    sizes_bytes = path.stat().st_size
    print(f"\nsimple-mlp, {count:,} rows x {MAPPED_FEATURES} on the disk, {sizes_bytes / 1e9:.2f} GB")
    read_s = reading_s(path)
    for cached in (False, True):
        if not cached:
            leave_cache(path)
        found = watched(command)
        how = "page cache" if cached else "disk"
        print(f"  from the {how}: {found.seconds:.2f} s, {sizes_bytes / found.seconds / 1e9:.2f} GB/s")
        claim(
            f"predicting {count:,} rows x {MAPPED_FEATURES} from the {how}, added anonymous memory",
            found.added_anonymous_bytes / 1e6,
            unit=" MB",
            at_most=300,
        )
        if not cached:
            note = f"the disk alone: {sizes_bytes / read_s / 1e9:.2f} GB/s"
            claim("predicting from the disk, time / reading alone", found.seconds / read_s, unit="x", note=note)


def predict_map(path: Path) -> None:
    codes_NF = np.load(path, mmap_mode="r")
    net = initial(get("simple-mlp").model, MAPPED_FEATURES, 0)
    torch.ones(64, 64) @ torch.ones(64, 64)  # the library's own threads and buffers
    begin()
    rows = Rows.of(codes_NF, None, (np.arange(len(codes_NF)) // 5000).astype(np.int32))
    found = predict([net], rows)
    end()
    print(found.shape)


def write_codes(path: Path, count: int) -> None:
    """Random codes, written in pieces; the disk has them when this returns."""
    rng, piece = np.random.default_rng(0), 10_000
    code_NF = rng.integers(-2, 3, (piece, MAPPED_FEATURES), dtype=np.int8)
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=(count, MAPPED_FEATURES))
    for start in range(0, count, piece):
        matrix[start : start + piece] = code_NF[: count - start]
    matrix.flush()


def reading_s(path: Path) -> float:
    """Seconds to read the file from the disk in order, into one buffer."""
    leave_cache(path)
    buffer, started = bytearray(1 << 23), time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - started


def leave_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
