"""What others predicted for the rows of a stored file: the meta model and the benchmarks, from the tournament's files.

Read `reference`. MMC and BMC are taken against these, and a recipe with `data.residual_of` learns what they leave.

Shape letters: N rows of a stored file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eraflow.config import nearest
from eraflow.errors import DataError, InputError
from eraflow.parquet import ParquetSource
from eraflow.store import read_manifest, sha256_of
from eraflow.stored import StoredDataset

if TYPE_CHECKING:
    from eraflow.files import Files
    from eraflow.recipes import Recipe

META_MODEL = "numerai_meta_model"
F64 = npt.NDArray[np.float64]


def reference(stored: StoredDataset, files: Sequence[Path], column: str) -> F64:
    """`column` of the first of `files` that has it for each row of `stored`, float64 `[N]`, NaN where none has.

    Raises `DataError` for a file that cannot be read, or ids that are there twice.
    """
    found_N = np.full(stored.rows, np.nan)
    for path in files:
        with ParquetSource(path) as source:
            if column not in source.names:
                continue
            id_name = "id" if "id" in source.names else "__index_level_0__"
            if id_name not in source.names:
                raise DataError(f"{path} must have the column id, however it has not; fetch the file again")
            ids, values = source.column(id_name), source.column(column)
        place_N = _places(path, ids, stored)
        value = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        there_N = (place_N >= 0) & np.isnan(found_N)
        found_N[there_N] = value[place_N[there_N]]
    return found_N


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark's predictions, read when they are needed."""

    column: str
    files: tuple[Path, ...]
    """In which it is looked for."""
    sha256: tuple[str, ...]
    """Of the files."""

    def of(self, stored: StoredDataset) -> F64:
        """Its prediction of each row of `stored`, float64 `[N]`, NaN where there is none. Raises as `reference`."""
        return reference(stored, self.files, self.column)


def benchmark_of(recipe: Recipe, files: Files) -> Benchmark | None:
    """The one that the recipe learns the residual of. None without `data.residual_of`.

    Raises `DataError` if its files could not be had, `InputError` if they have no such column.
    """
    if not (column := recipe.data.residual_of):
        return None
    if not files.benchmarks:
        raise DataError(
            f"{recipe.name} must have the benchmark {column} to learn what it leaves over (data.residual_of), however"
            f" it could not be had: {files.no_benchmarks or 'its files were not asked for'}"
        )
    paths = tuple(file.path for file in files.benchmarks)
    require_benchmark(paths, column)
    return Benchmark(column=column, files=paths, sha256=tuple(file.sha256 for file in files.benchmarks))


def benchmark_files(folder: Path) -> list[Path]:
    """The files of benchmark models in `folder`, without that of live rows: it is new each week and teaches nothing."""
    return sorted(
        path for path in folder.glob("*_benchmark_models.parquet") if not path.name.startswith((".", "live_"))
    )


def require_benchmark(files: Sequence[Path], column: str, asked: str = "data.residual_of") -> None:
    """Raises `InputError` unless one of `files` has predictions named `column`, `DataError` if one cannot be read.

    `asked` is what named it.
    """
    names = list[str]()
    for path in files:
        with ParquetSource(path) as source:
            names += [name for name, kind in source.types if pa.types.is_floating(kind) and name not in names]
    if column not in names:
        where = ", ".join(str(path) for path in files)
        raise InputError(
            f"{asked} must be one of {', '.join(names) or 'the benchmarks'} of {where}, however it is"
            f" {column!r}{nearest(column, names)}"
        )


def sha256_of_stored(path: Path) -> str:
    """The sha256 of the file at `path`, from its manifest where it has one."""
    manifest = read_manifest(path)
    return manifest.sha256 if manifest else sha256_of(path)


def _places(path: Path, ids: Any, stored: StoredDataset) -> npt.NDArray[np.int64]:
    """Where each id of `stored` stands among `ids`, -1 where it does not."""
    if pc.count_distinct(ids).as_py() < len(ids):
        raise DataError(f"{path}: ids must differ, however some are there twice; fetch the file again")
    known = pc.index_in(pa.array(stored.id_N), value_set=ids.cast(pa.string()).combine_chunks())
    return np.asarray(known.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
