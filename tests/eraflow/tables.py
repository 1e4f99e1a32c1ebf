"""A small tournament file for tests to write and to spoil."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eraflow.errors import DataError

FEATURES = ("feature_a", "feature_b", "feature_c")


def table_of(**changes: Any) -> pa.Table:
    """Six rows, eras 0001 and 0002, three features, two targets; `changes` replace, add or (None) remove columns."""
    content: dict[str, Any] = {
        "id": [f"n{row:015x}" for row in range(6)],
        "era": ["0001"] * 3 + ["0002"] * 3,
        "data_type": ["train"] * 6,
        "feature_a": pa.array([0, 1, 2, 3, 4, 0], pa.int8()),
        "feature_b": pa.array([4, 4, 4, 0, 0, 0], pa.int8()),
        "feature_c": pa.array([1, 1, 3, 3, 2, 2], pa.int8()),
        "target": pa.array([0, 0.25, 0.5, 0.75, 1, 0.5], pa.float32()),
        "target_ender_60": pa.array([0, 0.25, None, 0.75, 1, float("nan")], pa.float32()),
    }
    content |= changes
    return pa.table({name: values for name, values in content.items() if values is not None})


def write(folder: Path, table: pa.Table | None = None, *, row_group_size: int | None = None, **changes: Any) -> Path:
    """`table`, or `table_of(**changes)`, as `train.parquet` in the folder."""
    path = folder / "train.parquet"
    pq.write_table(table if table is not None else table_of(**changes), path, row_group_size=row_group_size)
    return path


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """The text with which `read` refuses the file: it names the file, says what must hold and what was met."""
    with pytest.raises(DataError) as caught:
        read(path)
    text = caught.value.message
    assert str(path) in text
    assert "must" in text
    assert "however" in text
    return text
