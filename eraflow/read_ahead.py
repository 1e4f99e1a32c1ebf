"""The steps of a training, whose rows are asked for from the disk before they are needed.

A matrix that is larger than memory is mapped, and a page that is not in memory is read when a step touches it, while
nothing else goes on. So `steps`, which the loop goes through, has a thread that asks the kernel for the rows of the
steps to come, about `AHEAD_BYTES` ahead. Nothing is copied, and what is in memory already costs 0.1 ms of processor
time for a batch of 2048 rows of 3555 features (1.5 ms where they are shuffled singly). There is no thread where
nothing is mapped, where the maps are small, and where the system takes no such request (it is not Linux).

Measured on a virtual disk of 0.6 to 2 GB/s with a kernel's own read-ahead of 8 MB (Linux 6.18), 2.75 million rows: with
rows shuffled singly 37,700 rows/s against 2,400 by faults alone, because a fault costs 2.4 ms (0.19 ms after
MADV_RANDOM) and a row that is asked for with others 0.015 ms. Where whole stretches are read such a kernel keeps up by
itself, and no gain was seen; most kernels read 128 KB ahead. Reading into a buffer in place of asking was slower in
both comparisons made. Nothing is dropped behind.

Letters: B rows of a batch, N rows, F features of a matrix.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eraflow.batches import Way
from eraflow.footprint import free_bytes
from eraflow.rows import Plan, Rows

logger = logging.getLogger("eraflow")

AHEAD_BYTES = 256 * 2**20
# So that narrow rows do not make it a whole pass.
AHEAD_STEPS = 256
# The kernel cuts a longer request to its own read-ahead without a word; this is the usual one.
REQUEST_BYTES = 128 * 2**10
# What lies between two rows is read too if it is no more than this: a second request would take as long.
GAP_BYTES = 128 * 2**10

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class MapFile:
    """Where the rows of a mapped matrix lie."""

    number: int
    """Of the open file."""
    first_byte: int
    row_bytes: int
    size_bytes: int

    def ask_for(self, first: int, end: int) -> None:
        """Have the rows from `first` to before `end` read; returns when that has begun."""
        begin, end = (self.first_byte + row * self.row_bytes for row in (first, end))
        for at in range(begin, end, REQUEST_BYTES):
            os.posix_fadvise(self.number, at, min(REQUEST_BYTES, end - at), os.POSIX_FADV_WILLNEED)


def steps(rows: Rows, plan: Plan, first: int, way: Way = "plain") -> Iterator[tuple[int, Array, list[int]]]:
    """Each step from `first` on with what `plan.batch` gives; those of its rows that are mapped have been asked for.

    What is resident on a device is not asked for again. What the thread raises is raised here. It ends with this
    iterator, of which a loop that is left lets go.
    """
    with ExitStack() as stack:
        opened = ((i, map_file(code_NF, stack)) for i, code_NF in enumerate(rows.matrices))
        files = {i: file for i, file in opened if file is not None}
        if way == "resident" or not _pays(files.values(), plan):
            for step in range(first, plan.steps):
                yield step, *plan.batch(step)
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="eraflow-read-ahead")
        stack.callback(thread.shutdown, cancel_futures=True)
        coming: deque[tuple[Future[None], int, tuple[Array, list[int]]]] = deque()
        row_bytes = max(file.row_bytes for file in files.values())
        ahead_bytes, end = 0, first
        for step in range(first, plan.steps):
            while end < plan.steps and (not coming or (ahead_bytes < AHEAD_BYTES and len(coming) < AHEAD_STEPS)):
                needed_B = plan.reads(end, resumed=end == first)
                asked, size_bytes = thread.submit(_ask_for, rows, files, needed_B), len(needed_B) * row_bytes
                coming.append((asked, size_bytes, plan.batch(end)))
                ahead_bytes, end = ahead_bytes + size_bytes, end + 1
            asked, size_bytes, batch = coming.popleft()
            # Where the disk is slower than the steps: better to wait for large reads than to begin small ones.
            asked.result()
            ahead_bytes -= size_bytes
            yield step, *batch


def map_file(code_NF: Array, stack: ExitStack) -> MapFile | None:
    """The file that `code_NF` maps, open until `stack` closes it; None for memory, and where no rows can be asked for.

    A map outlives the name of its file, which then can be asked for no longer.
    """
    root: Any = code_NF
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or not hasattr(os, "posix_fadvise") or not os.path.exists(str(root.filename)):
        return None
    first = code_NF.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return MapFile(
        number=stack.enter_context(open(str(root.filename), "rb")).fileno(),
        first_byte=root.offset + first,
        row_bytes=code_NF.strides[0],
        size_bytes=code_NF.nbytes,
    )


def _ask_for(rows: Rows, files: Mapping[int, MapFile], index_B: Array) -> None:
    for matrix, first, end in rows.spans(index_B, GAP_BYTES):
        if matrix in files:
            files[matrix].ask_for(first, end)


def _pays(files: Collection[MapFile], plan: Plan) -> bool:
    """Whether rows are to be asked for; warns where that cannot make up for their order."""
    size_bytes = sum(file.size_bytes for file in files)
    if size_bytes <= AHEAD_BYTES:
        return False
    if not plan.shuffles_rows:
        return True
    # A request for each row is for nothing where the first pass leaves all in memory.
    free = free_bytes(torch.device("cpu"))
    if free is None or size_bytes <= free:
        return False
    logger.warning(
        "rows are shuffled singly, however their matrix of %.1f GiB is larger than the %.1f GiB of memory that are"
        " free: each is read from the disk by itself in each pass; training.shuffle_block_rows=4096 reads whole blocks",
        size_bytes / 2**30,
        free / 2**30,
    )
    return True
