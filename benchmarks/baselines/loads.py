"""What else a training file is loaded with: the whole of it as a pandas frame, and what is made of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.baselines.write_up import FrameRows


def pandas_int8(path: Path) -> tuple[Any, ...]:
    """Features int8 [N, F] with the values of a row together, as row batches need them; targets, eras, ids."""
    matrix, *others = pandas_columns(path)
    return np.ascontiguousarray(matrix), *others


def pandas_columns(path: Path) -> tuple[Any, ...]:
    """Features int8 [N, F] as pandas gives them, a column's values together; targets float32 [N, T], eras, ids."""
    frame = pd.read_parquet(path)
    features, targets = _columns(frame)
    return frame[features].to_numpy(np.int8), frame[targets].to_numpy(np.float32), frame["era"], frame["id"]


def write_up(path: Path) -> tuple[Any, ...]:
    """The write-up's way: a frame, split by eras into train and validation, each copied to float32."""
    frame = pd.read_parquet(path)
    features, targets = _columns(frame)
    eras = frame["era"].unique()
    late = frame["era"].isin(eras[-(len(eras) // 5) :])
    train, validation = frame[~late], frame[late]
    return FrameRows(train, features, targets[:1]), FrameRows(validation, features, targets[:1])


def _columns(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    names = list(frame.columns)
    return [n for n in names if n.startswith("feature")], [n for n in names if n.startswith("target")]
