"""What the scores say: each candidate's figures with intervals, and each compared with the baseline.

Shape letters: S seeds, E eras.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eraflow.metrics import Summary, summary
from eraflow.prepared import NUMERAI_CORR, SPEARMAN
from eraflow.study.plan import Study
from eraflow.study.scores import DESCRIBING, PAYOUT, Scores
from eraflow.uncertainty import Difference, Interval, SeedNoise, differences, holm, interval, seed_noise

# The first of these that the data define well enough decides: what is paid, then what comes nearest to it.
DECIDING = (PAYOUT, NUMERAI_CORR, SPEARMAN)
# A score that fewer of the validated eras define, as payout where the meta model begins late, does not decide.
LEAST_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate on one metric."""

    interval: Interval
    """Of the recipe over its seeds; where it has one seed, of that trained model alone."""
    noise: SeedNoise
    """What varies."""
    summary: Summary
    """Of the seeds' mean score by era."""
    positive: float
    """Share of the scored eras above 0."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to "which of these is better?"."""

    metric: str
    """The one that decides."""
    against: str
    sentence: str
    rows: Mapping[str, Mapping[str, Row]]
    """Metric -> candidate -> its figures."""
    comparisons: Mapping[str, Mapping[str, Difference]]
    """Metric -> candidate -> the candidate less the baseline; none for a metric that only describes."""


def judge(study: Study, scores: Scores) -> Verdict | None:
    """None where not one candidate is finished."""
    known = [name for name in DECIDING if name in scores.by_metric]
    if not known:
        return None
    most = max(defined_eras(scores, name) for name in known)
    metric = next(name for name in known if defined_eras(scores, name) >= LEAST_SHARE * most)
    horizon = study.horizon_eras
    rows = {
        name: {who: _row(score_SE, scores, horizon) for who, score_SE in table.items()}
        for name, table in scores.by_metric.items()
    }
    against = study.config.against if study.config.against in rows[metric] else next(iter(rows[metric]))
    comparisons = {
        name: {} if name in DESCRIBING else _compared(table, scores, horizon, against)
        for name, table in scores.by_metric.items()
    }
    return Verdict(
        metric=metric,
        against=against,
        sentence=_sentence(metric, against, rows[metric], comparisons[metric]),
        rows=rows,
        comparisons=comparisons,
    )


def defined_eras(scores: Scores, metric: str) -> int:
    """Eras in which every candidate has that score."""
    table = scores.by_metric[metric]
    return int(np.isfinite(np.concatenate(list(table.values()))).all(0).sum())


def _row(score_SE: npt.NDArray[np.float64], scores: Scores, horizon: int) -> Row:
    mean_E = _seed_mean(score_SE)
    known_E = mean_E[~np.isnan(mean_E)]
    noise = seed_noise(score_SE, scores.era_E, horizon_eras=horizon, fold_E=scores.fold_E)
    alone = len(score_SE) == 1
    return Row(
        interval=interval(score_SE[0], scores.era_E, horizon_eras=horizon) if alone else noise.interval,
        noise=noise,
        summary=summary(mean_E),
        positive=float((known_E > 0).mean()) if len(known_E) else float("nan"),
    )


def _compared(
    table: Mapping[str, npt.NDArray[np.float64]], scores: Scores, horizon: int, against: str
) -> dict[str, Difference]:
    if len(table) < 2:
        return {}
    given = {name: score_SE[0] if len(score_SE) == 1 else score_SE for name, score_SE in table.items()}
    found = differences(given, scores.era_E, horizon_eras=horizon, against=against, fold_E=scores.fold_E)
    return {name: difference for (name, _), difference in found.items()}


def _seed_mean(score_SE: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(score_SE.mean(0))


def _sentence(metric: str, against: str, rows: Mapping[str, Row], comparisons: Mapping[str, Difference]) -> str:
    """For people who read one line."""
    said = {name: difference.verdict for name, difference in comparisons.items()}
    better = [name for name, verdict in said.items() if verdict == "better"]
    worse = [name for name, verdict in said.items() if verdict == "worse"]
    if not comparisons:
        return f"{against} alone was studied: {metric} {rows[against].interval}."
    if all(verdict == "undefined" for verdict in said.values()):
        return f"Nothing can be said: {next(iter(comparisons.values())).interval.lacking}."
    parts = []
    if better:
        best = max(better, key=lambda name: comparisons[name].interval.mean)
        gain = comparisons[best].interval
        parts.append(f"{', '.join(better)} {_be(better)} better than {against} in {metric} ({best} by {gain})")
    if worse:
        parts.append(f"{', '.join(worse)} {_be(worse)} worse than {against} in {metric}")
    if not parts:
        others = ", ".join(comparisons)
        known = _above_zero(rows)
        if not known:
            told = f"no difference in {metric} can be told between {against} and {others}"
            return f"Nothing can be said: {told}, and none is above 0 for certain."
        told = f"No difference in {metric} can be told between {against} and {others}"
        return f"{told}; above 0 for certain: {', '.join(known)}."
    return "; ".join(parts) + "."


def _above_zero(rows: Mapping[str, Row]) -> list[str]:
    """Whose mean is, their number accounted for."""
    adjusted = holm([row.interval.p_value for row in rows.values()])
    return [
        name
        for (name, row), p in zip(rows.items(), adjusted, strict=True)
        if p <= 1 - row.interval.level and row.interval.mean > 0
    ]


def _be(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
