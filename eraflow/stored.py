"""The decoded form of one parquet file: a folder of memory-mapped arrays, and what tells that it is whole.

    <into>/<sha256[:16]>-<features[:8]>/
    ├── header.json    format version, source, names, shapes, lengths, checksums, and one of itself
    ├── codes.npy      int8    [N, F]  features, centred to −2..2, missing = 0
    ├── targets.npy    float32 [N, T]  from 0 to 1, missing = NaN
    ├── eras.npy       int32   [N]     era numbers, `ERA_LIVE` for X
    └── ids.npy        bytes   [N]     UTF-8, one width

`dataset.decode` makes such a folder, `open_stored` opens one in milliseconds and reads little of it. This module needs
numpy and torch alone, so that training runs where parquet cannot be read.

Damage on the disk: each opening checks the header, files of up to `WHOLE_BYTES` byte by byte and sampled blocks of
larger ones. A round opens what it will learn from once with `whole`, which reads every byte: gigabytes at the speed of
memory or of the disk, and training would read them next anyway. Other openings (a stage later, a study, a benchmark) do
without. Stores of an eraflow from before those checksums have only the samples.

Letters: N rows, F features, T targets.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eraflow.errors import InputError, StorageError
from eraflow.progress import Progress, silent

ERA_LIVE = -1
"""The code of era `X`."""

FORMAT = 1
HEADER = "header.json"
CODES, TARGETS, ERAS, IDS = FILES = ("codes.npy", "targets.npy", "eras.npy", "ids.npy")

HORIZON_UNKNOWN_DAYS = 60
SUM = "sum64"
SAMPLES = 32
SAMPLE_BYTES = 1 << 14
ROWS_AT_ONCE = 1 << 16
# What JSON and numpy raise on damaged bytes: numpy takes the head of an array for Python's text.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError,
              SyntaxError, TokenError)  # fmt: skip
WHOLE_BYTES = 32 << 20
READ_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class StoredDataset:
    """One decoded file. Its arrays are memory maps that are opened when first asked for and never pickled.

    The matrix may hold more features than were asked for, because a wider store of the same file serves a narrower
    request: `codes_NF` is always the whole stored matrix, and `columns()` says which of its columns to use.
    """

    folder: Path
    source: Path
    """The parquet file."""
    sha256: str
    """Of the parquet file's bytes."""
    features: tuple[str, ...]
    """The features asked for, in that order."""
    targets: tuple[str, ...]
    """The columns of `target_NT`: every target of the file."""
    rows: int
    stored_features: tuple[str, ...]
    """The columns of `codes_NF`."""
    data_types: Mapping[str, int]
    """Value of `data_type` -> first row that has it; empty where the file has no such column."""

    @cached_property
    def codes_NF(self) -> npt.NDArray[np.int8]:
        """Read-only map, int8, C order, −2..2 with missing = 0; F is `len(stored_features)`."""
        return self._map(CODES)

    @cached_property
    def codes_tensor_NF(self) -> torch.Tensor:
        """The same bytes as a torch tensor; what is written to it stays in this process and costs memory."""
        # torch warns of read-only memory. A private map is writable, shares the page cache and never reaches the disk.
        return torch.from_numpy(np.load(self.folder / CODES, mmap_mode="c"))

    @cached_property
    def target_NT(self) -> npt.NDArray[np.float32]:
        """Read-only map, float32, from 0 to 1, missing = NaN."""
        return self._map(TARGETS)

    @cached_property
    def era_N(self) -> npt.NDArray[np.int32]:
        """Read-only map, int32; `ERA_LIVE` for X."""
        return self._map(ERAS)

    @property
    def id_N(self) -> npt.NDArray[np.str_]:
        """The ids as text; made anew at each access, at four bytes a character."""
        return np.char.decode(self._map(IDS), "utf-8")

    def columns(self, features: Sequence[str] | None = None) -> npt.NDArray[np.int64] | None:
        """Where `features` (default: those asked for) stand in `codes_NF`: int64 [F], or None for all in order.

        Raises `InputError` for a feature that is not stored.
        """
        wanted = self.features if features is None else tuple(features)
        if wanted == self.stored_features:
            return None
        place = {name: column for column, name in enumerate(self.stored_features)}
        unknown = [name for name in wanted if name not in place]
        if unknown:
            raise InputError(
                f"features must be among the {len(place)} decoded from {self.source}, however {unknown[0]!r} is not;"
                " decode the file with it"
            )
        return np.array([place[name] for name in wanted], dtype=np.int64)

    def target_column(self, target: str) -> int:
        """Where `target` stands in `target_NT`. Raises `InputError` with the known names if it is not there."""
        if target not in self.targets:
            raise InputError(
                f"a target of {self.source} must be one of {', '.join(self.targets)}, however {target!r} was asked for"
            )
        return self.targets.index(target)

    def column(self, target: str) -> npt.NDArray[np.float32]:
        """One target, float32 [N], missing = NaN. Raises `InputError` if it is not there."""
        return np.ascontiguousarray(self.target_NT[:, self.target_column(target)])

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _map(self, name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self.folder / name, mmap_mode="r")
        return array


def open_stored(
    folder: Path, features: Sequence[str] | None = None, *, whole: bool = False, progress: Progress = silent
) -> StoredDataset:
    """The decoded file in `folder`, asked for `features` (default: all that are stored).

    The header, every file's length, type and shape, and sampled blocks are checked, with `whole` every byte, of
    which `progress` is told where it takes long. Raises `StorageError` if anything is not as it was written (then the
    folder may be deleted, and `decode` makes it again), `InputError` for a feature that is not stored.
    """
    try:
        header = json.loads((folder / HEADER).read_bytes())
        if (told := header.pop("crc32", None)) not in (None, _crc32_of(header)):
            raise _damaged(folder / HEADER, f"of crc32 {told}", f"{_crc32_of(header)}")
        found = StoredDataset(
            folder=folder,
            source=Path(header["source"]),
            sha256=header["sha256"],
            features=tuple(header["features"]),
            targets=tuple(header["targets"]),
            rows=header["rows"],
            stored_features=tuple(header["features"]),
            data_types=header["data_types"],
        )
        if header["format"] != FORMAT:
            raise _damaged(folder, f"format {FORMAT}", f"format {header['format']}")
        shapes = {CODES: [found.rows, len(found.features)], TARGETS: [found.rows, len(found.targets)]}
        for name in FILES:
            _require_same(
                folder, name, header["files"][name] | {"shape": shapes.get(name, [found.rows])}, whole, progress
            )
    except UNREADABLE as error:
        raise _damaged(folder, "readable", f"{type(error).__name__}: {error}") from error
    if features is None:
        return found
    found.columns(features)
    return replace(found, features=tuple(features))


def header_of(folder: Path, *, source: Path, sha256: str, features: Sequence[str], **more: Any) -> dict[str, Any]:
    """What `header.json` says of the arrays in `folder`, which must be written and flushed."""
    files = {name: _describe(folder / name, whole=True) for name in FILES}
    header = {
        "format": FORMAT,
        "source": str(source),
        "sha256": sha256,
        "features": list(features),
        "files": files,
        **more,
    }
    return header | {"crc32": _crc32_of(header)}


def matching_target(stored: StoredDataset, target: str = "target") -> str | None:
    """The other target column that equals `target` in every row (missing = missing), or None.

    Of several the one with the longest horizon, so that a purge is never too short. None as well where `target` is
    missing in every row: that equals anything. Raises `InputError` if there is no such target.
    """
    own = stored.target_column(target)
    alive_T = np.ones(len(stored.targets), dtype=bool)
    alive_T[own] = False
    labelled = False
    for first in range(0, stored.rows, ROWS_AT_ONCE):
        block_NT = stored.target_NT[first : first + ROWS_AT_ONCE]
        own_N1 = block_NT[:, own : own + 1]
        alive_T &= ((block_NT == own_N1) | (np.isnan(block_NT) & np.isnan(own_N1))).all(axis=0)
        labelled = labelled or not np.isnan(own_N1).all()
        if not alive_T.any():
            return None
    equal = [name for name, alive in zip(stored.targets, alive_T, strict=True) if alive]
    return max(equal, key=lambda name: suffix_days(name) or 0) if labelled else None


def horizon_days(stored: StoredDataset, target: str) -> int:
    """The days a target looks ahead: its suffix, else that of the column it equals, else 60 [days]."""
    return suffix_days(target) or suffix_days(matching_target(stored, target) or "") or HORIZON_UNKNOWN_DAYS


def suffix_days(target: str) -> int | None:
    """The horizon in a target's name [days], None where it says none.

    >>> suffix_days("target_ender_60"), suffix_days("target")
    (60, None)
    """
    suffix = target.rpartition("_")[2]
    return int(suffix) if suffix.isascii() and suffix.isdigit() and int(suffix) > 0 else None


def _require_same(folder: Path, name: str, written: Mapping[str, Any], whole: bool, progress: Progress) -> None:
    whole = whole or (folder / name).stat().st_size <= WHOLE_BYTES
    found = _describe(folder / name, whole, progress)
    for what, value in written.items():
        if what == SUM and not whole:
            continue
        if found.get(what) != value:
            raise _damaged(folder / name, f"of {what} {value}", f"{what} {found.get(what)}")


def _describe(path: Path, whole: bool = False, progress: Progress = silent) -> dict[str, Any]:
    array = np.load(path, mmap_mode="r")
    found = {
        "bytes": path.stat().st_size,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "order": "C" if array.flags.c_contiguous else "F",
        "samples_crc32": _samples_crc32(path),
    }
    return found | {SUM: _sum64(path, progress)} if whole else found


def _crc32_of(header: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())


def _sum64(path: Path, progress: Progress) -> int:
    """The sum of all 64-bit words modulo 2**64, the last one filled up with zeros: no flipped bit leaves it as it was.

    A cryptographic hash would take ten times as long, against nobody: whoever can write here can change the header too.
    """
    size, done, total = path.stat().st_size, 0, 0
    word_W = np.empty(min(size + 7, READ_BYTES) // 8, np.uint64)
    block = word_W.view(np.uint8).data
    # Read and not mapped, which would count as this process's memory.
    with path.open("rb") as file:
        while size_bytes := file.readinto(block):
            words = -(-size_bytes // 8)
            block[size_bytes : 8 * words] = bytes(8 * words - size_bytes)
            total += int(word_W[:words].sum())
            done += size_bytes
            if size > WHOLE_BYTES:
                progress("check", done, size, path.name)
    return total % (1 << 64)


def _samples_crc32(path: Path) -> int:
    """The checksum of blocks spread evenly over the file, first and last included; of all of it where it is small."""
    last = max(0, path.stat().st_size - SAMPLE_BYTES)
    checksum = 0
    with path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek(last * sample // (SAMPLES - 1))
            checksum = zlib.crc32(file.read(SAMPLE_BYTES), checksum)
    return checksum


def _damaged(path: Path, must: str, met: str) -> StorageError:
    return StorageError(
        f"the decoded data {path} must be {must}, however it is {met}; delete the folder, it is made again",
        code="damaged",
    )
