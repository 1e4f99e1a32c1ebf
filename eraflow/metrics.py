"""Scores by era: Spearman, the tournament's own scores, feature exposure, and their summary.

Read `PreparedSpearman` for the fast path that the training loop uses, `era_spearman` for the convenient one.
Everything is numpy; pandas is imported where a Series is returned. Nothing here ranks over several eras at once.

An era is undefined, and its value NaN, where it has fewer than two rows with a target, a constant prediction or a
constant target. Rows without a target are left out before anything is ranked; a NaN prediction is refused.

Where the tournament's documentation and its scoring code (numerai-tools 0.7.2) differ, the code is followed.

Shape letters: N rows, M rows with a target, E eras, F features, K runs of equal values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import DataError, InputError
from eraflow.neutral import residual

if TYPE_CHECKING:
    import pandas as pd

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


class PreparedSpearman:
    """Spearman's rank correlation by era, prepared once for a target and used for many predictions.

    `target_N` is float (NaN = left out), `era_N` integer; neither needs an order. Average ranks for ties.
    Exact: centred ranks are whole numbers when doubled, so every sum is exact in float64 up to 200,000 rows an era.
    """

    def __init__(self, target_N: Array, era_N: Array) -> None:
        _same_length(target=target_N, era=era_N)
        self.rows = len(target_N)
        self.era_E: Array = np.unique(era_N)
        labelled_M = np.flatnonzero(~np.isnan(target_N))
        code_M = np.searchsorted(self.era_E, np.asarray(era_N)[labelled_M])
        if np.any(code_M[1:] < code_M[:-1]):
            order_M = np.argsort(code_M, kind="stable")
            labelled_M, code_M = labelled_M[order_M], code_M[order_M]
        self._row_M = labelled_M
        self._bound = np.searchsorted(code_M, np.arange(len(self.era_E) + 1))
        self._start_M = np.repeat(self._bound[:-1], np.diff(self._bound))
        keys_M = _packed(_key32(np.asarray(target_N)[labelled_M]))
        rank_M, place_M = self._rank_in_place(keys_M)
        self._target_M = np.empty(len(labelled_M))
        self._target_M[place_M] = rank_M
        self._target_square_E = self._sum(self._target_M**2)

    def __call__(self, prediction_N: Array) -> tuple[Array, F64]:
        """Eras in numeric order `[E]` and their correlations float64 `[E]`, NaN where undefined.

        Raises `InputError` for another length, `DataError` for a NaN among the predictions.
        """
        if len(prediction_N) != self.rows:
            raise InputError(f"there must be {self.rows} predictions, one a row, however {len(prediction_N)} came")
        _refuse_nan(prediction_N, "prediction")
        rank_M, place_M = self._rank_in_place(_packed(_key32(np.asarray(prediction_N)[self._row_M])))
        product_E = self._sum(rank_M * self._target_M[place_M])
        square_E = self._sum(rank_M**2) * self._target_square_E
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.era_E, np.where(square_E > 0, product_E / np.sqrt(square_E), np.nan)

    def _rank_in_place(self, packed_M: npt.NDArray[np.uint64]) -> tuple[F64, npt.NDArray[np.int64]]:
        """Doubled centred average ranks within each era, in sorted order, and the place each of them belongs to.

        One sort of key and position packed into 64 bits: 3.5 times as fast as an argsort (two cores, AVX2).
        """
        for start, stop in pairwise(self._bound):
            packed_M[start:stop].sort()
        place_M = (packed_M & np.uint64(0xFFFFFFFF)).astype(np.int64)
        first_M = np.empty(len(packed_M), bool)
        first_M[:1] = True
        key_M = packed_M >> np.uint64(32)
        np.not_equal(key_M[1:], key_M[:-1], out=first_M[1:])
        first_M[self._bound[:-1][np.diff(self._bound) > 0]] = True
        position_M = np.arange(len(packed_M), dtype=np.float64)
        start_M = self._start_M
        if first_M.all():
            doubled_M = 2 * position_M
        else:
            run_K = np.flatnonzero(first_M)
            length_K = np.diff(np.append(run_K, len(packed_M)))
            doubled_M = np.repeat(2.0 * run_K + length_K - 1, length_K)
        count_M = np.repeat(np.diff(self._bound), np.diff(self._bound))
        return doubled_M - 2.0 * start_M - (count_M - 1), place_M

    def _sum(self, values_M: F64) -> F64:
        total_E = np.zeros(len(self.era_E))
        filled = np.diff(self._bound) > 0
        if filled.any():
            total_E[filled] = np.add.reduceat(values_M, self._bound[:-1][filled])
        return total_E


def era_spearman(prediction: Any, target: Any, era: Any) -> pd.Series[float]:
    """Spearman's rank correlation of prediction and target in each era, average ranks for ties.

    All of length N; eras as whole numbers or text of digits. A Series by era in numeric order, NaN where undefined.
    Raises `InputError` for unequal lengths or an era that is no number, `DataError` for a NaN prediction.

    >>> era_spearman([1, 2, 3, 4, 5, 5], [0, 1, 0.5, 1, 0, 1], ["02", "02", "02", "10", "10", "10"]).round(3).to_dict()
    {'02': 0.5, '10': -0.5}
    """
    label_E, code_N = era_codes(era)
    _, value_E = PreparedSpearman(np.asarray(target, np.float64), code_N)(np.asarray(prediction))
    return _series(value_E, label_E)


def numerai_corr(prediction: Any, target: Any, era: Any) -> pd.Series[float]:
    """The tournament's CORR in each era.

    Prediction: tie-kept rank `(average rank - 0.5)/n`, normal quantile, signed power 1.5. Target: centred by its
    mean, signed power 1.5. Pearson of the two. Source: `numerai_corr` of numerai-tools 0.7.2.
    Arguments, result and errors as in `era_spearman`.
    """
    return _by_era(_numerai_corr, prediction, target, era)


def contribution(prediction: Any, reference: Any, target: Any, era: Any) -> pd.Series[float]:
    """What the prediction adds to `reference` in each era: MMC against the meta model, BMC against a benchmark.

    Both are rank-gaussianised, the prediction is made orthogonal to the reference; then the covariance with the
    centred `4 x target`, divided by n. Source: `correlation_contribution` of numerai-tools 0.7.2; the tournament's
    page omits the 4. Targets from 0 to 1. Rows without a reference (NaN) are left out. NaN where the reference is
    constant, otherwise as in `era_spearman`.
    """
    reference_N = np.asarray(reference, np.float64)
    target_N = np.where(np.isnan(reference_N), np.nan, np.asarray(target, np.float64))
    return _by_era(_contribution, prediction, target_N, era, reference_N)


def feature_neutral_corr(prediction: Any, features: Any, target: Any, era: Any) -> pd.Series[float]:
    """CORR in each era of what the prediction holds beyond a linear function of `features` `[N, F]`.

    The rank-gaussianised prediction, less its least-squares fit on the features with an intercept, scaled to unit
    variance (which changes nothing, because CORR ranks), then `numerai_corr`.
    Source: `feature_neutral_corr` of numerai-tools 0.7.2. Arguments, result and errors as in `era_spearman`.
    """
    return _by_era(_feature_neutral_corr, prediction, target, era, features)


def feature_exposure(prediction: Any, features: Any, era: Any) -> pd.Series[float]:
    """The largest absolute Pearson correlation of the prediction with any column of `features` `[N, F]`, by era.

    A feature that is constant in an era counts for nothing there. NaN where the prediction or all features are
    constant, or with fewer than two rows. Errors as in `era_spearman`.
    """
    prediction_N = np.asarray(prediction)
    feature_NF = as_matrix(features, len(prediction_N))
    label_E, code_N = era_codes(era)
    _same_length(prediction=prediction_N, era=code_N)
    _refuse_nan(prediction_N, "prediction")
    return _series(
        np.array([_exposure(prediction_N[rows], feature_NF[rows]) for rows in groups(code_N, len(label_E))]), label_E
    )


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


def rank_keep_ties(values_N: Array) -> F64:
    """Ranks 1..n of one era's values; equal values share their average rank.

    >>> rank_keep_ties(np.array([0.5, 0.1, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    """
    order_N = np.argsort(values_N, kind="stable")
    sorted_N = np.asarray(values_N)[order_N]
    run_K = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1])[: len(sorted_N)])
    length_K = np.diff(np.append(run_K, len(sorted_N)))
    rank_N = np.empty(len(sorted_N))
    rank_N[order_N] = np.repeat(run_K + (length_K + 1) / 2, length_K)
    return rank_N


def era_codes(era: Any) -> tuple[Array, npt.NDArray[np.int64]]:
    """The distinct eras in numeric order `[E]` as they were given, and each row's place among them `[N]`.

    Raises `InputError` for an era that is not a whole number, or one number written in two ways.
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


def groups(code_N: Array, n_groups: int) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each code 0 .. n_groups - 1, in their order."""
    order_N = np.argsort(code_N, kind="stable")
    bound = np.searchsorted(code_N[order_N], np.arange(n_groups + 1))
    return (order_N[start:stop] for start, stop in pairwise(bound))


def as_matrix(features: Any, rows: int) -> Array:
    """`features` as a matrix `[N, F]`. Raises `InputError` for another shape, `DataError` for NaN."""
    feature_NF = np.asarray(features)
    if feature_NF.ndim != 2 or len(feature_NF) != rows:
        raise InputError(f"features must be a matrix of {rows} rows, however its shape is {feature_NF.shape}")
    if feature_NF.dtype.kind == "f":
        _refuse_nan(feature_NF.ravel(), "features")
    return feature_NF


def _by_era(score: Callable[..., float], prediction: Any, target: Any, era: Any, other: Any = None) -> pd.Series[float]:
    """`score(prediction, target[, other])` of each era's labelled rows, NaN where the era is undefined."""
    prediction_N, target_N = np.asarray(prediction), np.asarray(target, np.float64)
    label_E, code_N = era_codes(era)
    _same_length(prediction=prediction_N, target=target_N, era=code_N)
    _refuse_nan(prediction_N, "prediction")
    extra = None
    if other is not None:
        extra = np.asarray(other)
        extra = as_matrix(extra, len(code_N)) if extra.ndim == 2 else extra
        _same_length(prediction=prediction_N, other=extra)
    value_E = np.full(len(label_E), np.nan)
    for i, rows in enumerate(groups(code_N, len(label_E))):
        kept = rows[~np.isnan(target_N[rows])]
        if len(kept) > 1 and _varies(prediction_N[kept]) and _varies(target_N[kept]):
            value_E[i] = score(prediction_N[kept], target_N[kept], *(() if extra is None else (extra[kept],)))
    return _series(value_E, label_E)


def _numerai_corr(prediction_M: Array, target_M: F64) -> float:
    return _pearson(_power(_gaussian_ranks(prediction_M)), _power(target_M - target_M.mean()))


def _contribution(prediction_M: Array, target_M: F64, reference_M: F64) -> float:
    if not _varies(reference_M):
        return float("nan")
    p, m = _gaussian_ranks(prediction_M), _gaussian_ranks(reference_M)
    orthogonal = p - m * ((p @ m) / (m @ m))
    return float((4 * target_M - (4 * target_M).mean()) @ orthogonal) / len(target_M)


def _feature_neutral_corr(prediction_M: Array, target_M: F64, feature_MF: Array) -> float:
    gaussian = _gaussian_ranks(prediction_M)
    neutral = residual(gaussian, feature_MF)
    # What a perfect fit leaves is rounding: ranking it would score noise.
    if np.abs(neutral).max() <= 1e-9 * np.abs(gaussian).max():
        return float("nan")
    return _numerai_corr(neutral, target_M)


def _exposure(prediction_M: Array, feature_MF: Array) -> float:
    if len(prediction_M) < 2 or not _varies(prediction_M):
        return float("nan")
    p_M = prediction_M.astype(np.float64) - prediction_M.mean(dtype=np.float64)
    x_MF = feature_MF.astype(np.float64) - feature_MF.mean(0, dtype=np.float64)
    x_MF = x_MF[:, np.ptp(feature_MF, axis=0) > 0] if feature_MF.size else x_MF
    if not x_MF.shape[1]:
        return float("nan")
    return float(np.abs(p_M @ x_MF / np.sqrt((x_MF**2).sum(0) * (p_M @ p_M))).max())


def _gaussian_ranks(values_M: Array) -> F64:
    # The standard library's quantile is accurate to 1e-15 and takes 1.5 ms an era, so scipy is not needed at run time.
    quantile = NormalDist().inv_cdf
    return np.array([quantile(share) for share in ((rank_keep_ties(values_M) - 0.5) / len(values_M)).tolist()])


def _power(values_M: F64) -> F64:
    return np.sign(values_M) * np.abs(values_M) ** 1.5


def _pearson(a_M: F64, b_M: F64) -> float:
    a_M, b_M = a_M - a_M.mean(), b_M - b_M.mean()
    return float(a_M @ b_M / np.sqrt((a_M @ a_M) * (b_M @ b_M)))


def _varies(values_M: Array) -> bool:
    return bool((values_M != values_M[0]).any())


def _key32(values_M: Array) -> npt.NDArray[np.uint32]:
    """Whole numbers in the order of the values, equal where the values are (-0.0 is 0.0)."""
    if values_M.dtype == np.float32:
        bits = (values_M + np.float32(0)).view(np.uint32)
        sign = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones for a negative number
        return bits ^ (sign | np.uint32(0x80000000))
    # Wider values could be made equal by rounding to 32 bits: their dense ranks can't.
    order_M = np.argsort(values_M, kind="stable")
    sorted_M = values_M[order_M]
    key_M = np.zeros(len(values_M), np.uint32)
    key_M[order_M[1:]] = np.cumsum(sorted_M[1:] != sorted_M[:-1], dtype=np.uint32)
    return key_M


def _packed(key_M: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    return (key_M.astype(np.uint64) << np.uint64(32)) | np.arange(len(key_M), dtype=np.uint64)


def _same_length(**arrays: Any) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"all arguments must have one length, however {told}")


def _refuse_nan(values_N: Array, name: str) -> None:
    if values_N.dtype.kind != "f":
        return
    missing_N = np.isnan(values_N)
    if missing_N.any():
        raise DataError(
            f"the {name} must have no NaN, however {int(missing_N.sum())} of {len(values_N)} are NaN,"
            f" the first at position {int(missing_N.argmax())}"
        )


def _series(value_E: F64, label_E: Array) -> pd.Series[float]:
    import pandas as pd

    return pd.Series(value_E, index=pd.Index(label_E, name="era"), dtype="float64")
