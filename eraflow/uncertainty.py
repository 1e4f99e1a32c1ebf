"""How sure a mean of scores by era is, and whether two recipes differ.

Read `interval` first: eras overlap, so their scores are not independent, and everything here rests on its standard
error. Then `seed_noise`, which adds what another seed would change, `difference` and `differences`, which compare, and
`share`, which sets a score against the best one that is possible.
The coverage of all of them is measured by `python -m benchmarks.coverage` and told in docs/validation.md.

The formula (source: our own simulation). Two eras k weeks apart share 1 - k/h of their target's days, where h is the
horizon in weekly eras, and their scores correlate by as much: on live scores of the tournament .72 .48 .28 .15 at
k = 1 to 4 where h = 4 gives .75 .50 .25 0. With C the matrix of these correlations between the n scored eras:

    s = sum of C                     n if nothing overlaps, n h for long series without gaps
    variance = sum((x - mean)²) / (n - s/n)     unbiased under C, where dividing by n - 1 is too little
    standard error = sqrt(variance · s) / n
    degrees of freedom = n²/s - 1    the number of independent eras that these are worth, less one

What it does not see: scores that drift over years. A mean that changes has no overlap to be known by.

Shape letters: E eras, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eraflow.errors import InputError
from eraflow.student import quantile, tail

F64 = npt.NDArray[np.float64]
Eras = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LEAST_DEGREES = 1.0
"""Below it there is no interval: the eras are worth fewer than two independent ones."""
MODELS = "these trained models, on eras like these"
RECIPES = "the recipes, over seeds, folds and eras like these"
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over eras and how sure it is; where that cannot be said its figures are NaN and `lacking` says why."""

    mean: float
    low: float
    high: float
    standard_error: float
    naive_standard_error: float
    """What it would be if eras were independent: for comparison alone."""
    degrees_of_freedom: float
    """Of the t distribution; one less than the number of independent eras that these are worth."""
    eras: int
    """Eras that have a score."""
    left_out: int
    """Eras that have none (NaN)."""
    level: float
    horizon_eras: int
    lacking: str = ""
    """Why there is no interval; empty where there is one."""

    @property
    def defined(self) -> bool:
        return not self.lacking

    @property
    def p_value(self) -> float:
        """Probability of a mean at least this far from 0 if the true one were 0; NaN where undefined."""
        if not self.defined or self.mean == 0:
            return 1.0 if self.defined else math.nan
        return tail(self.mean / self.standard_error if self.standard_error else math.inf, self.degrees_of_freedom)

    def __str__(self) -> str:
        if self.defined:
            return f"{self.mean:.4f} ({100 * self.level:g} % interval {self.low:.4f} to {self.high:.4f})"
        return f"no interval: {self.lacking}"


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """One recipe trained with several seeds on the same folds: what varies, and two standard errors of its mean.

    Standard deviations: of one model's mean over a fold between seeds (`seed_sd`), of the scores between eras that
    all seeds share (`era_sd`), and of the rest. NaN where a single seed or too few eras cannot tell.
    """

    seeds: int
    folds: int
    seed_sd: float
    era_sd: float
    rest_sd: float
    model_standard_error: float
    """Of one trained model's mean: this model, on other eras like these."""
    interval: Interval
    """Of the mean over all seeds: the recipe, trained anew with other seeds and scored on other eras like these."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Scores of a less those of b, on the eras that both have."""

    interval: Interval
    """Of this comparison alone, whatever the number of comparisons."""
    estimated: str
    """What the interval is about: `MODELS` or `RECIPES`."""
    adjusted_p_value: float
    """The p value after Holm's correction for `comparisons`."""
    comparisons: int = 1

    @property
    def verdict(self) -> Literal["better", "worse", "tie", "undefined"]:
        """Of a against b, the number of comparisons accounted for; "undefined" where the eras are too few."""
        if not self.interval.defined:
            return "undefined"
        if self.adjusted_p_value > 1 - self.interval.level:
            return "tie"
        return "better" if self.interval.mean > 0 else "worse"

    def sentence(self, a: str, b: str) -> str:
        """The verdict in words."""
        said = {
            "better": f"{a} is better than {b}",
            "worse": f"{a} is worse than {b}",
            "tie": f"{a} and {b} tie",
            "undefined": f"nothing can be said of {a} against {b}",
        }[self.verdict]
        if not self.interval.defined:
            return f"{said}: {self.interval}"
        counted = f" after Holm's correction for {self.comparisons} comparisons" if self.comparisons > 1 else ""
        return f"{said}: difference {self.interval}, p = {self.adjusted_p_value:.2g}{counted}; of {self.estimated}"


def interval(score_E: Any, era_E: Any, *, horizon_eras: int, level: float = 0.95) -> Interval:
    """The mean of one trained model's scores by era, with an interval that accounts for the eras' overlap.

    `era_E` holds the original weekly eras as whole numbers, in any order, with gaps or down-sampled; a NaN score is
    left out. `horizon_eras`: how many eras the target reaches over (`splits.horizon_eras`); 1 for independent ones.
    Raises `InputError` for unequal lengths, repeated eras, infinite scores, or a wrong horizon or level.

    >>> found = interval([0.03, 0.01, 0.02, 0.04], [1, 2, 3, 4], horizon_eras=2)
    >>> print(found)
    0.0250 (95 % interval -0.0504 to 0.1004)
    """
    score_SE, era_E, kept_E = _scored(score_E, era_E, horizon_eras, level)
    if len(score_SE) > 1:
        raise InputError(f"an interval must be of one series of scores, however {len(score_SE)} came; use seed_noise")
    return _interval(score_SE[0], era_E, kept_E, horizon_eras, level)


def seed_noise(score_SE: Any, era_E: Any, *, horizon_eras: int, fold_E: Any = None, level: float = 0.95) -> SeedNoise:
    """Seed noise against era noise, from the scores of one recipe: a row for each seed, a column for each era.

    score = mean + seed (anew in each fold) + era + rest. Era and rest correlate over eras as in `interval`; within a
    fold, seeds and eras are crossed, which tells them apart (Henderson's method of moments, negative parts set to 0).
    The variance of the recipe's mean is that of the seeds' mean score plus seed variance / S · sum((n_f / n)²), with
    Satterthwaite's degrees of freedom. An era counts where all seeds have a score.

    `fold_E` is the number of the fold that validated each era; without it all were validated by one model a seed.
    What all seeds of a fold share, such as its training rows, is in the scatter of eras. Errors as in `interval`.
    """
    score_SE, era_E, kept_E = _scored(score_SE, era_E, horizon_eras, level)
    fold_E = np.zeros(len(era_E), np.int64) if fold_E is None else np.asarray(fold_E, np.int64)
    if fold_E.shape != era_E.shape:
        raise InputError(f"each era must have a fold, however the shapes are {era_E.shape} and {fold_E.shape}")
    mean = _interval(score_SE.mean(0), era_E, kept_E, horizon_eras, level)
    score_SE, era_E, fold_E = score_SE[:, kept_E], era_E[kept_E], fold_E[kept_E]
    parts = [fold_E == fold for fold in np.unique(fold_E)]
    seeds, n, s = len(score_SE), len(era_E), overlap_sum(era_E, horizon_eras)
    if seeds == 1 or not mean.defined or len(parts) == n:
        return _untold(mean, seeds, len(parts))
    seed_variance, rest_variance = _crossed(
        [score_SE[:, part] for part in parts], [overlap_sum(era_E[part], horizon_eras) for part in parts]
    )
    era_variance = max(0.0, mean.standard_error**2 * n * n / s - rest_variance / seeds)
    seed_part = seed_variance / seeds * sum(float(part.mean()) ** 2 for part in parts)
    return SeedNoise(
        seeds=seeds,
        folds=len(parts),
        seed_sd=math.sqrt(seed_variance),
        era_sd=math.sqrt(era_variance),
        rest_sd=math.sqrt(rest_variance),
        model_standard_error=math.sqrt((era_variance + rest_variance) * s) / n,
        interval=_widened(mean, seed_part, len(parts) * (seeds - 1)),
    )


def difference(a: Any, b: Any, era_E: Any, *, horizon_eras: int, fold_E: Any = None, level: float = 0.95) -> Difference:
    """Is a better than b? Their paired difference on the eras that both have.

    Each is `[E]`, one trained model, or `[S, E]`, a recipe with several seeds, which then are the same for both (a
    model without seeds goes with either). With seeds the interval is that of the recipes and holds their seed noise;
    without, it is of these trained models and says nothing of the recipes. Otherwise as `interval` and `seed_noise`.
    """
    a_E, b_E = _numbers(a), _numbers(b)
    if a_E.shape[-1:] != b_E.shape[-1:] or (a_E.ndim == b_E.ndim == 2 and len(a_E) != len(b_E)):
        raise InputError(
            f"both must have the same seeds and eras, however their shapes are {a_E.shape} and {b_E.shape}"
        )
    gain = a_E - b_E
    # What is left of two equal predictions is rounding, and without this would be a difference beyond doubt.
    gain = np.where(np.abs(gain) < _ROUNDING, 0.0, gain)
    if gain.ndim == 1 or len(gain) == 1:
        found, estimated = interval(gain, era_E, horizon_eras=horizon_eras, level=level), MODELS
    else:
        made = seed_noise(gain, era_E, horizon_eras=horizon_eras, fold_E=fold_E, level=level)
        found, estimated = made.interval, RECIPES
    return Difference(interval=found, estimated=estimated, adjusted_p_value=found.p_value)


def differences(
    scores: Mapping[str, Any],
    era_E: Any,
    *,
    horizon_eras: int,
    against: str | None = None,
    fold_E: Any = None,
    level: float = 0.95,
) -> dict[tuple[str, str], Difference]:
    """Several recipes compared on the eras that all of them have: each with `against`, or each with each other.

    The verdicts account for the number of comparisons by Holm's method: the chance that any of them calls two equal
    recipes different is at most 1 - level. Name `against` before the scores are seen; the best of several, picked
    afterwards, is only fairly compared by comparing all with all.
    """
    if against is not None and against not in scores:
        raise InputError(f"the recipe to compare with must be one of {', '.join(scores)}, however it is {against}")
    given = {name: _numbers(score) for name, score in scores.items()}
    if len({score.shape[-1] for score in given.values()}) > 1:
        raise InputError("all recipes must be scored on the same eras, however their numbers of scores differ")
    lacking_E = np.any([np.isnan(np.atleast_2d(score)).any(0) for score in given.values()], axis=0)
    given = {name: np.where(lacking_E, np.nan, score) for name, score in given.items()}
    pairs = list(combinations(given, 2)) if against is None else [(name, against) for name in given if name != against]
    found = [
        difference(given[a], given[b], era_E, horizon_eras=horizon_eras, fold_E=fold_E, level=level) for a, b in pairs
    ]
    adjusted = holm([one.interval.p_value for one in found])
    return {
        pair: replace(one, adjusted_p_value=p, comparisons=len(pairs))
        for pair, one, p in zip(pairs, found, adjusted, strict=True)
    }


def share(
    score: Any, oracle_E: Any, era_E: Any, *, horizon_eras: int, fold_E: Any = None, level: float = 0.95
) -> Interval:
    """What share of the oracle's mean the scores' mean is, on the eras that both have; 1 is the oracle itself.

    `score` is `[E]`, one trained model, or `[S, E]`, a recipe, as in `difference`; `oracle_E` what could be scored at
    best. With r the ratio of the means, the interval is that of the mean of (score - r · oracle) / mean(oracle), around
    r (source: the ratio estimator of survey sampling, linearised by the delta method). So it assumes what `interval`
    and `seed_noise` do, and that the oracle's mean is known well: its own error counts to first order alone. Where the
    oracle's interval does not lie above 0 the share is undefined, NaN. Errors as in `interval` and `seed_noise`.

    >>> print(share([0.01, 0.03, 0.02, 0.03], [0.04, 0.06, 0.05, 0.05], [1, 2, 3, 4], horizon_eras=1))
    0.4500 (95 % interval 0.2361 to 0.6639)
    """
    score_SE, oracle_E = np.atleast_2d(_numbers(score)), np.atleast_1d(_numbers(oracle_E))
    if oracle_E.shape != score_SE.shape[1:]:
        raise InputError(
            f"the oracle must have a score for each era, however the shapes are {oracle_E.shape} and {score_SE.shape}"
        )
    lacking_E = np.isnan(score_SE).any(0) | np.isnan(oracle_E)
    known_E = np.where(lacking_E, np.nan, oracle_E)
    best = interval(known_E, era_E, horizon_eras=horizon_eras, level=level)
    if not best.low > 0:
        nan, why = math.nan, f"the oracle's own mean of {best.mean:.4f} is not above 0 for certain"
        unknown = replace(best, mean=nan, low=nan, high=nan, standard_error=nan, naive_standard_error=nan)
        return replace(unknown, lacking=best.lacking or why)
    ratio = float(score_SE[:, ~lacking_E].mean()) / best.mean
    rest_SE = (score_SE - ratio * known_E) / best.mean
    if len(rest_SE) == 1:
        found = interval(rest_SE[0], era_E, horizon_eras=horizon_eras, level=level)
    else:
        found = seed_noise(rest_SE, era_E, horizon_eras=horizon_eras, fold_E=fold_E, level=level).interval
    return replace(found, mean=ratio, low=found.low + ratio, high=found.high + ratio)


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p values: the i-th smallest of m times m - i + 1, at most 1, never falling. NaN stays and counts.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    return [float(value) for value in adjusted]


def overlap_sum(era_E: Eras, horizon_eras: int) -> float:
    """Sum over all pairs of distinct eras, each with itself too, of their correlation max(0, 1 - weeks / horizon).

    >>> overlap_sum(np.array([1, 2, 6]), 4)
    4.5
    """
    era_E = np.sort(era_E)
    # The j-th next era is at least j weeks away.
    near = (era_E[j:] - era_E[:-j] for j in range(1, min(horizon_eras, len(era_E))))
    return len(era_E) + 2 * sum(float(np.maximum(0, 1 - weeks / horizon_eras).sum()) for weeks in near)


def _numbers(score: Any) -> F64:
    found = np.asarray(score, np.float64)
    if found.ndim not in (1, 2):
        raise InputError(f"scores must be [eras] or [seeds, eras], however their shape is {found.shape}")
    if np.isinf(found).any():
        raise InputError("scores must be numbers or NaN, however some are infinite")
    return found


def _scored(score: Any, era_E: Any, horizon_eras: int, level: float) -> tuple[F64, Eras, Mask]:
    """The scores [S, E], the eras [E], and whether all seeds have a score [E]."""
    score_SE = np.atleast_2d(_numbers(score))
    try:
        era_E = np.asarray(era_E, np.int64)
    except (TypeError, ValueError) as error:
        raise InputError(f"eras must be whole numbers, however one could not be read: {error}") from error
    if era_E.shape != score_SE.shape[1:]:
        raise InputError(f"each score must have an era, however the shapes are {score_SE.shape} and {era_E.shape}")
    if len(np.unique(era_E)) < len(era_E):
        raise InputError("each era must have one score, however some eras are there twice")
    if horizon_eras < 1 or not 0 < level < 1:
        raise InputError(
            f"the horizon must be 1 or more and the level between 0 and 1, however they are {horizon_eras} and {level}"
        )
    return score_SE, era_E, np.asarray(np.isfinite(score_SE).all(0))


def _interval(score_E: F64, era_E: Eras, kept_E: Mask, horizon_eras: int, level: float) -> Interval:
    score_E, s = score_E[kept_E], overlap_sum(era_E[kept_E], horizon_eras)
    n, nan = len(score_E), math.nan
    worth = n * n / s if n else 0.0
    mean = float(score_E.mean()) if n else nan
    square = float(((score_E - mean) ** 2).sum())
    made = Interval(
        mean=mean,
        low=nan,
        high=nan,
        standard_error=nan,
        naive_standard_error=math.sqrt(square / (n - 1) / n) if n > 1 else nan,
        degrees_of_freedom=worth - 1,
        eras=n,
        left_out=len(kept_E) - n,
        level=level,
        horizon_eras=horizon_eras,
        lacking=f"{n} eras whose targets reach over {horizon_eras} are worth {worth:.1f} independent eras, and at least"
        f" {LEAST_DEGREES + 1:g} are needed",
    )
    return made if worth < LEAST_DEGREES + 1 else _with_error(made, math.sqrt(square / (n - s / n) * s) / n, worth - 1)


def _with_error(found: Interval, error: float, degrees: float) -> Interval:
    half = error * quantile(found.level, degrees)
    return replace(
        found,
        low=found.mean - half,
        high=found.mean + half,
        standard_error=error,
        degrees_of_freedom=degrees,
        lacking="",
    )


def _widened(found: Interval, seed_part: float, seed_degrees: int) -> Interval:
    """`found` with the variance `seed_part` added; degrees of freedom by Satterthwaite."""
    era_part = found.standard_error**2
    if seed_part == 0:
        return found
    total = era_part + seed_part
    degrees = total**2 / (era_part**2 / found.degrees_of_freedom + seed_part**2 / seed_degrees)
    return _with_error(found, math.sqrt(total), degrees)


def _crossed(score: list[F64], overlap: list[float]) -> tuple[float, float]:
    """Variances of seed and rest from the scores [S, E] of each fold and the sums of their eras' correlations."""
    seeds = len(score[0])
    square, count = 0.0, 0.0
    for x_SE, s in zip(score, overlap, strict=True):
        rest_SE = x_SE - x_SE.mean(1, keepdims=True) - x_SE.mean(0) + x_SE.mean()
        square += float((rest_SE**2).sum())
        count += (seeds - 1) * (x_SE.shape[1] - s / x_SE.shape[1])
    rest_variance = square / count
    between = [
        float(x_SE.mean(1).var(ddof=1)) - rest_variance * s / x_SE.shape[1] ** 2
        for x_SE, s in zip(score, overlap, strict=True)
    ]
    return max(0.0, float(np.mean(between))), rest_variance


def _untold(found: Interval, seeds: int, folds: int) -> SeedNoise:
    """What is left where seeds and eras cannot be told apart."""
    nan = math.nan
    why = "one seed says nothing of another" if seeds == 1 else "folds of one era do not tell seeds from eras"
    return SeedNoise(
        seeds=seeds,
        folds=folds,
        seed_sd=nan,
        era_sd=nan,
        rest_sd=nan,
        model_standard_error=found.standard_error if seeds == 1 else nan,
        interval=replace(found, low=nan, high=nan, standard_error=nan, lacking=found.lacking or why),
    )
