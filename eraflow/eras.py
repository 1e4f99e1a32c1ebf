"""Which rows belong to which era, and the checks that every score by era begins with.

Shape letters: N rows, E eras, K prediction columns, F features.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import DataError, InputError

Array = npt.NDArray[Any]
Rows = slice | npt.NDArray[np.int64]
"""The rows of an era: a slice where the eras stand in order (read in place), otherwise an index (gathered)."""


def by_era(era: Any) -> tuple[Array, list[Rows]]:
    """The distinct eras in numeric order `[E]` as they were given, and the rows of each.

    Raises `InputError` for an era that is not a whole number, or one number written in two ways.
    """
    era_N = np.asarray(era)
    if era_N.dtype.kind in "iu":
        return rows_by_era(era_N)
    label_E, code_N = era_codes(era_N)
    return label_E, rows_by_era(code_N)[1]


def rows_by_era(era_N: Array) -> tuple[Array, list[Rows]]:
    """As `by_era`, for whole numbers: the distinct ones in their order, and the rows of each."""
    order_N: npt.NDArray[np.int64] | None = None
    if np.any(era_N[1:] < era_N[:-1]):
        order_N = np.argsort(era_N, kind="stable")
        era_N = era_N[order_N]
    first_E = np.flatnonzero(np.append(True, era_N[1:] != era_N[:-1])[: len(era_N)])
    bounds = [slice(*bound) for bound in pairwise([*first_E.tolist(), len(era_N)])]
    return era_N[first_E], [bound if order_N is None else order_N[bound] for bound in bounds]


def era_codes(era: Any) -> tuple[Array, npt.NDArray[np.int64]]:
    """The distinct eras in numeric order `[E]` as they were given, and each row's place among them `[N]`.

    Raises as `by_era`. Text takes 53 ms a million rows: keep the codes where eras are used again.
    """
    import pandas as pd

    code_N, found = pd.factorize(np.asarray(era))
    label_E = np.asarray(found)
    if np.any(code_N < 0):
        raise InputError(f"every row must have an era, however {int(np.sum(code_N < 0))} of {len(code_N)} have none")
    try:
        number_E = np.array([int(label) for label in label_E], np.int64)
    except (TypeError, ValueError) as error:
        raise InputError(f"eras must be whole numbers, however one could not be read: {error}") from error
    if len(np.unique(number_E)) < len(number_E):
        raise InputError("each era must be written in one way, however one number has several spellings, as 1 and 0001")
    order_E = np.argsort(number_E)
    place_E = np.empty(len(order_E), np.int64)
    place_E[order_E] = np.arange(len(order_E))
    return label_E[order_E], place_E[code_N] if len(code_N) else np.empty(0, np.int64)


def as_matrix(features: Any, rows: int) -> Array:
    """`features` as a matrix `[N, F]`. Raises `InputError` for another shape, `DataError` for NaN."""
    feature_NF = np.asarray(features)
    if feature_NF.ndim != 2 or len(feature_NF) != rows:
        raise InputError(f"features must be a matrix of {rows} rows, however its shape is {feature_NF.shape}")
    _refuse_no_numbers(feature_NF, "features")
    refuse_nan(feature_NF, "features")
    return feature_NF


def as_columns(prediction: Any, rows: int) -> Array:
    """One prediction `[N]` or several `[N, K]` as `[N, K]`. Raises `InputError` for another shape, `DataError` for NaN.

    A view wherever that can be: the columns are copied an era at a time.
    """
    prediction_NK = np.asarray(prediction)
    if prediction_NK.ndim == 1:
        prediction_NK = prediction_NK[:, np.newaxis]
    if prediction_NK.ndim != 2:
        raise InputError(f"predictions must be [N] or [N, K], however their shape is {prediction_NK.shape}")
    if len(prediction_NK) != rows:
        raise InputError(f"there must be {rows} predictions, one a row, however {len(prediction_NK)} came")
    _refuse_no_numbers(prediction_NK, "predictions")
    refuse_nan(prediction_NK, "prediction")
    return prediction_NK


def same_length(**arrays: Any) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"all arguments must have one length, however {told}")


def refuse_nan(values: Array, name: str) -> None:
    """Raises `DataError` with the number of NaN and the first one's place, counted along the rows."""
    # The minimum is NaN where any value is, and takes a fifth of the time of asking each.
    if values.dtype.kind != "f" or not values.size or not np.isnan(values.min()):
        return
    missing = np.isnan(values).ravel()
    raise DataError(
        f"the {name} must have no NaN, however {int(missing.sum())} of {len(missing)} are NaN,"
        f" the first at position {int(missing.argmax())}"
    )


def by_label(value: Array, label_E: Array) -> Any:
    """Scores `[E]` as a Series by era, `[E, K]` as a DataFrame."""
    import pandas as pd

    index = pd.Index(label_E, name="era")
    return pd.Series(value, index=index) if value.ndim == 1 else pd.DataFrame(value, index=index)


def _refuse_no_numbers(values: Array, name: str) -> None:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name} must be numbers, however they are of the type {values.dtype}")
