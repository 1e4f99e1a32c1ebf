"""What predictions are compared with besides the target: the meta model and a benchmark, from the tournament's files.

Shape letters: N rows of a stored file, M rows of the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eraflow.errors import DataError
from eraflow.parquet import ParquetSource
from eraflow.stored import StoredDataset

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


def _places(path: Path, ids: Any, stored: StoredDataset) -> npt.NDArray[np.int64]:
    """Where each id of `stored` stands among `ids`, -1 where it does not."""
    if pc.count_distinct(ids).as_py() < len(ids):
        raise DataError(f"{path}: ids must differ, however some are there twice; fetch the file again")
    known = pc.index_in(pa.array(stored.id_N), value_set=ids.cast(pa.string()).combine_chunks())
    return np.asarray(known.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
