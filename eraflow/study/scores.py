"""Finished units as a table of scores: by candidate, seed and era, on the same rows for all.

Shape letters: M rows of a fold, K columns (a candidate with a seed), S seeds, E eras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.folds import Fold
from eraflow.predictions import ensemble
from eraflow.prepared import NUMERAI_CORR, SPEARMAN, PreparedScores
from eraflow.study.config import PayoutConfig
from eraflow.study.exposure import EXPOSURE_MAX, EXPOSURE_RMS, FNC, exposure_scores
from eraflow.study.plan import Study, Unit
from eraflow.study.units import Done

F64 = npt.NDArray[np.float64]
Columns = dict[tuple[str, int], list[dict[int, Unit]]]
MMC, BMC, PAYOUT, BENCHMARK_CORR = "mmc", "bmc", "payout", "benchmark_corr"
METRICS = (PAYOUT, NUMERAI_CORR, MMC, BMC, FNC, SPEARMAN, BENCHMARK_CORR, EXPOSURE_MAX, EXPOSURE_RMS)
"""In the order in which they are told; the last three describe a candidate, and more of them is not better."""
DESCRIBING = (BENCHMARK_CORR, EXPOSURE_MAX, EXPOSURE_RMS)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Every era's scores of what was finished on all folds."""

    era_E: npt.NDArray[np.int64]
    fold_E: npt.NDArray[np.int64]
    """The fold that validated each era."""
    by_metric: Mapping[str, Mapping[str, F64]]
    """Metric -> candidate -> `[S, E]`, NaN where an era defines none; only metrics that some era defines."""
    correlation: Mapping[tuple[str, str], float]
    """Of two candidates' predictions, mean over eras, of their first seeds."""
    unfinished: Mapping[str, str]
    """Candidate -> why it is not in the table: verdicts are never taken over different eras."""


def score(
    study: Study,
    done: Mapping[str, Done],
    references: Mapping[str, Sequence[F64]],
    *,
    errors: Mapping[str, str] | None = None,
) -> Scores:
    """The table of all candidates whose every unit is in `done` (by key).

    `references` are "mmc" and "bmc" for the stored files of the study, each as `references.reference` gives it.
    """
    unfinished = _unfinished(study, done, errors or {})
    columns = _columns(study, unfinished)
    if not columns:
        nothing = np.empty(0, np.int64)
        return Scores(era_E=nothing, fold_E=nothing, by_metric={}, correlation={}, unfinished=unfinished)
    parts = [_scored(study, fold, columns, done, references) for fold in study.folds]
    joined = {name: np.concatenate([one.by_name[name] for one in parts]) for name in parts[0].by_name}
    joined[PAYOUT] = payout(joined[NUMERAI_CORR], joined.get(MMC), study.config.payout)
    return Scores(
        era_E=np.concatenate([one.era_E for one in parts]).astype(np.int64),
        fold_E=np.concatenate([np.full(len(one.era_E), one.fold.number) for one in parts]),
        by_metric=_by_candidate(joined, list(columns)),
        correlation=_pairs(_mean_over_eras([one.together_EKK for one in parts]), list(columns)),
        unfinished=unfinished,
    )


def payout(corr: F64, mmc: F64 | None, config: PayoutConfig) -> F64:
    """What a unit of stake is paid: `clip(factor · (corr · CORR + mmc · MMC))`; NaN where a part is not defined."""
    mmc_part = np.full_like(corr, np.nan) if mmc is None else mmc
    total = config.corr * corr + (config.mmc * mmc_part if config.mmc else 0.0)
    return np.clip(config.factor * total, -config.clip, config.clip)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """One fold."""

    fold: Fold
    era_E: npt.NDArray[np.int64]
    by_name: Mapping[str, F64]
    """Metric -> `[E, K]`."""
    together_EKK: F64


def _scored(
    study: Study, fold: Fold, columns: Columns, done: Mapping[str, Done], references: Mapping[str, Sequence[F64]]
) -> _Scored:
    target_M, era_M, reference_M = _rows_of(study, fold.validation_E, references)
    prepared = PreparedScores(target_M, era_M, reference_M)
    units_K = [[by_fold[fold.number] for by_fold in members] for members in columns.values()]
    prediction_MK = np.stack([_prediction(units, done, era_M) for units in units_K], axis=1)
    by_name = prepared(prediction_MK)
    if BMC in reference_M:
        by_name[BENCHMARK_CORR] = PreparedScores(reference_M[BMC], era_M)(prediction_MK, (SPEARMAN,))[SPEARMAN]
    by_name |= exposure_scores(study, fold.validation_E, prediction_MK, [_told(units) for units in units_K])
    return _Scored(fold=fold, era_E=prepared.era_E, by_name=by_name, together_EKK=_correlations(prediction_MK, era_M))


def _prediction(units: Sequence[Unit], done: Mapping[str, Done], era_M: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Of one unit, or the mean rank of several; always ranks."""
    predictions = [done[unit.key].prediction_M for unit in units]
    return predictions[0] if len(units) == 1 else ensemble(predictions, era_M)


def _told(units: Sequence[Unit]) -> str:
    return "+".join(unit.key for unit in units)


def _columns(study: Study, unfinished: Mapping[str, str]) -> Columns:
    """(candidate or ensemble, seed) -> for each of its members fold -> unit; only what is finished."""
    alone: dict[tuple[str, int], dict[int, Unit]] = {}
    for unit in study.units:
        alone.setdefault((unit.candidate.name, unit.seed), {})[unit.fold.number] = unit
    found: Columns = {key: [by_fold] for key, by_fold in alone.items() if key[0] not in unfinished}
    for name, members in study.config.ensembles.items():
        if name in unfinished:
            continue
        seeds = max(sum(who == one for who, _ in alone) for one in members)
        for seed in range(seeds):  # a member without seeds is the same in each
            found[name, seed] = [alone.get((one, seed), alone[one, 0]) for one in members]
    return found


def _unfinished(study: Study, done: Mapping[str, Done], errors: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for unit in study.units:
        if unit.key not in done:
            found.setdefault(unit.candidate.name, errors.get(unit.key, f"{unit.name} was not done"))
    for name, members in study.config.ensembles.items():
        if lacking := [one for one in members if one in found]:
            found[name] = f"its member {lacking[0]} is not: {found[lacking[0]]}"
    return found


def _rows_of(
    study: Study, validation_E: npt.NDArray[np.int64], references: Mapping[str, Sequence[F64]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], dict[str, F64]]:
    """Target, era and references of a fold's rows, in the order in which units predict them."""
    rows = study.rows(study.candidates[0])
    chosen = np.flatnonzero(np.isin(rows.era_M, validation_E))
    kept = rows.take(chosen)
    return kept.target_M, kept.era_M, {name: study.in_order(parts)[chosen] for name, parts in references.items()}


def _by_candidate(joined: Mapping[str, F64], columns: Sequence[tuple[str, int]]) -> dict[str, dict[str, F64]]:
    names = list(dict.fromkeys(name for name, _ in columns))
    places = {name: [k for k, (of, _) in enumerate(columns) if of == name] for name in names}
    return {
        metric: {name: joined[metric][:, places[name]].T for name in names}
        for metric in METRICS
        if metric in joined and not np.isnan(joined[metric]).all()
    }


def _correlations(prediction_MK: npt.NDArray[Any], era_M: npt.NDArray[np.int32]) -> F64:
    """Pearson's correlations between columns, which are ranks, era by era; float64 `[E, K, K]`."""
    bounds = np.flatnonzero(np.diff(era_M)) + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array(
            [np.atleast_2d(np.corrcoef(part.T)) for part in np.split(prediction_MK, bounds) if len(part) > 1]
        )


def _mean_over_eras(parts: Sequence[F64]) -> F64:
    """Of those eras that define a correlation; NaN where none does."""
    together_EKK = np.concatenate(parts)
    known_KK = (~np.isnan(together_EKK)).sum(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(together_EKK, axis=0) / known_KK)


def _pairs(together_KK: F64, columns: Sequence[tuple[str, int]]) -> dict[tuple[str, str], float]:
    first = {name: k for k, (name, seed) in enumerate(columns) if seed == 0}
    return {(a, b): float(together_KK[i, j]) for a, i in first.items() for b, j in first.items()}
