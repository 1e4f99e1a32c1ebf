"""LightGBM on the stored codes: what most participants would use instead. Needs the optional extra `lightgbm`.

Shape letters: M rows, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eraflow.errors import InputError, TrainingError
from eraflow.progress import Progress, silent
from eraflow.rows import Rows

ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class BoostingConfig:
    """Gradient boosted trees. Source of the defaults: the tournament's small example model."""

    trees: int = 2000
    learning_rate: float = 0.01
    leaves: int = 31
    depth: int = 5
    feature_share: float = 0.1
    """Features drawn for each tree."""


def how_to_install(extra: str) -> str:
    """How one of the optional extras comes in: from the checkout, in the versions that are tested."""
    return f"in the checkout run .venv/bin/pip install --constraint constraints.txt -e '.[{extra}]'"


def fit_boosting(
    rows: Rows, config: BoostingConfig, seed: int, *, progress: Progress = silent, stage: str = "train"
) -> Any:
    """A LightGBM booster fitted to the labelled ones of `rows`.

    Raises `InputError` if LightGBM is not installed, `TrainingError` for no labelled rows.
    """
    lightgbm = _library()
    kept = rows.labelled()
    if not len(kept):
        raise TrainingError(f"training needs rows with a target, however none of the {len(rows)} given has one")
    parameters = {
        "objective": "regression",
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "max_depth": config.depth,
        "feature_fraction": config.feature_share,
        "max_bin": 5,  # codes have five values
        "min_data_in_bin": 1,
        "seed": seed,
        "num_threads": torch.get_num_threads(),  # as many as a network may use here
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(_codes(lightgbm, kept), label=kept.target_M, params=parameters)

    def tell(environment: Any) -> None:
        progress(stage, environment.iteration + 1, config.trees)

    return lightgbm.train(parameters, data, num_boost_round=config.trees, callbacks=[tell])


def predict_boosting(
    booster: Any, rows: Rows, *, progress: Progress = silent, stage: str = "predict"
) -> npt.NDArray[np.float32]:
    """Predictions float32 `[M]`."""
    prediction_M = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(rows))
        prediction_M[start:stop] = booster.predict(_block(rows, start, stop))
        progress(stage, stop, len(rows))
    return prediction_M


def _codes(lightgbm: Any, rows: Rows) -> Any:
    """The rows as LightGBM asks for them, some at a time: it keeps a byte a code, floats would take four."""

    class Codes(lightgbm.Sequence):  # type: ignore[misc]
        batch_size = ROWS_AT_ONCE

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: Any) -> npt.NDArray[np.float64]:
            if isinstance(index, slice):
                return _block(rows, *index.indices(len(rows))[:2])
            row = _block(rows, int(index), int(index) + 1)
            return np.asarray(row[0])

    return Codes()


def _block(rows: Rows, start: int, stop: int) -> npt.NDArray[np.float64]:
    code_MF = np.empty((stop - start, rows.n_features), np.int8)
    rows.gather(np.arange(start, stop), code_MF)
    return code_MF.astype(np.float64)


def _library() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: the system lacks libgomp
        raise InputError(
            f"the recipe lightgbm needs LightGBM, however it cannot be imported ({error});"
            f" {how_to_install('lightgbm')}, or leave the recipe out"
        ) from error
    return lightgbm
