"""Scores by era: Spearman, the tournament's own scores, feature exposure, and their summary.

Each function takes one prediction `[N]` and gives a Series by era, or several `[N, K]` and gives a DataFrame with a
column for each. Who scores again and again on the same rows prepares them once: `prepared.PreparedScores`, which is
behind most of these functions. pandas is imported where a Series is returned. Nothing here ranks over several eras
at once.

An era is undefined, and its value NaN, where it has fewer than two rows with a target, a constant prediction or a
constant target. Rows without a target are left out before anything is ranked; a NaN prediction is refused.

Where the tournament's documentation and its scoring code (numerai-tools 0.7.2) differ, the code is followed.

Shape letters: N rows, M rows of one era, E eras, F features, K prediction columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.eras import as_columns, as_matrix, by_era, by_label, same_length
from eraflow.neutral import Neutralizer, exposures
from eraflow.prepared import NUMERAI_CORR, SPEARMAN, PreparedScores, PreparedSpearman
from eraflow.ranks import centred_ranks, gaussian

__all__ = [
    "PreparedScores",
    "PreparedSpearman",
    "Summary",
    "contribution",
    "era_spearman",
    "feature_exposure",
    "feature_neutral_corr",
    "numerai_corr",
    "summary",
]

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the scored eras of one series come to."""

    mean: float
    std: float
    """Population standard deviation (ddof 0)."""
    sharpe: float
    """mean / std; NaN where std is 0 or no era is scored."""
    max_drawdown: float
    """Largest fall of the cumulative sum from its running maximum; 0 where it never falls."""
    eras: int
    """Eras that have a value."""
    undefined: int
    """Eras that define none."""


def era_spearman(prediction: Any, target: Any, era: Any) -> Any:
    """Spearman's rank correlation of prediction and target in each era, average ranks for ties.

    All of length N; eras as whole numbers or text of digits. A Series by era in numeric order, NaN where undefined.
    Raises `InputError` for unequal lengths or an era that is no number, `DataError` for a NaN prediction.

    >>> era_spearman([1, 2, 3, 4, 5, 5], [0, 1, 0.5, 1, 0, 1], ["02", "02", "02", "10", "10", "10"]).round(3).to_dict()
    {'02': 0.5, '10': -0.5}
    """
    return _score(SPEARMAN, prediction, target, era)


def numerai_corr(prediction: Any, target: Any, era: Any) -> Any:
    """The tournament's CORR in each era.

    Prediction: tie-kept rank `(average rank - 0.5)/n`, normal quantile, signed power 1.5. Target: centred by its
    mean, signed power 1.5. Pearson of the two. Source: `numerai_corr` of numerai-tools 0.7.2.
    Arguments, result and errors as in `era_spearman`.
    """
    return _score(NUMERAI_CORR, prediction, target, era)


def contribution(prediction: Any, reference: Any, target: Any, era: Any) -> Any:
    """What the prediction adds to `reference` in each era: MMC against the meta model, BMC against a benchmark.

    Both are rank-gaussianised, the prediction is made orthogonal to the reference; then the covariance with the
    centred `4 x target`, divided by n. Source: `correlation_contribution` of numerai-tools 0.7.2; the tournament's
    page omits the 4. Targets from 0 to 1. Rows without a reference (NaN) are left out. NaN where the reference is
    constant, otherwise as in `era_spearman`.
    """
    return _score("contribution", prediction, target, era, {"contribution": reference})


def feature_neutral_corr(prediction: Any, features: Any, target: Any, era: Any) -> Any:
    """CORR in each era of what the prediction holds beyond a linear function of `features` `[N, F]`.

    The rank-gaussianised prediction, less its least-squares fit on the features with an intercept, scaled to unit
    variance (which changes nothing, because CORR ranks), then `numerai_corr`. The features of an era are factored
    once for all predictions. Source: `feature_neutral_corr` of numerai-tools 0.7.2. Arguments, result and errors as
    in `era_spearman`.
    """
    label_E, rows_E = by_era(era)
    target_N = np.asarray(target, np.float64)
    feature_NF = as_matrix(features, len(target_N))
    prediction_NK = as_columns(prediction, len(target_N))
    same_length(prediction=prediction_NK, target=target_N, era=np.asarray(era))
    value_EK = np.full((len(label_E), prediction_NK.shape[1]), np.nan)
    for e, rows in enumerate(rows_E):
        kept_M = ~np.isnan(target_N[rows])
        if kept_M.any():
            target_M, prediction_MK = target_N[rows][kept_M], prediction_NK[rows][kept_M]
            value_EK[e] = _feature_neutral_corr(prediction_MK, feature_NF[rows][kept_M], target_M)
    return by_label(value_EK if np.ndim(prediction) == 2 else value_EK[:, 0], label_E)


def feature_exposure(prediction: Any, features: Any, era: Any) -> Any:
    """The largest absolute Pearson correlation of the prediction with any column of `features` `[N, F]`, by era.

    A feature that is constant in an era counts for nothing there. NaN where the prediction or all features are
    constant, or with fewer than two rows. Errors as in `era_spearman`.
    """
    label_E, rows_E = by_era(era)
    n_rows = len(np.asarray(era))
    prediction_NK, feature_NF = as_columns(prediction, n_rows), as_matrix(features, n_rows)
    # `fmax` passes over NaN, and gives NaN where there is nothing else.
    value_EK = [
        np.fmax.reduce(np.abs(exposures(prediction_NK[rows], feature_NF[rows])), axis=0, initial=np.nan)
        for rows in rows_E
    ]
    value = np.array(value_EK).reshape(len(label_E), prediction_NK.shape[1])
    return by_label(value if np.ndim(prediction) == 2 else value[:, 0], label_E)


def summary(per_era: Any) -> Summary:
    """Mean, spread, Sharpe ratio and largest drawdown of scores in order of eras; NaN counts as undefined.

    Sharpe = mean / population standard deviation, max drawdown = max(running maximum of the cumulative sum -
    cumulative sum), as the tournament computes them.

    >>> found = summary([0.02, -0.01, float("nan"), 0.03])
    >>> round(found.mean, 4), round(found.sharpe, 4), round(found.max_drawdown, 4), found.eras, found.undefined
    (0.0133, 0.7845, 0.01, 3, 1)
    """
    value_E = np.asarray(per_era, np.float64)
    scored = value_E[~np.isnan(value_E)]
    undefined = len(value_E) - len(scored)
    if not len(scored):
        nan = float("nan")
        return Summary(mean=nan, std=nan, sharpe=nan, max_drawdown=nan, eras=0, undefined=undefined)
    mean, constant = float(scored.mean()), bool((scored == scored[0]).all())
    std = 0.0 if constant else float(scored.std())
    total = np.cumsum(scored)
    return Summary(
        mean=mean,
        std=std,
        sharpe=mean / std if std > 0 else float("nan"),
        max_drawdown=float((np.maximum.accumulate(total) - total).max()),
        eras=len(scored),
        undefined=undefined,
    )


def _score(name: str, prediction: Any, target: Any, era: Any, references: Mapping[str, Any] | None = None) -> Any:
    prepared = PreparedScores(np.asarray(target, np.float64), np.asarray(era), references)
    return by_label(prepared(np.asarray(prediction), (name,))[name], prepared.era_E)


def _feature_neutral_corr(prediction_MK: Array, feature_MF: Array, target_M: F64) -> F64:
    gaussian_MK = gaussian(centred_ranks(prediction_MK.T)).T
    neutral_MK = Neutralizer(feature_MF).residual(gaussian_MK)
    value_K = PreparedScores(target_M, np.zeros(len(target_M), np.int8))(neutral_MK, (NUMERAI_CORR,))[NUMERAI_CORR][0]
    # What a perfect fit leaves is rounding: ranking it would score noise.
    left_K = np.abs(neutral_MK).max(0) > 1e-9 * np.abs(gaussian_MK).max(0)
    return np.where(left_K, value_K, np.nan)
