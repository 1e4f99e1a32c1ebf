"""Finished units as a table of scores: by candidate, seed and era, on the same rows for all.

Shape letters: M rows of a fold, K columns (a candidate with a seed), S seeds, E eras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eraflow.prepared import NUMERAI_CORR, SPEARMAN, PreparedScores
from eraflow.study.config import PayoutConfig
from eraflow.study.plan import Study, Unit
from eraflow.study.units import Done

F64 = npt.NDArray[np.float64]
MMC, BMC, PAYOUT = "mmc", "bmc", "payout"
METRICS = (SPEARMAN, NUMERAI_CORR, MMC, BMC, PAYOUT)


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
    names = [one.name for one in study.candidates if one.name not in unfinished]
    eras, folds, found, together = [], [], list[dict[str, F64]](), list[F64]()
    columns = _columns(study, names)
    for fold in study.folds if names else ():
        target_M, era_M, reference_M = _rows_of(study, fold.validation_E, references)
        prepared = PreparedScores(target_M, era_M, reference_M)
        prediction_MK = np.stack([done[by_fold[fold.number].key].prediction_M for by_fold in columns.values()], axis=1)
        found.append(prepared(prediction_MK))
        eras.append(prepared.era_E)
        folds.append(np.full(len(prepared.era_E), fold.number))
        together.append(_correlations(prediction_MK, era_M))
    if not names:
        return Scores(
            era_E=np.empty(0, np.int64), fold_E=np.empty(0, np.int64), by_metric={}, correlation={},
            unfinished=unfinished,
        )  # fmt: skip
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    joined[PAYOUT] = payout(joined[NUMERAI_CORR], joined.get(MMC), study.config.payout)
    return Scores(
        era_E=np.concatenate(eras).astype(np.int64),
        fold_E=np.concatenate(folds),
        by_metric=_by_candidate(joined, list(columns)),
        correlation=_pairs(np.mean(together, axis=0), list(columns), names),
        unfinished=unfinished,
    )


def payout(corr: F64, mmc: F64 | None, config: PayoutConfig) -> F64:
    """What a unit of stake is paid: `clip(factor · (corr · CORR + mmc · MMC))`; NaN where a part is not defined."""
    mmc_part = np.full_like(corr, np.nan) if mmc is None else mmc
    total = config.corr * corr + (config.mmc * mmc_part if config.mmc else 0.0)
    return np.clip(config.factor * total, -config.clip, config.clip)


def _columns(study: Study, names: Sequence[str]) -> dict[tuple[str, int], dict[int, Unit]]:
    """(candidate, seed) -> fold -> unit."""
    found: dict[tuple[str, int], dict[int, Unit]] = {}
    for unit in study.units:
        if unit.candidate.name in names:
            found.setdefault((unit.candidate.name, unit.seed), {})[unit.fold.number] = unit
    return found


def _unfinished(study: Study, done: Mapping[str, Done], errors: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for unit in study.units:
        if unit.key not in done:
            found.setdefault(unit.candidate.name, errors.get(unit.key, f"{unit.name} was not done"))
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
        metric: {name: value_EK[:, places[name]].T for name in names}
        for metric, value_EK in joined.items()
        if not np.isnan(value_EK).all()
    }


def _correlations(prediction_MK: npt.NDArray[np.float32], era_M: npt.NDArray[np.int32]) -> F64:
    """Mean over eras of Pearson's correlations between columns, which are ranks; float64 `[K, K]`."""
    bounds = np.flatnonzero(np.diff(era_M)) + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [np.atleast_2d(np.corrcoef(part.T)) for part in np.split(prediction_MK, bounds) if len(part) > 1]
    return np.asarray(np.nanmean(parts, axis=0))


def _pairs(together_KK: F64, columns: Sequence[tuple[str, int]], names: Sequence[str]) -> dict[tuple[str, str], float]:
    first = {name: next(k for k, (of, _) in enumerate(columns) if of == name) for name in names}
    return {(a, b): float(together_KK[first[a], first[b]]) for a in names for b in names}
