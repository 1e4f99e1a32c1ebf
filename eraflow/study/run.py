"""A whole study without Prefect: its units in turn, its scores, its verdict."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import EraflowError
from eraflow.files import META_MODEL_FILE
from eraflow.progress import Progress, silent
from eraflow.references import META_MODEL, benchmark_files, reference
from eraflow.rounds import duration_text
from eraflow.study.oracle import shares
from eraflow.study.plan import Study, Unit
from eraflow.study.scores import BMC, MMC, Scores, score
from eraflow.study.units import Done, do, find
from eraflow.study.verdict import Verdict, judge
from eraflow.uncertainty import Interval

logger = logging.getLogger("eraflow")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a study came to."""

    study: Study
    scores: Scores
    verdict: Verdict | None
    done: Mapping[str, Done]
    """By unit key."""
    errors: Mapping[str, str]
    """Unit key -> what its failure said."""
    shares: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    """Metric -> candidate -> its share of what is best there (`oracle.shares`); empty on real data."""


def references_of(study: Study) -> dict[str, list[npt.NDArray[Any]]]:
    """What MMC and BMC are taken against, for the stored files of the study; without a file of it a score is left out.

    `meta_model.parquet` and `*_benchmark_models.parquet` lie beside the study's `features.json`. Raises as `reference`.
    """
    here = study.features_file.parent
    wanted = {
        MMC: (sorted(here.glob(META_MODEL_FILE)), META_MODEL),
        BMC: (benchmark_files(here), study.config.benchmark),
    }
    found = {}
    for name, (files, column) in wanted.items():
        if column and files:
            found[name] = [reference(one, files, column) for one in study.stored]
    return {name: parts for name, parts in found.items() if not all(np.isnan(part).all() for part in parts)}


class Watch:
    """What ended how, told as it goes with the time that is left by what the units of each candidate took so far."""

    def __init__(self, study: Study, progress: Progress = silent) -> None:
        self.study, self.progress, self.errors = study, progress, dict[str, str]()
        self.seconds: dict[str, list[float]] = {}
        """Candidate -> what its units took that are there."""
        self.waiting = {unit.key: unit for unit in study.units}
        before = [self._note(unit) for unit in study.units]
        self.found_before = sum(before)

    def ended(self, unit: Unit, error: BaseException | None = None) -> None:
        """Note the end of `unit`; `error` is what it failed with."""
        if self.waiting.pop(unit.key, None) is not None and error is None:
            self._note(unit)
        if error is not None:
            self.errors[unit.key] = f"{unit.name}: {_said(error)}"
            logger.warning("%s failed: %s", unit.name, _said(error))
        self.progress("study", self.ended_units, len(self.study.units), f"{unit.name}{self._left()}")

    @property
    def ended_units(self) -> int:
        return len(self.study.units) - len(self.waiting)

    @property
    def sentence(self) -> str:
        """How all of it ended."""
        kept = f", {self.found_before} of them done before" if self.found_before else ""
        failed = f"; {len(self.errors)} failed: {next(iter(self.errors.values()))}" if self.errors else ""
        return f"{self.ended_units - len(self.errors)} of {len(self.study.units)} units are there{kept}{failed}"

    def _note(self, unit: Unit) -> bool:
        done = find(self.study, unit)
        if done is not None:
            self.seconds.setdefault(unit.candidate.name, []).append(done.seconds)
        return done is not None

    def _left(self) -> str:
        """The longest-known candidates stand in for one of which nothing has ended yet."""
        means = {name: sum(all_s) / len(all_s) for name, all_s in self.seconds.items()}
        if not self.waiting or not means:
            return ""
        anyhow = sum(means.values()) / len(means)
        left_s = sum(means.get(unit.candidate.name, anyhow) for unit in self.waiting.values())
        at_once = 1 if self.study.config.runner == "in turn" else self.study.config.workers
        return f", about {duration_text(left_s / at_once)} left"


def run(study: Study, references: Mapping[str, Sequence[npt.NDArray[Any]]], progress: Progress = silent) -> Found:
    """All units in turn. A unit that fails is told, and the others are done; what is finished is never done again."""
    watch = Watch(study, progress)
    for unit in study.units:
        try:
            do(study, unit)
        except EraflowError as error:
            watch.ended(unit, error)
        else:
            watch.ended(unit)
    return found_of(study, references, watch.errors)


def found_of(study: Study, references: Mapping[str, Sequence[npt.NDArray[Any]]], errors: Mapping[str, str]) -> Found:
    """Scores and verdict of the units that are there."""
    done = {unit.key: found for unit in study.units if (found := find(study, unit)) is not None}
    scores = score(study, done, references, errors=errors)
    return Found(
        study=study,
        scores=scores,
        verdict=judge(study, scores),
        done=done,
        errors=errors,
        shares=shares(study, scores),
    )


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, EraflowError) else f"unexpected {type(error).__name__}: {error}"
