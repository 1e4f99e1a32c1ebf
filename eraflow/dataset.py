"""From a parquet file to torch: decode once, map ever after, serve rows and batches.

    read_features_json -> FeatureSets -> decode -> StoredDataset -> NumeraiDataset

`decode` turns a tournament file into a folder of memory maps (`stored` says what lies there), a block of columns at a
time. `NumeraiDataset` is the write-up's torch `Dataset` over it. The training loop does not use it: it gathers from
`StoredDataset.codes_NF` into its own buffers.

Letters: N rows, B rows of a batch, F features, T targets.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from eraflow.errors import DataError, InputError, StorageError
from eraflow.feature_sets import FeatureSets, read_features_json
from eraflow.progress import Progress, silent
from eraflow.stored import (
    CODES,
    ERA_LIVE,
    ERAS,
    FILES,
    HEADER,
    IDS,
    TARGETS,
    StoredDataset,
    header_of,
    horizon_days,
    matching_target,
    open_stored,
)

if TYPE_CHECKING:
    from eraflow.columns import Block, Kind
    from eraflow.parquet import ParquetSource

logger = logging.getLogger("eraflow")

__all__ = [
    "ERA_LIVE",
    "FeatureSets",
    "NumeraiDataset",
    "StoredDataset",
    "decode",
    "horizon_days",
    "matching_target",
    "open_stored",
    "read_features_json",
    "targets_of",
]

Sample = tuple[torch.Tensor, torch.Tensor, int]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Rows = Sequence[int] | torch.Tensor | npt.NDArray[Any]


def decode(
    parquet: Path,
    *,
    into: Path,
    sha256: str,
    features: Sequence[str],
    kind: Kind | None = None,
    whole: bool = False,
    progress: Progress = silent,
) -> StoredDataset:
    """The decoded form of the file `parquet` of that sha256, with at least those features, in a folder of `into`.

    Made once for each content and feature list; a store of the same content with more features serves too, one that
    is damaged is made again; with `whole` every byte of one that was there is read to find that. Of two processes that
    ask at once, one decodes and the other waits. Memory use is bounded by a block of columns of one row group. With
    `kind` the eras must fit: a live file is of era X alone.

    Raises `DataError` for what the tournament does not document (`parquet` and `columns` say what), `StorageError`
    if there is no room, `InputError` if no feature is asked for or one twice.
    """
    # Imported here: they need pyarrow and filelock, which a machine that only trains may lack.
    from eraflow.columns import Eras, check_kind
    from eraflow.store import exclusive

    wanted = tuple(features)
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"features to decode must be at least one and none twice, however {len(wanted)} were given")
    with exclusive(into / sha256[:16]):
        found = _find(into, sha256, wanted, whole, progress) or _build(parquet, into, sha256, wanted, kind, progress)
    if kind is not None:
        check_kind(parquet, Eras(era_N=found.era_N, data_types=dict(found.data_types)), kind)
    return replace(found, source=parquet, features=wanted)


def targets_of(parquet: Path, *, into: Path, sha256: str) -> tuple[str, ...]:
    """The target columns of the file `parquet` of that sha256, from its decoded form in `into` if there is one.

    That is first, because no checksum is over the names in a parquet file. Raises `DataError` if it must be read and
    is not whole.
    """
    from eraflow.parquet import ParquetSource

    if (found := _find(into, sha256, ())) is not None:
        return found.targets
    with ParquetSource(parquet) as source:
        return tuple(name for name in source.names if name.startswith("target"))


class NumeraiDataset(Dataset[Sample]):
    """Rows of a decoded file as the write-up's triple: features from 0 to 1, targets, era.

    A row is (float32 [F], float32 [T], int); a batch, from `__getitems__` or from indexing with a list, an array or
    a 1-d tensor, is (float32 [B, F], float32 [B, T], int64 [B]). T is kept when it is 1. A missing feature is 0.5,
    a missing target NaN, era X is `ERA_LIVE`.

    A plain `DataLoader(dataset, batch_size=2048)` works and takes rows one by one; whole batches, several times
    faster, come from torch's batch sampler with automatic batching off:

        DataLoader(dataset, batch_size=None, sampler=BatchSampler(RandomSampler(dataset), 2048, drop_last=False))

    Workers open the memory maps themselves: pickling carries names and row numbers, never the matrix.
    """

    def __init__(
        self,
        stored: StoredDataset,
        *,
        features: Sequence[str] | None = None,
        targets: Sequence[str] = ("target",),
        rows: Rows | None = None,
        labelled_only: bool = True,
    ) -> None:
        """`features` default to those of `stored`; `rows` selects by number (in that order) or by a mask of N.

        With `labelled_only`, rows that miss any of `targets` are left out. Raises `InputError` for a feature or
        target that is not stored, or a row that is not there.
        """
        self.stored = stored
        self.features = stored.features if features is None else tuple(features)
        self.targets = tuple(targets)
        column_F = stored.columns(self.features)
        self._column_F = None if column_F is None else torch.from_numpy(column_F)
        self._column_T = [stored.target_column(name) for name in self.targets]
        row_N = _row_numbers(stored, rows)
        if labelled_only:
            missing_NT = np.isnan(stored.target_NT[:, self._column_T])
            row_N = row_N[~np.any(missing_NT, axis=1)[row_N]]
        self.row_N: npt.NDArray[np.int64] = row_N
        """The stored row behind each item, int64."""

    def __len__(self) -> int:
        return len(self.row_N)

    def __getitem__(self, index: Any) -> Any:
        """The triple of one row (an int or 0-d tensor), or of a batch (anything one-dimensional).

        Negative numbers count from the end; raises `IndexError` beyond, as a list does.
        """
        if np.ndim(index) > 0:
            return self.batch(index)
        x_BF, y_BT, era_B = self.batch([int(index)])
        return x_BF[0], y_BT[0], int(era_B[0])

    @property
    def __getitems__(self) -> _Batches:
        """Called with a list or a 1-d tensor of indices: the triple of a batch."""
        return _Batches(self)

    def batch(self, indices: Rows) -> Batch:
        """Features float32 [B, F] from 0 to 1, targets float32 [B, T], eras int64 [B].

        Raises `IndexError` for an index beyond either end.
        """
        row_B = self.row_N[_positions(indices, len(self))]
        code_BF = self.stored.codes_tensor_NF.index_select(0, torch.from_numpy(row_B))
        if self._column_F is not None:
            code_BF = code_BF.index_select(1, self._column_F)
        x_BF = code_BF.to(torch.float32).mul_(0.25).add_(0.5)
        y_BT = torch.from_numpy(self.stored.target_NT[row_B][:, self._column_T])
        return x_BF, y_BT, torch.from_numpy(self.stored.era_N[row_B].astype(np.int64))


class _Batches:
    """What `dataset.__getitems__` is: a call that gives a batch, and that torch's loader does not take.

    The loader stacks what `__getitems__` returns as a list of single rows, which a batch is not; but it asks for the
    attribute's truth first, so that a plain `DataLoader` goes on to take rows one by one.
    """

    def __init__(self, dataset: NumeraiDataset) -> None:
        self._dataset = dataset

    def __call__(self, indices: Rows) -> Batch:
        return self._dataset.batch(indices)

    def __bool__(self) -> bool:
        return False


def _row_numbers(stored: StoredDataset, rows: Rows | None) -> npt.NDArray[np.int64]:
    if rows is None:
        return np.arange(stored.rows, dtype=np.int64)
    given = np.asarray(rows)
    if given.dtype == np.bool_ and given.shape == (stored.rows,):
        return np.flatnonzero(given)
    try:
        return _positions(given, stored.rows)
    except (IndexError, TypeError) as error:
        raise InputError(
            f"rows must be numbers of the {stored.rows} rows or a mask of them, however: {error}"
        ) from error


def _positions(indices: Rows, length: int) -> npt.NDArray[np.int64]:
    given = np.asarray(indices)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"indices must be whole numbers, however they are {given.dtype}")
    index_B = given.astype(np.int64).reshape(-1)
    wrong_B = (index_B < -length) | (index_B >= length)
    if wrong_B.any():
        raise IndexError(f"index {index_B[wrong_B][0]} is out of range for {length} rows")
    return np.where(index_B < 0, index_B + length, index_B)


def _find(
    into: Path, sha256: str, wanted: tuple[str, ...], whole: bool = False, progress: Progress = silent
) -> StoredDataset | None:
    """The narrowest whole store of this content that has all that is wanted."""
    found: list[StoredDataset] = []
    for folder in sorted(into.glob(f"{sha256[:16]}-*")):
        stored = _opened(folder, told=bool(wanted))
        if stored is None:
            continue
        if stored.sha256 == sha256 and set(wanted) <= set(stored.features):
            found.append(stored)
    found.sort(key=lambda stored: (stored.features != wanted, len(stored.features)))
    return next(
        (stored for stored in found if not whole or _opened(stored.folder, whole=True, progress=progress)), None
    )


def _opened(
    folder: Path, *, whole: bool = False, told: bool = True, progress: Progress = silent
) -> StoredDataset | None:
    try:
        return open_stored(folder, whole=whole, progress=progress)
    except StorageError as error:
        # Made again when its own features are asked for.
        if told:
            what, _, _ = error.message.partition(";")  # whoever decodes need not delete it
            logger.warning("%s; it is not used, and is made again", what)
        return None


def _build(
    parquet: Path, into: Path, sha256: str, features: tuple[str, ...], kind: Kind | None, progress: Progress
) -> StoredDataset:
    from eraflow.columns import check_kind, read_eras, read_ids
    from eraflow.parquet import ParquetSource, check_layout
    from eraflow.store import replacing_folder, require_room, sha256_of, write_json

    names_sha256 = hashlib.sha256("\n".join(features).encode()).hexdigest()
    folder = into / f"{sha256[:16]}-{names_sha256[:8]}"
    with ParquetSource(parquet) as source:
        targets = check_layout(source, features)
        eras = read_eras(source)
        if kind is not None:
            check_kind(parquet, eras, kind)
        id_N = read_ids(source)
        header_bytes = 4096 + sum(len(name.encode()) + 16 for name in (*features, *targets))
        needed_bytes = source.rows * (len(features) + 4 * len(targets) + 4 + id_N.itemsize) + header_bytes
        require_room(into, needed_bytes, f"decoding {parquet.name}")
        with replacing_folder(folder) as partial:
            np.save(partial / ERAS, eras.era_N)
            np.save(partial / IDS, id_N)
            _write_matrices(source, partial, features, targets, progress)
            with ThreadPoolExecutor(max_workers=1) as beside:
                found = beside.submit(sha256_of, parquet)  # while the disk takes what was written
                for name in FILES:
                    _sync(partial / name)
            if found.result() != sha256:  # another run may have put a newer file there meanwhile
                raise StorageError(f"{parquet} must not change while it is decoded, however it did; run this again")
            more = {"targets": list(targets), "rows": source.rows, "data_types": eras.data_types}
            header = header_of(partial, source=parquet, sha256=sha256, features=features, **more)
            write_json(partial / HEADER, header)
    return open_stored(folder)


def _write_matrices(
    source: ParquetSource, folder: Path, features: Sequence[str], targets: Sequence[str], progress: Progress
) -> None:
    from eraflow.columns import feature_blocks, target_blocks
    from eraflow.parquet import REFETCH

    total, done, varies = source.rows * (len(features) + len(targets)), 0, False
    files: list[tuple[str, Sequence[str], type, Iterator[Block]]] = [
        (CODES, features, np.int8, feature_blocks(source, features)),
        (TARGETS, targets, np.float32, target_blocks(source, targets)),
    ]
    for name, columns, dtype, blocks in files:
        matrix = _allocated(folder / name, dtype, (source.rows, len(columns)))
        tensor = torch.from_numpy(matrix)
        for rows, places, block in blocks:
            tensor[rows, places].copy_(torch.from_numpy(block).T)  # 4.7 times as fast as numpy's transposition
            done += block.size
            varies = varies or bool(block.any())
            progress("decode", done, total, source.path.name)
        if name == CODES and not varies:
            raise DataError(
                f"{source.path}: features must hold values, however all are missing, or 2, in every row; {REFETCH}"
            )


def _allocated(path: Path, dtype: type, shape: tuple[int, int]) -> np.memmap[Any, Any]:
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # A hole in a mapped file that finds the disk full kills the process; this fails with an error instead.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return matrix


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
