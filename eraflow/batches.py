"""Batches of chosen rows on the device that trains.

`Batches` is what the loop and `predict` call. Codes reach the device in one of three ways, which `footprint` chooses
from for the loop and which give the same bits:

    plain      a processor (and MPS): widened where they lie if they are few slices, otherwise gathered and widened
    resident   CUDA with room for all chosen rows: uploaded once as int8, gathered and widened there
    streamed   CUDA without: gathered by a thread into pinned memory while the device works on the batch before

On CUDA the loop waits for nothing here but a batch that is still being gathered. A processor's streams and events do
nothing, so that tests run there what CUDA runs; on CUDA itself none of this has been run.

There is neither a CUDA graph nor `torch.compile`: the 1,465 steps of an epoch of 3 million rows are estimated at half a
second to launch, and their products alone at 0.15 s, which is not worth a second loop for batches of fixed size.
Products are exact float32. Whoever prefers TF32 calls `torch.set_float32_matmul_precision("high")` before: codes are
exact in it, weights and slopes keep 11 bits, and on paper an epoch gets shorter by no more than those 0.15 s.

Shape letters: M rows chosen, B batch, F features, T targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eraflow.rows import Rows

Array = npt.NDArray[Any]
Way = Literal["plain", "resident", "streamed"]
Step = tuple[int, Array, list[int]]  # its number, its rows, and how many of them belong to each era in turn

# Uploaded at once: large enough for the bus, and little beside the memory of any device.
PIECE_BYTES = 64 * 2**20


class Batches:
    """Codes and targets of chosen rows as tensors on `device`, in buffers for `largest` rows that are reused.

    A buffer over 32 MB that is allocated at each step is page-faulted at each step: 7.6 s against 2.8 s for one
    pass over 300,000 rows of 2,400 features (two cores, AVX2).
    """

    def __init__(self, rows: Rows, largest: int, device: torch.device, way: Way | None = None) -> None:
        """`way` None is "streamed" on CUDA, where an upload pays only for several passes, and elsewhere "plain"."""
        self.device = device
        self.way: Way = way or ("streamed" if device.type == "cuda" else "plain")
        self._codes = WAYS[self.way](rows, largest, device)
        self._x_BF = torch.empty((largest, rows.n_features), dtype=torch.float32, device=device)
        self._target = torch.from_numpy(rows.targets).to(device)

    def load(self, index_B: Array, next_B: Array | None = None) -> tuple[Tensor, Tensor]:
        """Codes float32 `[B, F]` and targets float32 `[B]`, with extra ones `[B, T]`, the target first.

        The codes are overwritten by the next call. Where they are streamed, `next_B` is gathered while the device works
        on this batch; it is a hint, whatever is asked for next.
        """
        x_BF, sent_B = self._x_BF[: len(index_B)], _sent(index_B, self.device)
        self._codes.widen(index_B, sent_B, next_B, x_BF)
        return x_BF, self._target.index_select(0, sent_B)

    def of(self, steps: Iterable[Step]) -> Iterator[tuple[int, list[int], Tensor, Tensor]]:
        """Each step's number and sizes with the codes and targets of its rows; the step after it is asked for first."""
        ahead = iter(steps)
        here = next(ahead, None)
        while here is not None:
            after = next(ahead, None)
            step, index_B, sizes = here
            yield step, sizes, *self.load(index_B, None if after is None else after[1])
            here = after


class _Plain:
    def __init__(self, rows: Rows, largest: int, device: torch.device) -> None:
        self.rows, self.device, self.matrices = rows, device, rows.tensors()
        self.code_BF = np.empty((largest, rows.n_features), np.int8)
        self.staged_BF = torch.from_numpy(self.code_BF)

    def widen(self, index_B: Array, sent_B: Tensor, next_B: Array | None, x_BF: Tensor) -> None:  # noqa: ARG002
        runs = self.rows.runs(index_B) if self.device.type == "cpu" else None
        if runs is None:
            self.rows.gather(index_B, self.code_BF[: len(index_B)])
            # As bytes to the device and widened there: a quarter of the transfer.
            x_BF.copy_(self.staged_BF[: len(index_B)].to(self.device))
            return
        # Rows in order, or whole eras: widened where they lie.
        parts = torch.split(x_BF, [rows.stop - rows.start for _, rows in runs])
        for part_BF, (matrix, rows) in zip(parts, runs, strict=True):
            part_BF.copy_(self.matrices[matrix][rows])


class _Resident:
    def __init__(self, rows: Rows, largest: int, device: torch.device) -> None:
        self.codes_MF = torch.empty((len(rows), rows.n_features), dtype=torch.int8, device=device)
        self.code_BF = torch.empty((largest, rows.n_features), dtype=torch.int8, device=device)
        a_piece = min(len(rows), max(1, PIECE_BYTES // rows.n_features))
        upload, parts = _Streamed(rows, a_piece, device), torch.split(self.codes_MF, a_piece)
        pieces: list[Array] = np.split(np.arange(len(rows)), range(a_piece, len(rows), a_piece))
        for piece_B, next_B, part_BF in zip(pieces, [*pieces[1:], None], parts, strict=True):
            upload.copy(piece_B, next_B, part_BF)

    def widen(self, index_B: Array, sent_B: Tensor, next_B: Array | None, x_BF: Tensor) -> None:  # noqa: ARG002
        x_BF.copy_(torch.index_select(self.codes_MF, 0, sent_B, out=self.code_BF[: len(index_B)]))


class _Streamed:
    """Two pairs of an int8 buffer on the host and one on the device, used in turn."""

    def __init__(self, rows: Rows, largest: int, device: torch.device) -> None:
        self.rows, self.device = rows, device
        self.on: Any = torch.cuda if device.type == "cuda" else torch.cpu
        self.side = self.on.Stream(device)
        self.pairs = cycle([_Pair(self.on, self.side, (largest, rows.n_features), device) for _ in range(2)])
        self.thread = ThreadPoolExecutor(1, "eraflow-batches")
        self.coming: tuple[Array, Future[_Pair]] | None = None

    def widen(self, index_B: Array, sent_B: Tensor, next_B: Array | None, x_BF: Tensor) -> None:  # noqa: ARG002
        self.copy(index_B, next_B, x_BF)

    def copy(self, index_B: Array, next_B: Array | None, out_BF: Tensor) -> None:
        pair, here = self._expected(index_B) or self._fill(index_B), self.on.current_stream(self.device)
        if next_B is not None:
            self.coming = next_B, self.thread.submit(self._fill, next_B)
        here.wait_event(pair.copied)
        out_BF.copy_(pair.device_BF[: len(index_B)])
        pair.read.record(here)

    def _expected(self, index_B: Array) -> _Pair | None:
        """What was filled ahead, if that is what is asked for; in any case the thread is at rest then."""
        coming, self.coming = self.coming, None
        pair = None if coming is None else coming[1].result()
        return pair if coming is not None and np.array_equal(coming[0], index_B) else None

    def _fill(self, index_B: Array) -> _Pair:
        pair = next(self.pairs)
        pair.copied.synchronize()  # the host's buffer has left for the device
        self.rows.gather(index_B, pair.host_BF[: len(index_B)].numpy())
        with self.on.stream(self.side):
            self.side.wait_event(pair.read)  # the device's buffer has been widened
            pair.device_BF[: len(index_B)].copy_(pair.host_BF[: len(index_B)], non_blocking=True)
            pair.copied.record(self.side)
        return pair


class _Pair:
    def __init__(self, on: Any, side: Any, shape: tuple[int, int], device: torch.device) -> None:
        self.host_BF = torch.empty(shape, dtype=torch.int8, pin_memory=device.type == "cuda")
        with on.stream(side):
            self.device_BF = torch.empty(shape, dtype=torch.int8, device=device)
        if device.type == "cuda":  # read on this stream too, so torch must not give it to others before that is done
            self.device_BF.record_stream(on.current_stream(device))
        self.copied, self.read = on.Event(), on.Event()


def _sent(index_B: Array, device: torch.device) -> Tensor:
    """On the device; torch uses a pinned block again only after its copy, so that nobody has to wait for that."""
    found_B = torch.from_numpy(index_B)
    return found_B.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found_B.to(device)


WAYS: dict[Way, type[_Plain | _Resident | _Streamed]] = {
    "plain": _Plain,
    "resident": _Resident,
    "streamed": _Streamed,
}
