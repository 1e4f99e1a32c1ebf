"""Opening the tournament's parquet files: whole or not, what they are if not parquet, and which columns they have.

`verify_parquet` decodes a whole file and keeps nothing; `ParquetSource` opens one; `check_layout` judges its columns.
What the columns hold is judged in `columns`. All that is refused is a `DataError` with the file's name. Nothing is
written here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eraflow.errors import DataError

COLUMNS_AT_ONCE = 64
# Bounds what one read holds decoded: of a row group of 2.7M rows, 3 int8 columns are read at a time, not 64.
BLOCK_BYTES = 1 << 23
REFETCH = "fetch the file again"

# What pyarrow raises on damaged bytes: most are ArrowException, a broken snappy page is OSError, an absurd length
# MemoryError, a wrong name UnicodeDecodeError (a ValueError).
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


def verify_parquet(path: Path) -> int:
    """Decode every row group of the file at `path`, a block of columns at a time; returns its number of rows.

    Raises `DataError` if it is not a parquet file, a page does not decode or contradicts its checksum (where the
    writer left one), or the counts of rows disagree. It does not judge columns: `check_layout` does.
    """
    with ParquetSource(path) as source:
        for group, rows in enumerate(source.group_rows):
            for names in batches(source.names, rows, source.widest_bytes):
                source.read(group, names)
        if sum(source.group_rows) != source.rows:
            raise DataError(
                f"{path}: the row groups must have {source.rows} rows, however have {sum(source.group_rows)}; {REFETCH}"
            )
        return source.rows


class ParquetSource:
    """One open parquet file; whatever goes wrong in reading it is a `DataError` with its name."""

    def __init__(self, path: Path) -> None:
        """Raises `DataError` if there is no such file or it is not parquet, saying what it looks like."""
        self.path = path
        self._lock = threading.Lock()  # a read ahead in a thread may be under way when the file is closed
        _require_parquet(path)
        try:
            self._file: Any = pq.ParquetFile(path, page_checksum_verification=True)
        except _READ_ERRORS as error:
            raise DataError(f"{path} must be a readable parquet file, however: {_short(error)}; {REFETCH}") from error
        footer = self._file.metadata
        self.rows: int = footer.num_rows
        self.group_rows: list[int] = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self.types: list[tuple[str, pa.DataType]] = [(field.name, field.type) for field in self._file.schema_arrow]
        self.names: list[str] = [name for name, _ in self.types]

    @property
    def widest_bytes(self) -> int:
        """A guess of the bytes of one value of the widest column."""
        return max((width_bytes(kind) for _, kind in self.types), default=1)

    def read(self, group: int, columns: Sequence[str]) -> Any:
        """The columns of one row group as a pyarrow table, fully validated."""
        try:
            with self._lock:
                table = self._file.read_row_group(group, columns=list(columns))
            table.validate(full=True)
        except _READ_ERRORS as error:
            span = columns[0] if len(columns) == 1 else f"{columns[0]} to {columns[-1]}"
            raise DataError(
                f"{self.path}: row group {group}, columns {span}, must decode, however: {_short(error)}; {REFETCH}"
            ) from error
        rows = self.group_rows[group]
        if table.num_rows != rows:
            raise DataError(
                f"{self.path}: row group {group} must have {rows} rows, however {table.num_rows} decode; {REFETCH}"
            )
        return table

    def column(self, name: str) -> Any:
        """One whole column as a pyarrow chunked array."""
        chunks = [chunk for group in range(len(self.group_rows)) for chunk in self.read(group, [name])[name].chunks]
        return pa.chunked_array(chunks, type=chunks[0].type if chunks else dict(self.types)[name])

    def close(self) -> None:
        with self._lock:
            self._file.close(force=True)

    def __enter__(self) -> ParquetSource:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def check_layout(source: ParquetSource, features: Sequence[str]) -> tuple[str, ...]:
    """The target columns of a file that has `id`, `era`, all `features`, a target, rows, and no name twice.

    Raises `DataError` naming what is missing or there twice.
    """
    path, names = source.path, set(source.names)
    if len(names) < len(source.names):
        twice = next(name for place, name in enumerate(source.names) if name in source.names[:place])
        raise DataError(f"{path}: column names must differ, however {twice!r} is there twice; {REFETCH}")
    for name in ("id", "era"):
        if name not in names:
            raise DataError(
                f"{path}: column {name!r} must be there, however it is not; {_like(source.names)}; {REFETCH}"
            )
    missing = [name for name in features if name not in names]
    if missing:
        raise DataError(
            f"{path}: the {len(features)} features asked for must be there, however {len(missing)} are not, the first"
            f" is {missing[0]!r}; fetch the file and features.json again, of one version"
        )
    targets = tuple(name for name in source.names if name == "target" or name.startswith("target_"))
    if not targets:
        raise DataError(f"{path}: a column 'target' or 'target_...' must be there, however there is none; {REFETCH}")
    if source.rows == 0:
        raise DataError(f"{path}: there must be rows, however there are 0; {REFETCH}")
    return targets


def batches(names: Sequence[str], rows: int, value_bytes: int) -> Iterator[list[str]]:
    """The names in blocks of at most `COLUMNS_AT_ONCE`, fewer where so many decoded would exceed `BLOCK_BYTES`."""
    size = min(COLUMNS_AT_ONCE, max(1, BLOCK_BYTES // max(1, rows * value_bytes)))
    for first in range(0, len(names), size):
        yield list(names[first : first + size])


def width_bytes(kind: pa.DataType) -> int:
    """The bytes of one decoded value; a guess for text."""
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:  # text has no fixed width
        return 24


def _require_parquet(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(400)
            file.seek(-min(4, file.seek(0, 2)), 2)
            tail = file.read(4)
    except FileNotFoundError as error:
        raise DataError(f"{path} must be a parquet file, however it does not exist; {REFETCH}") from error
    except OSError as error:
        raise DataError(f"{path} must be a parquet file, however it cannot be read: {error.strerror}") from error
    if head[:4] != b"PAR1":
        raise DataError(f"{path} must be a parquet file, however it is {_looks_like(head)}; {REFETCH}")
    if tail != b"PAR1":
        raise DataError(f"{path} must be a whole parquet file, however its end is missing; {REFETCH}")


def _looks_like(head: bytes) -> str:
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if not head:
        return "empty"
    if text.startswith("<"):
        return "an HTML or XML page"
    if text.startswith(("{", "[")):
        return "JSON text"
    if head[:2] in (b"PK", b"\x1f\x8b"):
        return "a compressed archive"
    line = text.splitlines()[0] if text else ""
    if line.isprintable() and line.count(",") > 0:
        return f"CSV text, which eraflow does not read as data (it begins with {line[:40]!r})"
    return f"something else (it begins with {head[:12]!r})"


def _like(names: Sequence[str]) -> str:
    return f"its columns are {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
