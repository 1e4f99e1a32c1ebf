"""What the columns of a tournament file hold, as plain arrays: ids, eras, features, targets.

`read_ids` and `read_eras` give whole columns; `feature_blocks` and `target_blocks` a block of columns of one row group
at a time, so that no file is ever whole in memory. What the tournament does not document is a `DataError` that names
the file, the column and the first row (counted from 0). Nothing is written here; `dataset` stores the blocks.

Letters: N rows; a block stands on its side (columns first), as parquet stores it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eraflow.errors import DataError
from eraflow.parquet import REFETCH, ParquetSource, batches, width_bytes
from eraflow.stored import ERA_LIVE

Kind = Literal["train", "validation", "live"]
Block = tuple[slice, slice, npt.NDArray[Any]]

# A block is written as short pieces of many rows: 64 columns cost 1.4 ns a value, 256 cost 0.7, 512 cost 0.6.
LEAST_BLOCK_BYTES, MOST_BLOCK_BYTES = 1 << 24, 1 << 28

MISSING = 2  # the tournament's own "missing" and the middle of 0..4; 0 once centred
NOT_V5 = "eraflow reads the tournament's v5 files: whole numbers from 0 to 4"


@dataclass(frozen=True, kw_only=True)
class Eras:
    """The eras of a file, and the values of its column `data_type`."""

    era_N: npt.NDArray[np.int32]
    data_types: dict[str, int]
    """Value -> the first row that has it; empty where there is no such column."""


def read_ids(source: ParquetSource) -> npt.NDArray[np.bytes_]:
    """The ids as UTF-8 bytes of one width, dtype `S<width>`, shape [N].

    Raises `DataError` on an id that is missing, empty, not text, or there twice.
    """
    column = _as_text(source, "id", numbers=False)
    sizes = pc.binary_length(column)
    if pc.min(sizes).as_py() == 0:
        row = pc.index(sizes, pa.scalar(0, sizes.type)).as_py()
        raise DataError(f"{source.path}: column 'id' must not be empty, however row {row} is; {REFETCH}")
    width = pc.max(sizes).as_py()
    parts = [_fixed_width(chunk, width) for chunk in column.chunks if len(chunk)]
    id_N = np.concatenate(parts)
    twice = _first_repeated(id_N)
    if twice is not None:
        first, row = twice
        raise DataError(
            f"{source.path}: ids must differ, however row {row} has {id_N[row].decode()!r} of row {first} again;"
            f" {REFETCH}"
        )
    return id_N


def read_eras(source: ParquetSource) -> Eras:
    """The era of each row as int32 [N], `X` as `ERA_LIVE`, and the data types.

    Padded and unpadded labels of one number are the same era. Raises `DataError` on a label that is missing or not
    a number, and on an era whose rows do not stand together.
    """
    encoded = _as_text(source, "era", numbers=True).combine_chunks().dictionary_encode()
    code_N = _numbers(encoded.indices)
    numbers = []
    for code, label in enumerate(encoded.dictionary.to_pylist()):
        number = _era_number(label)
        if number is None:
            row = int(np.argmax(code_N == code))
            raise DataError(
                f"{source.path}: column 'era' must hold numbers or 'X', however row {row} has {label!r};"
                " eraflow reads the tournament's v5 files"
            )
        numbers.append(number)
    era_N = np.array(numbers, dtype=np.int32)[code_N]
    starts = np.concatenate(([0], np.flatnonzero(np.diff(era_N)) + 1))
    seen: set[int] = set()
    for row in starts:
        if int(era_N[row]) in seen:
            raise DataError(
                f"{source.path}: the rows of an era must stand together, however column 'era' comes back to era"
                f" {era_N[row]} in row {row} after era {era_N[row - 1]}; {REFETCH}"
            )
        seen.add(int(era_N[row]))
    return Eras(era_N=era_N, data_types=_first_rows(source, "data_type"))


def check_kind(path: Path, eras: Eras, kind: Kind) -> None:
    """Raises `DataError` unless a live file is of era X alone and a training or validation file has none of it."""
    wrong_N = (eras.era_N == ERA_LIVE) != (kind == "live")
    if wrong_N.any():
        row = int(np.argmax(wrong_N))
        met = "X" if eras.era_N[row] == ERA_LIVE else eras.era_N[row]
        must = "must be X in every row of a live file" if kind == "live" else f"must not be X in a {kind} file"
        raise DataError(f"{path}: column 'era' {must}, however row {row} has {met}; {REFETCH}")
    others = {label: row for label, row in eras.data_types.items() if label != "live"}
    if kind == "live" and others:
        label, row = min(others.items(), key=lambda item: item[1])
        raise DataError(
            f"{path}: column 'data_type' must be 'live' in every row of a live file, however row {row} has"
            f" {label!r}; {REFETCH}"
        )


def feature_blocks(source: ParquetSource, features: Sequence[str]) -> Iterator[Block]:
    """(rows, columns, block) until all are given: int8 [columns, rows], centred to −2..2, missing = 0.

    A block holds until the next one is asked for. Raises `DataError` on a value that is not a whole number from 0 to
    4, infinite ones included.
    """
    return _blocks(source, features, np.int8, _centred)


def target_blocks(source: ParquetSource, targets: Sequence[str]) -> Iterator[Block]:
    """(rows, columns, block) until all are given: float32 [columns, rows], from 0 to 1, missing = NaN.

    A block holds until the next one is asked for. Raises `DataError` on a value outside.
    """
    return _blocks(source, targets, np.float32, _target)


# Fills `out` from one chunk; returns the values as read and, where some are refused, which.
Convert = Callable[[Any, npt.NDArray[Any]], tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]]


def _blocks(source: ParquetSource, names: Sequence[str], dtype: type, convert: Convert) -> Iterator[Block]:
    """Blocks as wide as memory allows, each filled by several reads; all lie in one buffer."""
    kinds = dict(source.types)
    widest_bytes = max(width_bytes(kinds[name]) for name in names)
    buffer: npt.NDArray[Any] = np.empty(_buffer_values(source, len(names), np.dtype(dtype).itemsize), dtype)
    blocks = list(_cut(source.group_rows, len(names), len(buffer)))
    parts = (
        (group, part)
        for group, rows, places in blocks
        for part in batches(names[places], rows.stop - rows.start, widest_bytes)
    )
    with closing(_read_ahead(source, parts)) as columns:
        for _, rows, places in blocks:
            wide = names[places]
            block = buffer[: len(wide) * (rows.stop - rows.start)].reshape(len(wide), -1)
            for name, out, column in zip(wide, block, columns, strict=False):  # takes no column too many
                _fill(source, name, rows.start, column, out, convert)
            yield rows, places, block


def _cut(group_rows: Sequence[int], columns: int, values: int) -> Iterator[tuple[int, slice, slice]]:
    """(row group, rows, columns) of each block of at most so many values."""
    start = 0
    for group, rows in enumerate(group_rows):
        for first in range(0, columns, values // rows) if rows else ():
            yield group, slice(start, start + rows), slice(first, min(columns, first + values // rows))
        start += rows


def _read_ahead(source: ParquetSource, parts: Iterable[tuple[int, list[str]]]) -> Generator[Any]:
    """The columns of all parts, one by one; while those of one part are worked on, the next part is read."""
    with ThreadPoolExecutor(max_workers=1) as ahead:
        reads: deque[tuple[list[str], Future[Any]]] = deque()
        for group, part in parts:
            reads.append((part, ahead.submit(source.read, group, part)))
            if len(reads) > 1:
                yield from _in_order(*reads.popleft())
        while reads:
            yield from _in_order(*reads.popleft())


def _in_order(names: list[str], read: Future[Any]) -> Iterator[Any]:
    table = read.result()
    return (table[name] for name in names)


def _buffer_values(source: ParquetSource, columns: int, item_bytes: int) -> int:
    """How many values a block may have: a twelfth of the matrix within bounds, at least one column, at most all."""
    most_rows, matrix_bytes = max(source.group_rows), source.rows * columns * item_bytes
    wanted_bytes = min(MOST_BLOCK_BYTES, max(LEAST_BLOCK_BYTES, matrix_bytes // 12))
    return min(most_rows * columns, max(most_rows, wanted_bytes // item_bytes))


def _fill(source: ParquetSource, name: str, start: int, column: Any, out: npt.NDArray[Any], convert: Convert) -> None:
    done = 0
    for chunk in filter(len, column.chunks):
        coded = pa.types.is_dictionary(chunk.type)
        kind = chunk.type.value_type if coded else chunk.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise DataError(
                f"{source.path}: column {name!r} must hold numbers, however row {start + done} has"
                f" {str(chunk[0].as_py())[:40]!r} of type {kind}; {NOT_V5}"
            )
        values, wrong = convert(chunk.dictionary_decode() if coded else chunk, out[done : done + len(chunk)])
        if wrong is not None:
            place = int(np.argmax(wrong))
            raise _wrong_value(source.path, name, start + done + place, values[place].item(), convert)
        done += len(chunk)


def _centred(chunk: Any, out: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    if pa.types.is_null(chunk.type):
        values = np.full(len(chunk), MISSING, np.int8)
    elif pa.types.is_integer(chunk.type):
        values = _numbers(chunk.fill_null(MISSING) if chunk.null_count else chunk)
    else:
        values = _numbers(chunk.fill_null(np.nan) if chunk.null_count else chunk)
        values = np.where(np.isnan(values), values.dtype.type(MISSING), values)
    fits = values.min() >= 0 and values.max() <= 4 and (values.dtype.kind != "f" or np.array_equal(values, values // 1))
    if not fits:
        return values, ~((values >= 0) & (values <= 4) & (values == np.floor(values)))
    np.subtract(values, MISSING, out=out, casting="unsafe", dtype=None if values.dtype.kind == "f" else np.int8)
    return values, None


def _target(chunk: Any, out: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    if pa.types.is_null(chunk.type):
        out[:] = np.nan
        return out, None
    if pa.types.is_integer(chunk.type):
        chunk = chunk.cast(pa.float64(), safe=False)
    values = _numbers(chunk.fill_null(np.nan) if chunk.null_count else chunk)
    wrong = (values < 0) | (values > 1)
    if wrong.any():
        return values, wrong
    out[:] = values
    return values, None


def _numbers(chunk: Any) -> npt.NDArray[Any]:
    """A chunk without nulls, where it lies. `to_numpy` would import pandas, as filling nulls does: 0.2 s and 40 MB."""
    return np.from_dlpack(chunk)


def _wrong_value(path: Path, name: str, row: int, value: float, convert: Convert) -> DataError:
    if convert is _target:
        return DataError(
            f"{path}: column {name!r} must be from 0 to 1 or missing, however row {row} has {value!r}; {REFETCH}"
        )
    old = " (features of 0, 0.25, .. 1 are of an older version)" if 0 < value < 1 else ""
    return DataError(
        f"{path}: column {name!r} must be 0, 1, 2, 3, 4 or missing, however row {row} has {value!r}{old}; {NOT_V5}"
    )


def _as_text(source: ParquetSource, name: str, *, numbers: bool) -> Any:
    column = source.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if column.null_count:
        row = pc.index(column.is_null(), pa.scalar(True)).as_py()
        raise DataError(f"{source.path}: column {name!r} must not be missing, however row {row} is; {REFETCH}")
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    if not text and not (numbers and pa.types.is_integer(kind)):
        raise DataError(
            f"{source.path}: column {name!r} must hold text, however row 0 has {column[0].as_py()!r} of type {kind};"
            f" {REFETCH}"
        )
    return column.cast(pa.large_string())


def _first_rows(source: ParquetSource, name: str) -> dict[str, int]:
    if name not in source.names:
        return {}
    column = source.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    except pa.ArrowNotImplementedError as error:  # lists and structs
        raise DataError(
            f"{source.path}: column {name!r} must hold text, however it is of type {column.type}; {REFETCH}"
        ) from error
    code_N = _numbers(encoded.indices)
    return {str(label): int(np.argmax(code_N == code)) for code, label in enumerate(encoded.dictionary.to_pylist())}


def _era_number(label: str) -> int | None:
    if label == "X":
        return ERA_LIVE
    if not (label.isascii() and label.isdigit() and len(label) <= 9):
        return None
    return int(label)


def _first_repeated(id_N: npt.NDArray[np.bytes_]) -> tuple[int, int] | None:
    """The rows of the first id that comes again, and where it stood first.

    Hashes are sorted, and only ids of equal hash compared: 4M ids as Python objects or in pyarrow's table of distinct
    values would take more than a gigabyte.
    """
    word_NW = np.zeros((len(id_N), -(-id_N.itemsize // 8)), np.uint64)
    word_NW.view(np.uint8).reshape(len(id_N), -1)[:, : id_N.itemsize] = id_N.view(np.uint8).reshape(len(id_N), -1)
    hash_N = np.zeros(len(id_N), np.uint64)
    for word_N in word_NW.T:
        hash_N = (hash_N ^ word_N) * np.uint64(0x9E3779B97F4A7C15)
        hash_N ^= hash_N >> np.uint64(29)
    sorted_N = np.sort(hash_N)
    again = sorted_N[1:][sorted_N[1:] == sorted_N[:-1]]
    seen: dict[bytes, int] = {}
    for row in np.flatnonzero(np.isin(hash_N, again)).tolist() if len(again) else ():
        first = seen.setdefault(bytes(id_N[row]), row)
        if first != row:
            return first, row
    return None


def _fixed_width(chunk: Any, width: int) -> npt.NDArray[np.bytes_]:
    """`S<width>` of large_string; ids of one length are copied from arrow's buffer as they lie there."""
    if pc.min(pc.binary_length(chunk)).as_py() == width:
        first = int(np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset])
        return np.frombuffer(chunk.buffers()[2], f"S{width}", count=len(chunk), offset=first)
    return np.array([value.encode() for value in chunk.to_pylist()], dtype=f"S{width}")
