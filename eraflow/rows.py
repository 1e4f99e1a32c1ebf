"""Rows of one or several stored matrices under one numbering, and the order in which training sees them.

Nothing is copied but the batch (`batches`): refitting on train and validation takes rows from both memory maps.

Shape letters: N rows of a matrix, M rows chosen, F features, B batch, X extra targets.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eraflow.errors import InputError

if TYPE_CHECKING:
    from eraflow.training import TrainingConfig

# Fewer rows than this at a time are not worth a slice of their own.
ROWS_A_RUN = 64

# Blocks of rows that are mixed with each other at a time where blocks are shuffled.
BLOCKS_MIXED = 16

# An "epoch" of a recipe that counts steps: how often it is validated and a checkpoint written.
STEPS_AN_EPOCH = 50

Array = npt.NDArray[Any]


class Rows:
    """Chosen rows of matrices: codes int8, `target_M` float32 (NaN = missing), `era_M` int32.

    `extra_MX` float32 (NaN = missing) holds what a network learns beside the target; X is 0 where it learns no more.
    Make it with `Rows.of` and `Rows.joined`; choose from it with `labelled`, `by_era` and `take`.
    """

    def __init__(self, matrices: Sequence[tuple[Array, Array | None]], matrix_M: Array, row_M: Array) -> None:
        self._matrices = list(matrices)
        self._matrix_M, self._row_M = matrix_M, row_M
        self.target_M: npt.NDArray[np.float32] = np.empty(0, np.float32)
        self.era_M: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self.extra_MX: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)

    @classmethod
    def of(
        cls,
        codes_NF: Array,
        target_N: Array | None,
        era_N: Array,
        *,
        rows: Array | None = None,
        columns: Array | None = None,
        extra_NX: Array | None = None,
    ) -> Self:
        """`rows` (all by default) and `columns` (all by default, in this order) of one matrix.

        `target_N` None means that no row has a target, `extra_NX` None that there are no extra targets. Raises
        `InputError` for unequal lengths.
        """
        if len(codes_NF) != len(era_N) or (target_N is not None and len(target_N) != len(era_N)):
            raise InputError(
                f"codes, target and era must have one length, however {len(codes_NF)} and {len(era_N)} met"
            )
        if extra_NX is not None and len(extra_NX) != len(era_N):
            raise InputError(
                f"extra targets must have a value a row, however {len(extra_NX)} were given for {len(era_N)} rows"
            )
        row_M = np.arange(len(codes_NF)) if rows is None else np.asarray(rows, np.int64)
        if columns is not None and np.array_equal(columns, np.arange(codes_NF.shape[1])):
            columns = None
        made = cls([(np.asarray(codes_NF), columns)], np.zeros(len(row_M), np.int8), row_M)
        missing_M = np.full(len(row_M), np.nan, np.float32)
        made.target_M = missing_M if target_N is None else np.asarray(target_N)[row_M].astype(np.float32, copy=False)
        made.era_M = np.asarray(era_N)[row_M].astype(np.int32, copy=False)
        extra_NX = np.empty((len(era_N), 0), np.float32) if extra_NX is None else np.asarray(extra_NX)
        made.extra_MX = extra_NX[row_M].astype(np.float32, copy=False)
        return made

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of `parts`, one after the other. Raises `InputError` if they differ in features or extra targets."""
        if len({part.n_features for part in parts}) != 1:
            raise InputError(
                f"all parts must have the same features, however they have {[p.n_features for p in parts]}"
            )
        if len({part.n_targets for part in parts}) != 1:
            raise InputError(
                f"all parts must have the same extra targets, however they have {[p.n_targets - 1 for p in parts]}"
            )
        offsets = np.cumsum([0, *(len(part._matrices) for part in parts[:-1])])
        matrix_M = np.concatenate([p._matrix_M + np.int8(o) for p, o in zip(parts, offsets, strict=True)])
        made = cls([m for p in parts for m in p._matrices], matrix_M, np.concatenate([p._row_M for p in parts]))
        made.target_M = np.concatenate([part.target_M for part in parts])
        made.era_M = np.concatenate([part.era_M for part in parts])
        made.extra_MX = np.concatenate([part.extra_MX for part in parts])
        return made

    def __len__(self) -> int:
        return len(self._row_M)

    @property
    def n_features(self) -> int:
        codes_NF, columns = self._matrices[0]
        return int(codes_NF.shape[1]) if columns is None else len(columns)

    @property
    def n_targets(self) -> int:
        """The target and the extra ones."""
        return 1 + int(self.extra_MX.shape[1])

    @property
    def targets(self) -> npt.NDArray[np.float32]:
        """What a network learns of these rows: `[M]`, or `[M, T]` with extra targets, the target first."""
        return self.target_M if self.n_targets == 1 else np.column_stack([self.target_M, self.extra_MX])

    def take(self, chosen: Array) -> Self:
        """The rows at the positions `chosen`, in that order."""
        made = copy.copy(self)
        for name in ("_matrix_M", "_row_M", "target_M", "era_M", "extra_MX"):
            setattr(made, name, getattr(self, name)[chosen])
        return made

    def labelled(self) -> Self:
        """The rows that have a target."""
        known_M = ~np.isnan(self.target_M)
        return self if known_M.all() else self.take(np.flatnonzero(known_M))

    def by_era(self) -> Self:
        """The rows in order of their eras, each era in one piece."""
        ordered = bool((self.era_M[1:] >= self.era_M[:-1]).all())
        return self if ordered else self.take(np.argsort(self.era_M, kind="stable"))

    def gather(self, index_B: Array, out_BF: npt.NDArray[np.int8]) -> None:
        """Write the codes of the rows at `index_B` to `out_BF` int8 `[B, F]`."""
        if len(self._matrices) == 1:
            self._gather(0, self._row_M[index_B], out_BF)
            return
        matrix_B, row_B = self._matrix_M[index_B], self._row_M[index_B]
        for i in np.unique(matrix_B):
            here = np.flatnonzero(matrix_B == i)
            if len(here) == len(index_B):
                self._gather(i, row_B, out_BF)
            else:
                part = np.empty((len(here), out_BF.shape[1]), np.int8)
                self._gather(i, row_B[here], part)
                out_BF[here] = part

    def runs(self, index_B: Array) -> list[tuple[int, slice]] | None:
        """The rows at `index_B` as few slices of whole matrices (by number), or None if that is not what they are."""
        row_B, matrix_B = self._row_M[index_B], self._matrix_M[index_B]
        last_B = np.flatnonzero((row_B[1:] != row_B[:-1] + 1) | (matrix_B[1:] != matrix_B[:-1]))
        if len(last_B) > len(index_B) // ROWS_A_RUN or any(columns is not None for _, columns in self._matrices):
            return None
        bounds = pairwise([0, *(last_B + 1).tolist(), len(index_B)])
        return [(int(matrix_B[a]), slice(int(row_B[a]), int(row_B[a]) + b - a)) for a, b in bounds]

    def spans(self, index_B: Array, gap_bytes: int) -> list[tuple[int, int, int]]:
        """The stretches in which the rows at `index_B` lie in their matrices: matrix by number, first row, end.

        In order of the rows, each once; what lies between two rows belongs to a stretch if it is up to `gap_bytes`.
        """
        matrix_B, row_B = self._matrix_M[index_B], self._row_M[index_B]
        found: list[tuple[int, int, int]] = []
        for matrix in np.unique(matrix_B).tolist():
            row = np.sort(row_B[matrix_B == matrix])
            last = np.flatnonzero(np.diff(row) > 1 + gap_bytes // self.matrices[matrix].strides[0])
            first, end = row[np.append(0, last + 1)], row[np.append(last, -1)] + 1
            found += [(matrix, a, b) for a, b in zip(first.tolist(), end.tolist(), strict=True)]
        return found

    @property
    def matrices(self) -> list[Array]:
        """The whole matrices, by number."""
        return [codes_NF for codes_NF, _ in self._matrices]

    def tensors(self) -> list[Tensor]:
        """The whole matrices as tensors that share their memory, by number; they must not be written to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return [torch.from_numpy(codes_NF) for codes_NF in self.matrices]

    def digest(self) -> str:
        """A hash of which rows with which targets these are; the codes are known by their file's hash."""
        found = hashlib.blake2b(digest_size=16)
        for codes_NF, columns in self._matrices:
            found.update(repr((codes_NF.shape, None if columns is None else columns.tolist())).encode())
        for array in (self._matrix_M, self._row_M, self.target_M, self.era_M):
            found.update(np.ascontiguousarray(array).data)
        if self.n_targets > 1:
            found.update(repr(self.extra_MX.shape).encode() + np.ascontiguousarray(self.extra_MX).tobytes())
        return found.hexdigest()

    def _gather(self, matrix: int, row_B: Array, out_BF: npt.NDArray[np.int8]) -> None:
        codes_NF, columns = self._matrices[matrix]
        # mode="clip" writes into `out` directly; the default goes through a copy. The rows are known to exist.
        if columns is None:
            np.take(codes_NF, row_B, axis=0, out=out_BF, mode="clip")
        else:
            np.take(np.take(codes_NF, row_B, axis=0), columns, axis=1, out=out_BF, mode="clip")


class Plan:
    """Which rows each step sees: a function of the configuration's seed and the step's number alone."""

    def __init__(self, rows: Rows, training: TrainingConfig, steps: int | None) -> None:
        self.seed, self.shuffle, self.block = training.seed, training.shuffle, training.shuffle_block_rows
        self.bound: list[int] | None = None
        if training.eras_per_step is not None:
            sizes = np.unique(rows.era_M, return_counts=True)[1]
            self.bound = [0, *accumulate(sizes.tolist())]
            self.units, self.a_step = len(sizes), min(training.eras_per_step, len(sizes))
            self.largest, self.smallest = int(np.sort(sizes)[-self.a_step :].sum()), int(sizes.min())
        else:
            self.units, self.a_step = len(rows), min(training.batch_size or 1, len(rows))
            left = 0 if training.drop_last else self.units % self.a_step
            self.largest, self.smallest = self.a_step, left or self.a_step
        self.steps_a_pass = self.units // self.a_step if training.drop_last else -(-self.units // self.a_step)
        self.steps = steps or training.steps or self.steps_a_pass * (training.epochs or 1)
        self.steps_an_epoch = STEPS_AN_EPOCH if training.epochs is None else self.steps_a_pass
        self.rows_an_epoch = len(rows) * min(self.steps, self.steps_an_epoch) // self.steps_a_pass
        self._pass, self._order, self._pools = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    @property
    def shuffles_rows(self) -> bool:
        """Whether a step's rows lie anywhere, each by itself."""
        return self.shuffle and self.block is None and self.bound is None

    def batch(self, step: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Positions of the rows of one step, and how many of them belong to each era in turn."""
        begin, end = self._begin_pass(step)
        unit_U = self._order[begin:end]
        if self.bound is None:
            return unit_U, [len(unit_U)]
        pieces = [np.arange(self.bound[unit], self.bound[unit + 1]) for unit in unit_U.tolist()]
        return np.concatenate(pieces), [len(piece) for piece in pieces]

    def reads(self, step: int, *, resumed: bool) -> npt.NDArray[np.int64]:
        """Positions of the rows to be read from the disk for `step` that were not for the steps before in its pass.

        Where blocks are shuffled these are all that are mixed with its rows, so that whole blocks are read; a run that
        is `resumed` at `step` has read none of them.
        """
        begin, end = self._begin_pass(step)
        if self.block is None:
            return self.batch(step)[0]
        first = np.searchsorted(self._pools, begin, "right") - 1 if resumed else np.searchsorted(self._pools, begin)
        return self._order[self._pools[first] : self._pools[np.searchsorted(self._pools, end)]]

    def ends_epoch(self, step: int) -> bool:
        return (step + 1) % self.steps_an_epoch == 0 or step + 1 == self.steps

    def _begin_pass(self, step: int) -> tuple[int, int]:
        """Make the order of the pass that `step` belongs to; where the step's units begin and end in it."""
        number, place = divmod(step, self.steps_a_pass)
        if self._pass != number:
            self._pass, rng = number, np.random.default_rng([self.seed, number])
            if not self.shuffle:
                self._order = np.arange(self.units)
            elif self.block is None:
                self._order = rng.permutation(self.units)
            else:
                self._order, self._pools = _shuffled_blocks(self.units, self.block, rng)
        return place * self.a_step, min((place + 1) * self.a_step, self.units)


def _shuffled_blocks(
    units: int, block: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All units in blocks of random order, `BLOCKS_MIXED` at a time mixed one by one, and the bounds of the mixed."""
    block = min(block, units)
    first = rng.permutation(-(-units // block)) * block
    order = (first[:, None] + np.arange(block)).ravel()
    order = order[order < units]  # the last block may be smaller
    bounds = np.append(0, np.minimum(block, units - first).cumsum())
    pools = np.append(bounds[:-1:BLOCKS_MIXED], units)
    for begin, end in pairwise(pools.tolist()):
        rng.shuffle(order[begin:end])
    return order, pools
