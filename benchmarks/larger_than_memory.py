"""Training from the memory map of a matrix on a cold disk against training from memory.

    python -m benchmarks.larger_than_memory [--full | --shape ROWS FEATURES] [--orders] [--folder FOLDER]

A matrix of 100,000 rows of v5.3's 3555 features (--full: a million) is written in pieces and dropped from the page
cache. A process that is watched from outside trains one epoch of `simple-mlp` over its map, in order, and then steps
of one era of the network of `era-pearson`. Every few steps it stops and has another process, which does the same from
memory, take as many (at most 20): each pair is a round, the first is not counted. With --orders the same steps of
`simple-mlp` are taken in each order of rows, with reading ahead and without.

Aims: at most 4 GiB of anonymous memory are added, whatever the shape; and 0.7 of the rows/s that are reached from
memory, or that the disk gives in large reads, whichever is lower; all measured in this run. The ratio of the
processor's time for a row is told as well: on a machine that others keep busy it varies less. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.claims import claim
from benchmarks.outside import begin, end, watched
from benchmarks.training_rounds import machine_text
from eraflow import read_ahead
from eraflow.footprint import free_bytes
from eraflow.recipes import get
from eraflow.rows import Rows
from eraflow.training import TrainingConfig, fit

SMALL, FULL = (100_000, 3555), (1_000_000, 3555)
ROWS_AN_ERA, MEMORY_ROWS = 5000, 80_000
MOST_ROUNDS, MOST_MEMORY_STEPS = 40, 20
# Steps that are one round at least, and steps of the network of `era-pearson`.
ROUND_STEPS, ERA_ROUND_STEPS, MOST_ERAS = 6, 2, 24
POOL_ROWS, BLOCK_ROWS = 16_384, 4096
READ_BYTES, MEASURED_BYTES, SYNC_BYTES = 8 << 20, 2 << 30, 1 << 30

Found = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--shape", type=int, nargs=2, metavar=("ROWS", "FEATURES"))
    parser.add_argument("--orders", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, recipe = given.child
        CHILDREN[name](given.folder, recipe)
        return
    rows, features = given.shape or (FULL if given.full else SMALL)
    print(" ".join(["python -m benchmarks.larger_than_memory", *sys.argv[1:]]))
    free = free_bytes(torch.device("cpu")) or 0
    print(f"{machine_text(argparse.Namespace(cpu_time=False))}; {free / 2**30:.1f} GiB of memory free")
    with written(given.folder, rows, features) as path:
        for recipe in ("simple-mlp", "era-pearson"):
            compare(path, recipe)
        if given.orders:
            for entry in child("orders", "simple-mlp", path)[0]:
                print(f"  {entry['name']:50} {rate([entry]):10,.0f} rows/s")


def compare(path: Path, recipe: str) -> None:
    """The claims of one recipe."""
    rows, features = np.load(path, mmap_mode="r").shape
    disk = [disk_bytes_a_second(path)]
    found, anonymous_bytes = child("map", recipe, path)
    disk.append(disk_bytes_a_second(path))
    disk_rate = statistics.mean(disk) / features
    speeds = " and ".join(f"{each / 1e9:.2f}" for each in disk)
    print(f"{recipe}: disk in reads of 8 MB before and after {speeds} GB/s, which is {disk_rate:,.0f} rows/s")
    from_map, from_memory = ([e for e in found[2:] if e["side"] == side] for side in ("map", "memory"))
    print(f"{recipe}: {rate(from_map):,.0f} rows/s from the map, {rate(from_memory):,.0f} rows/s from memory")
    each = [rate([a]) / min(rate([b]), disk_rate) for a, b in zip(from_map, from_memory, strict=True)]
    whole = rate(from_map) / min(rate(from_memory), disk_rate)
    processor = rate(from_map, "processor_s") / rate(from_memory, "processor_s")
    note = f"{len(each)} rounds, all together {whole:.2f}, by processor time {processor:.2f}"
    what = f"{recipe}, {rows:,} x {features}"
    claim(f"{what}: cold map against memory or disk", statistics.median(each), each=each, at_least=0.7, note=note)
    claim(f"{what}: anonymous memory added", anonymous_bytes / 2**30, unit=" GiB", at_most=4)


def rate(found: Found, clock: str = "seconds") -> float:
    """Rows a second of that clock."""
    return float(sum(entry["rows"] for entry in found) / sum(entry[clock] for entry in found))


def child(name: str, recipe: str, path: Path) -> tuple[Found, int]:
    """What a child found, and the anonymous memory that it took after its imports [bytes]."""
    seen = watched(command(name, recipe, path))
    for line in seen.printed[:-1]:
        print(f"  {line}")
    return json.loads(seen.printed[-1]), seen.added_anonymous_bytes


def command(name: str, recipe: str, path: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.larger_than_memory", "--child", name, recipe, "--folder", str(path)]


def map_child(path: Path, recipe: str) -> None:
    """The steps from the cold map; the memory child takes its turn after each round."""
    begin()
    drop(path)
    rows = rows_of(np.load(path, mmap_mode="r"))
    training, a_round = configuration(recipe, len(rows))
    other = subprocess.Popen(  # noqa: S603 - this script
        command("memory", recipe, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if other.stdin is None or other.stdout is None:
        raise SystemExit("the process that trains from memory must have pipes")
    turn, answer = other.stdin, other.stdout
    found: Found = []

    def take_turns(entry: dict[str, Any]) -> None:
        print("go", file=turn, flush=True)
        found.extend(({"side": "map"} | entry, {"side": "memory"} | json.loads(answer.readline())))
        done = sum(e["rows"] for e in found if e["side"] == "map")
        rates = ", ".join(f"{rate([e]):,.0f} rows/s from {e['side']}" for e in found[-2:])
        print(f"{recipe}: {done:,} of {len(rows):,} rows; {rates}", flush=True)

    answer.readline()  # its matrix is in memory
    train(rows, recipe, training, Turns(a_round, training, take_turns))
    other.kill()
    other.wait()
    end()
    print(json.dumps(found))


def memory_child(path: Path, recipe: str) -> None:
    """The same steps from memory: a round for each line it is given."""
    mapped_NF = np.load(path, mmap_mode="r")
    training, a_round = configuration(recipe, len(mapped_NF))
    rows = rows_of(np.array(mapped_NF[:MEMORY_ROWS]))
    if training.batch_size:  # over and over in one epoch, because an epoch ends with a checkpoint
        rows = rows.take(np.tile(np.arange(len(rows)), 1 + 2 * len(mapped_NF) // len(rows)))

    def take_turns(entry: dict[str, Any]) -> None:
        print(json.dumps(entry), flush=True)
        sys.stdin.readline()

    print("ready", flush=True)
    sys.stdin.readline()
    train(rows, recipe, training, Turns(min(a_round, MOST_MEMORY_STEPS), training, take_turns))


class Turns:
    """What `fit` asks before each step: after each round it says how long that took and has the other side go on."""

    def __init__(self, a_round: int, training: TrainingConfig, take_turns: Callable[[dict[str, Any]], None]) -> None:
        self.a_round, self.rows_a_step = a_round, training.batch_size or ROWS_AN_ERA
        self.take_turns, self.step = take_turns, 0
        self.started, self.busy = 0.0, 0.0

    def __call__(self) -> bool:
        if self.step and self.step % self.a_round == 0:
            seconds, processor_s = time.perf_counter() - self.started, time.process_time() - self.busy
            self.take_turns({"rows": self.a_round * self.rows_a_step, "seconds": seconds, "processor_s": processor_s})
        if self.step % self.a_round == 0:
            self.started, self.busy = time.perf_counter(), time.process_time()
        self.step += 1
        return False


def orders_child(path: Path, recipe: str) -> None:
    """30 steps of each order over the whole map, cold, after one; 10 where single rows are read by faults."""
    begin()
    found: Found = []
    orders: dict[str, dict[str, Any]] = {
        "in order": {},
        "blocks of 4096 rows shuffled": {"shuffle": True, "shuffle_block_rows": 4096},
        "rows shuffled singly": {"shuffle": True},
    }
    for (order, parts), ahead in itertools.product(orders.items(), (True, False)):
        steps = 10 if order == "rows shuffled singly" and not ahead else 30
        training = replace(get(recipe).training, device="cpu", epochs=None, steps=steps + 2, **parts)
        drop(path)
        read_ahead._pays = always(ahead)
        name = f"{order}, {'read ahead' if ahead else 'faults alone'}"
        taken: Found = []
        train(rows_of(np.load(path, mmap_mode="r")), recipe, training, Turns(steps, training, taken.append))
        found.append({"name": name} | taken[0])
    end()
    print(json.dumps(found))


def always(ahead: bool) -> Callable[..., bool]:
    return lambda *_: ahead


CHILDREN = {"map": map_child, "memory": memory_child, "orders": orders_child}


def configuration(recipe: str, rows: int) -> tuple[TrainingConfig, int]:
    """What trains, and how many steps are a round."""
    training = replace(get(recipe).training, device="cpu")
    if training.batch_size:
        steps = -(-rows // training.batch_size)
        return replace(training, epochs=1), max(ROUND_STEPS, -(-steps // MOST_ROUNDS))
    eras = min(MOST_ERAS, rows // ROWS_AN_ERA)
    return replace(training, steps=eras, eras_per_step=1), ERA_ROUND_STEPS


def train(rows: Rows, recipe: str, training: TrainingConfig, turns: Turns) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fit(rows, model=get(recipe).model, training=training, seeds=[0], folders=[Path(folder)], enough=turns)


def rows_of(code_NF: npt.NDArray[np.int8]) -> Rows:
    target_N = np.random.default_rng(0).random(len(code_NF), dtype=np.float32)
    return Rows.of(code_NF, target_N, (np.arange(len(code_NF)) // ROWS_AN_ERA + 1).astype(np.int32))


@contextmanager
def written(folder: Path, rows: int, features: int) -> Iterator[Path]:
    """A matrix of that shape in a file of a new folder, which goes afterwards."""
    needed, free = rows * features + SYNC_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        raise SystemExit(f"{folder} must have {needed:,} bytes free, however it has {free:,}; give another --folder")
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        path = Path(inner) / "codes.npy"
        started = time.perf_counter()
        write(path, rows, features)
        seconds = time.perf_counter() - started
        size = path.stat().st_size
        print(f"{rows:,} x {features}: {size / 2**30:.1f} GiB written in {seconds:.0f} s", flush=True)
        yield path


def write(path: Path, rows: int, features: int) -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(-2, 3, (POOL_ROWS, features), dtype=np.int8)
    header = {"descr": "|i1", "fortran_order": False, "shape": (rows, features)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        unsynced = 0
        for first in range(0, rows, BLOCK_ROWS):
            at = int(rng.integers(POOL_ROWS - BLOCK_ROWS))
            unsynced += file.write(pool[at : at + min(BLOCK_ROWS, rows - first)].data)
            if unsynced > SYNC_BYTES or first + BLOCK_ROWS >= rows:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # others need the memory
                unsynced = 0


def drop(path: Path) -> None:
    """Have nothing of the file in memory. Raises `SystemExit` where that fails."""
    gc.collect()  # what is mapped stays
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    code_NF = np.load(path, mmap_mode="r")
    found = np.empty(-(-code_NF.nbytes // mmap.PAGESIZE) + 1, np.uint8)
    begin_at = code_NF.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    size = code_NF.ctypes.data + code_NF.nbytes - begin_at
    ctypes.CDLL(None).mincore(ctypes.c_void_p(begin_at), ctypes.c_size_t(size), found.ctypes.data_as(ctypes.c_void_p))
    if found.mean() > 0.01:
        raise SystemExit(f"{path} must leave the page cache, however {found.mean():.0%} of it stays; use another disk")


def disk_bytes_a_second(path: Path) -> float:
    """Of large reads of the cold file."""
    drop(path)
    buffer, done, started = memoryview(bytearray(READ_BYTES)), 0, time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while done < MEASURED_BYTES and (read := file.readinto(buffer)):
            done += read
    seconds = time.perf_counter() - started
    drop(path)
    return done / seconds


if __name__ == "__main__":
    main()
