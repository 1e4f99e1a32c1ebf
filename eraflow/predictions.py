"""From raw predictions to what is sent: ranks by era, ensembles, neutralisation.

Eras are any labels, the live file's X included. Arrays are 1-D of one length N; results float64 `[N]` in the order
that came. NaN predictions are refused.

Shape letters: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import DataError, InputError
from eraflow.metrics import as_matrix, groups, rank_keep_ties
from eraflow.neutral import residual

F64 = npt.NDArray[np.float64]


def rank(prediction: Any, era: Any) -> F64:
    """`(average rank - 0.5)/n` within each era: inside (0, 1), equal predictions stay equal.

    Raises `InputError` for unequal lengths, `DataError` for NaN.

    >>> rank([0.3, 0.1, 0.3, 5.0], ["X", "X", "X", "Y"]).round(3).tolist()
    [0.667, 0.167, 0.667, 0.5]
    """
    prediction_N = np.asarray(prediction)
    ranked_N = np.empty(len(prediction_N))
    for rows in _eras(prediction_N, era):
        ranked_N[rows] = rank_uniform(prediction_N[rows])
    return ranked_N


def ensemble(predictions: Sequence[Any], era: Any) -> F64:
    """The mean over `predictions` of their ranks by era. Raises `InputError` if there are none, and as `rank`."""
    if not len(predictions):
        raise InputError("an ensemble must have at least one prediction, however none was given")
    total_N = rank(predictions[0], era)
    for prediction in predictions[1:]:
        total_N += rank(prediction, era)
    return total_N / len(predictions)


def neutralize(prediction: Any, features: Any, era: Any, proportion: float = 1.0) -> F64:
    """The prediction less `proportion` of its least-squares fit on `features` `[N, F]` and an intercept, by era.

    Source: `neutralize` of numerai-tools 0.7.2, except that the mean of each era stays; no metric by era sees it.
    Rank the result before it is sent. Raises `InputError` for unequal lengths or a proportion outside 0..1,
    `DataError` for NaN.
    """
    if not 0 <= proportion <= 1:
        raise InputError(f"the proportion must be from 0 to 1, however it is {proportion}")
    prediction_N = np.asarray(prediction, np.float64)
    feature_NF = as_matrix(features, len(prediction_N))
    neutral_N = np.empty(len(prediction_N))
    for rows in _eras(prediction_N, era):
        mean = prediction_N[rows].mean()
        fitted = prediction_N[rows] - mean - residual(prediction_N[rows], feature_NF[rows])
        neutral_N[rows] = prediction_N[rows] - proportion * fitted
    return neutral_N


def rank_uniform(values: Any) -> F64:
    """`(average rank - 0.5)/n` of one era's values, inside (0, 1)."""
    value_N = np.asarray(values)
    return (rank_keep_ties(value_N) - 0.5) / max(1, len(value_N))


def _eras(prediction_N: npt.NDArray[Any], era: Any) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each era, after the prediction was found to be whole."""
    label_E, code_N = np.unique(np.asarray(era), return_inverse=True)
    if len(code_N) != len(prediction_N):
        raise InputError(f"prediction and era must have one length, however {len(prediction_N)} and {len(code_N)} met")
    missing = int(np.isnan(prediction_N).sum()) if prediction_N.dtype.kind == "f" else 0
    if missing:
        raise DataError(f"the prediction must have no NaN, however {missing} of {len(prediction_N)} are NaN")
    return groups(code_N, len(label_E))
