"""From raw predictions to what is sent: ranks by era, ensembles, neutralisation.

Eras are any labels, the live file's X included. Predictions are `[N]`, or several `[N, K]`; results are float64 of
the same shape, in the order that came. NaN predictions are refused.

Shape letters: N rows, M rows of one era, F features, K prediction columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eraflow.eras import Rows as EraRows
from eraflow.eras import as_columns, as_matrix, rows_by_era
from eraflow.errors import DataError, InputError
from eraflow.neutral import Neutralizer
from eraflow.ranks import centred_ranks

if TYPE_CHECKING:
    from eraflow.rows import Rows

F64 = npt.NDArray[np.float64]


def rank(prediction: Any, era: Any) -> F64:
    """`(average rank - 0.5)/n` within each era: inside (0, 1), equal predictions stay equal; columns `[N, K]` apart.

    Raises `InputError` for unequal lengths, `DataError` for NaN.

    >>> rank([0.3, 0.1, 0.3, 5.0], ["X", "X", "X", "Y"]).round(3).tolist()
    [0.667, 0.167, 0.667, 0.5]
    """
    prediction_N = np.asarray(prediction)
    ranked_N = np.empty(prediction_N.shape)
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

    Several predictions `[N, K]` cost hardly more than one: an era's features are factored once.
    Source: `neutralize` of numerai-tools 0.7.2, except that the mean of each era stays; no metric by era sees it.
    Rank the result before it is sent. Raises `InputError` for unequal lengths or a proportion outside 0..1,
    `DataError` for NaN.
    """
    if not 0 <= proportion <= 1:
        raise InputError(f"the proportion must be from 0 to 1, however it is {proportion}")
    prediction_N = np.asarray(prediction, np.float64)
    feature_NF = as_matrix(features, len(prediction_N))
    neutral_N = np.empty(prediction_N.shape)
    for rows in _eras(prediction_N, era):
        here_M = prediction_N[rows]
        fitted_M = here_M - here_M.mean(0) - Neutralizer(feature_NF[rows]).residual(here_M)
        neutral_N[rows] = here_M - proportion * fitted_M
    return neutral_N


def combined(predictions: Sequence[Any], rows: Rows, era_N: npt.NDArray[Any], proportion: float = 0.0) -> F64:
    """The ensemble of several predictions of stored `rows`, `proportion` of it neutralised to their features.

    Ranks by era inside (0, 1) where something was neutralised, otherwise the mean of ranks. Features are read an era at
    a time. Raises as `ensemble`.
    """
    mean_N = ensemble(predictions, era_N)
    if not proportion:
        return mean_N
    neutral_N = np.empty(len(mean_N))
    for index_M in _eras(mean_N, era_N):
        index_M = np.arange(len(mean_N))[index_M]
        code_MF = np.empty((len(index_M), rows.n_features), np.int8)
        rows.gather(index_M, code_MF)
        here_M = mean_N[index_M]
        fitted_M = here_M - here_M.mean() - Neutralizer(code_MF).residual(here_M)
        neutral_N[index_M] = rank_uniform(here_M - proportion * fitted_M)
    return neutral_N


def rank_uniform(values: Any) -> F64:
    """`(average rank - 0.5)/n` of one era's values, inside (0, 1); columns `[N, K]` apart."""
    value_N = np.asarray(values)
    doubled_KN = centred_ranks(value_N.T if value_N.ndim == 2 else value_N[np.newaxis]) + len(value_N)
    return np.asarray(doubled_KN.T.reshape(value_N.shape) / max(1, 2 * len(value_N)))


def _eras(prediction: npt.NDArray[Any], era: Any) -> list[EraRows]:
    """The rows of each era, after the prediction was found to be whole."""
    era_N = np.asarray(era)
    if len(era_N) != len(prediction):
        raise InputError(f"prediction and era must have one length, however {len(prediction)} and {len(era_N)} met")
    as_columns(prediction, len(era_N))
    if era_N.dtype.kind not in "iu":
        era_N = np.unique(era_N, return_inverse=True)[1]
    return rows_by_era(era_N)[1]


def canonical_csv(ids: Sequence[str], prediction_N: F64) -> bytes:
    """The one CSV text of these predictions: header, live order, shortest exact decimals, line feeds.

    `prediction_N` is float64 [N] inside (0, 1). Raises `DataError` for an id that a CSV would have to quote.
    """
    odd = [identity for identity in ids if not re.fullmatch(r"[!#-+\--~]+", identity)]
    if odd:
        raise DataError(
            "every live id must be of printable ASCII characters without spaces, commas and quotes, however"
            f" {len(odd):,} are not, as {odd[0][:40]!r}; nothing was sent; fetch the live data again"
        )
    lines = [f"{identity},{float(value)!r}" for identity, value in zip(ids, prediction_N, strict=True)]
    return "\n".join(["id,prediction", *lines, ""]).encode()
