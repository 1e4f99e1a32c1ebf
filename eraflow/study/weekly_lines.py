"""The lines for `weekly.toml` that submit what a study found best.

A study may give every recipe its own target and feature set, and a variant has values of its own: whatever differs
from the recipe that eraflow knows by name is written down, so that the weekly round trains what was studied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eraflow import recipes
from eraflow.config import to_table, to_toml
from eraflow.recipes import Recipe
from eraflow.study.candidates import Candidate
from eraflow.study.config import StudyConfig
from eraflow.study.plan import Study
from eraflow.study.verdict import Verdict

SLOT = "YOUR_SLOT"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Which candidate to submit, why, and how."""

    name: str
    sentences: tuple[str, ...]
    lines: str | None
    """For `weekly.toml`, with `SLOT` in place of the slot's name; None where eraflow can submit none of them."""


def advice(study: Study, verdict: Verdict) -> Advice:
    """The best of those that are better than the baseline, otherwise the baseline: a tie is no reason to change.

    Where eraflow cannot submit that, the network with the highest mean that is not worse than the baseline.
    """
    candidates = {one.name: one for one in study.candidates}
    name, why = _chosen(verdict)
    lines = lines_for(candidates[name], study.config) if name in candidates else None
    if lines is not None:
        return Advice(name=name, sentences=(why, *_unlike(study.config)), lines=lines)
    kind = "no network" if name in candidates else "an ensemble"
    told = (why, f"{name} is {kind}: eraflow cannot submit it.")
    other = best_network(verdict, candidates)
    if other is None:
        return Advice(name=name, sentences=(*told, "None of the networks can be advised in its place."), lines=None)
    more = f"Of the networks that are not worse than {verdict.against} for certain, {other} has the highest mean."
    lines = lines_for(candidates[other], study.config)
    return Advice(name=other, sentences=(*told, more, *_unlike(study.config)), lines=lines)


def _unlike(config: StudyConfig) -> tuple[str, ...]:
    """What of the study a weekly round cannot do."""
    if config.folds.window == "expanding":
        return ()
    return (f"A round trains on all eras, not on the last {config.folds.window_eras} as this study did.",)


def _chosen(verdict: Verdict) -> tuple[str, str]:
    compared = verdict.comparisons[verdict.metric]
    better = [name for name, difference in compared.items() if difference.verdict == "better"]
    if better:
        best = max(better, key=lambda name: compared[name].interval.mean)
        return best, f"{best} is better than {verdict.against}" + (", by the most." if len(better) > 1 else ".")
    if not compared:
        return verdict.against, f"{verdict.against} alone was studied."
    return verdict.against, f"None is better than {verdict.against} for certain: keep that."


def best_network(verdict: Verdict, candidates: Mapping[str, Candidate]) -> str | None:
    """The network with the highest mean of those that are not worse than the baseline; None if there is none."""
    compared = verdict.comparisons[verdict.metric]
    means = {
        name: row.interval.mean
        for name, row in verdict.rows[verdict.metric].items()
        if isinstance(candidates.get(name), Recipe)
        and math.isfinite(row.interval.mean)
        and (name not in compared or compared[name].verdict != "worse")
    }
    return max(means, key=lambda name: means[name], default=None)


def lines_for(candidate: Candidate, config: StudyConfig) -> str | None:
    """The slot, and what differs from the named recipe as a variant; None for what eraflow cannot submit."""
    if not isinstance(candidate, Recipe):
        return None
    base = _base(candidate.name, config)
    stride = candidate.data.era_stride * config.folds.era_stride
    candidate = replace(candidate, data=replace(candidate.data, era_stride=stride))
    changed = _changes(to_table(candidate), to_table(recipes.get(base)))
    if not changed and candidate.name == base:
        return to_toml({"slots": {SLOT: base}}).lstrip()
    name = candidate.name if candidate.name != base else f"{base}-studied"
    return to_toml({"slots": {SLOT: name}, "variants": {name: {"recipe": base, **changed}}}).lstrip()


def _base(name: str, config: StudyConfig) -> str:
    return str(config.variants[name]["recipe"]) if name in config.variants else name


def _changes(table: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The inner tables' values that `base` does not have so."""
    found = {}
    for part, values in table.items():
        if isinstance(values, Mapping):
            kept = {key: value for key, value in values.items() if base.get(part, {}).get(key) != value}
            if kept:
                found[part] = kept
    return found
