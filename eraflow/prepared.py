"""Scores by era of many predictions against one target: what does not depend on the prediction is done once.

Read `PreparedScores`, then `_Era.scores`: rank the columns of an era once, then every score is a sum of products of
those ranks, or of their normal quantiles, with something prepared. `PreparedSpearman` is the one score the training
loop asks for. numpy alone and no matrix library: training's own threads are not disturbed.

An era is undefined, and its value NaN, where it has fewer than two rows with a target, a constant prediction or a
constant target. Rows without a target are left out before anything is ranked; a NaN prediction is refused.

Shape letters: N rows, E eras, K prediction columns, M rows of one era that have a target.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.eras import Rows, as_columns, by_era, same_length
from eraflow.errors import InputError
from eraflow.ranks import centred_ranks, gaussian

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

SPEARMAN, NUMERAI_CORR = "spearman", "numerai_corr"

# So many values are ranked at a time: what is made of them stays in a core's cache (2 MB here).
VALUES_AT_A_TIME = 20_000


class PreparedScores:
    """Spearman, numerai_corr and contributions to each of `references`, by era, for any number of predictions.

    `target_N` float (NaN = left out), `era_N` whole numbers or text of digits. Neither needs an order, though rows in
    order of eras are read in place. `references` names what contributions are measured against, as
    `{"mmc": meta_model_N}`: float, NaN where there is none.
    """

    def __init__(self, target_N: Array, era_N: Array, references: Mapping[str, Array] | None = None) -> None:
        given = {name: np.asarray(reference_N, np.float64) for name, reference_N in (references or {}).items()}
        same_length(target=target_N, era=era_N, **given)
        self.rows = len(target_N)
        self.names = (SPEARMAN, NUMERAI_CORR, *given)
        self.era_E, rows_E = by_era(era_N)
        self._eras = [_era(np.asarray(target_N), rows, given) for rows in rows_E]

    def __call__(self, prediction: Any, names: Collection[str] | None = None) -> dict[str, F64]:
        """Each score in order of eras, float64 `[E]` for one prediction `[N]`, `[E, K]` for several `[N, K]`.

        `names` chooses among `self.names`; all by default. Predictions of any numeric dtype.
        Raises `InputError` for another length or an unknown name, `DataError` for a NaN among the predictions.
        """
        wanted = self.names if names is None else tuple(names)
        if unknown := set(wanted) - set(self.names):
            raise InputError(f"scores must be among {', '.join(self.names)}, however {sorted(unknown)} were asked for")
        prediction_NK = as_columns(prediction, self.rows)
        n_columns = prediction_NK.shape[1]
        found = {name: np.full((len(self.era_E), n_columns), np.nan) for name in wanted}
        with np.errstate(invalid="ignore", divide="ignore"):
            for e, era in enumerate(self._eras):
                if era is None:
                    continue
                at_a_time = max(1, VALUES_AT_A_TIME // era.n_rows)
                here_MK = prediction_NK[era.rows]
                for start in range(0, n_columns, at_a_time):
                    columns = slice(start, start + at_a_time)
                    for name, value_K in era.scores(here_MK[:, columns].T, wanted).items():
                        found[name][e, columns] = value_K
        return found if np.ndim(prediction) == 2 else {name: value_EK[:, 0] for name, value_EK in found.items()}


class PreparedSpearman:
    """Spearman's rank correlation by era, prepared once for a target and used for many predictions.

    Arguments as of `PreparedScores`. Average ranks for ties. Exact: centred ranks are whole numbers when doubled, so
    every sum is exact in float64 up to 200,000 rows an era.
    """

    def __init__(self, target_N: Array, era_N: Array) -> None:
        self._scores = PreparedScores(target_N, era_N)
        self.era_E = self._scores.era_E

    def __call__(self, prediction: Array) -> tuple[Array, F64]:
        """Eras in numeric order `[E]` and their correlations float64 `[E]` or `[E, K]`, NaN where undefined.

        Raises as `PreparedScores`.
        """
        return self.era_E, self._scores(prediction, (SPEARMAN,))[SPEARMAN]


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """What a contribution needs of one reference in one era."""

    subset: npt.NDArray[np.int64] | None
    """Which of the era's rows have a reference; None where all have one, so that their ranks serve here too."""
    gaussian_M: F64
    square: float
    target_M: F64
    """Four times the target, centred."""
    on_target: float
    """`gaussian_M @ target_M`."""


@dataclass(frozen=True, kw_only=True)
class _Era:
    """One era's rows and whatever of its scores does not depend on the prediction."""

    rows: Rows
    n_rows: int
    rank_M: F64
    rank_square: float
    power_M: F64
    """The target's signed power of numerai_corr, centred."""
    power_square: float
    references: Mapping[str, _Reference | None]
    """None where the reference is missing or constant: nothing can be contributed to it."""

    def scores(self, prediction_KM: Array, wanted: Collection[str]) -> dict[str, Any]:
        """Each of `wanted`, `[K]`. A constant column gives 0/0: NaN."""
        rank_KM = centred_ranks(prediction_KM)
        found: dict[str, Any] = {}
        if SPEARMAN in wanted:
            exact_KM = rank_KM.astype(np.float64)
            square_K = _dot(exact_KM, exact_KM) * self.rank_square
            found[SPEARMAN] = _dot(exact_KM, self.rank_M) / np.sqrt(square_K)
        if len(found) == len(wanted):
            return found
        gaussian_KM = gaussian(rank_KM)
        if NUMERAI_CORR in wanted:
            power_KM = power(gaussian_KM)
            square_K = _dot(power_KM, power_KM) - self.n_rows * power_KM.mean(1) ** 2
            found[NUMERAI_CORR] = _dot(power_KM, self.power_M) / np.sqrt(square_K * self.power_square)
        for name, reference in self.references.items():
            if name in wanted and reference is not None:
                found[name] = _contribution(prediction_KM, gaussian_KM, reference)
        return found


def power(values: F64) -> F64:
    """The signed power 1.5 of numerai_corr."""
    # A tenth of the time of `**`, and within a unit in the last place of it.
    return np.asarray(np.sqrt(np.abs(values)) * values)


def _era(target_N: Array, rows: Rows, references: Mapping[str, F64]) -> _Era | None:
    """None where the era defines no score, whatever is predicted."""
    target_M = target_N[rows].astype(np.float64)
    labelled_M = ~np.isnan(target_M)
    if not labelled_M.all():
        rows = _indices(rows)[labelled_M]
        target_M = target_M[labelled_M]
    if len(target_M) < 2 or not (target_M != target_M[0]).any():
        return None
    rank_M = centred_ranks(target_M[np.newaxis])[0].astype(np.float64)
    power_M = power(target_M - target_M.mean())
    power_M -= power_M.mean()
    return _Era(
        rows=rows,
        n_rows=len(target_M),
        rank_M=rank_M,
        rank_square=float(_dot(rank_M, rank_M)),
        power_M=power_M,
        power_square=float(_dot(power_M, power_M)),
        references={name: _reference(target_M, reference_N[rows]) for name, reference_N in references.items()},
    )


def _reference(target_M: F64, reference_M: F64) -> _Reference | None:
    subset: npt.NDArray[np.int64] | None = None
    known_M = ~np.isnan(reference_M)
    if not known_M.all():
        subset = np.flatnonzero(known_M)
        target_M, reference_M = target_M[subset], reference_M[subset]
    gaussian_M = gaussian(centred_ranks(reference_M[np.newaxis]))[0] if len(target_M) else target_M
    # An era of which the rows with a reference all have one target defines nothing, as everywhere.
    if not gaussian_M.any() or not (target_M != target_M[0]).any():
        return None
    fourfold_M = 4 * target_M - (4 * target_M).mean()
    return _Reference(
        subset=subset,
        gaussian_M=gaussian_M,
        square=float(_dot(gaussian_M, gaussian_M)),
        target_M=fourfold_M,
        on_target=float(_dot(gaussian_M, fourfold_M)),
    )


def _contribution(prediction_KM: Array, gaussian_KM: F64, to: _Reference) -> Any:
    if to.subset is not None:
        gaussian_KM = gaussian(centred_ranks(prediction_KM[:, to.subset]))
    on_reference_K = _dot(gaussian_KM, to.gaussian_M)
    covariance_K = (_dot(gaussian_KM, to.target_M) - on_reference_K * (to.on_target / to.square)) / len(to.target_M)
    return np.where(gaussian_KM.any(1), covariance_K, np.nan)


def _dot(a: F64, b: F64) -> Any:
    """Sums of products along the last axis, without a matrix library's threads."""
    return np.einsum("...m,...m->...", a, b)


def _indices(rows: Rows) -> npt.NDArray[np.int64]:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
