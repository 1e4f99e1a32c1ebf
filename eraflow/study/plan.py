"""A study before any training: its data, its folds, its units of work. All that can be refused is refused here.

    folder/study.json      what was asked, of which files
    units/<hash>/          shared by all studies of a home (`units`)

Shape letters: M rows, E eras.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eraflow.config import build, to_table
from eraflow.dataset import decode
from eraflow.errors import InputError, StorageError
from eraflow.feature_sets import FeatureSets, read_features_json
from eraflow.files import File
from eraflow.folds import Fold, walk_forward
from eraflow.progress import Progress, silent
from eraflow.rows import Rows
from eraflow.splits import every_nth
from eraflow.store import Store, write_json
from eraflow.stored import StoredDataset, matching_target, open_stored, suffix_days
from eraflow.study.candidates import Candidate, candidates_of, fingerprint, seeds_of
from eraflow.study.config import StudyConfig

FORMAT = 2
STUDY = "study.json"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of work: a candidate fitted on a fold with a seed."""

    candidate: Candidate
    fold: Fold
    seed: int
    key: str
    """A hash of all that decides its predictions."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.candidate.name}, fold {self.fold.number}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared on what; small, and the same in every process that opens it."""

    folder: Path
    config: StudyConfig
    parts: tuple[Path, ...]
    """Folders of the decoded files, in order of time."""
    features_file: Path

    @cached_property
    def stored(self) -> list[StoredDataset]:
        return [open_stored(part) for part in self.parts]

    @cached_property
    def sets(self) -> FeatureSets:
        return read_features_json(self.features_file)

    @cached_property
    def candidates(self) -> list[Candidate]:
        return candidates_of(self.config)

    @property
    def target(self) -> str:
        """The one that all candidates predict."""
        return self.candidates[0].data.target

    @cached_property
    def horizon_target(self) -> str:
        """The name that tells the target's horizon: its own, or that of the column it equals."""
        if suffix_days(self.target) is not None:
            return self.target
        return matching_target(self.stored[0], self.target) or self.target

    def in_order(self, parts: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Values of the stored files' rows `[N]` as those of the study's rows `[M]`."""
        labelled = [~np.isnan(one.column(self.target)) for one in self.stored]
        value_M = np.concatenate([part[known_N] for part, known_N in zip(parts, labelled, strict=True)])
        era_M = np.concatenate([one.era_N[known_N] for one, known_N in zip(self.stored, labelled, strict=True)])
        return value_M[np.argsort(era_M, kind="stable")]

    def rows(self, candidate: Candidate) -> Rows:
        """All labelled rows with the candidate's features, in order of eras."""
        features = self.sets.columns(candidate.data.feature_set)
        return Rows.joined(
            [
                Rows.of(one.codes_NF, one.column(self.target), one.era_N, columns=one.columns(features)).labelled()
                for one in self.stored
            ]
        ).by_era()

    @cached_property
    def folds(self) -> list[Fold]:
        era_E = np.unique(np.concatenate([_labelled_eras(one, self.target) for one in self.stored]))
        return walk_forward(era_E, self.config.folds, self.horizon_target)

    @cached_property
    def units(self) -> list[Unit]:
        """In the order in which they are best done: fold by fold, so that a first table is there early."""
        return [
            Unit(candidate=candidate, fold=fold, seed=seed, key=self._key(candidate, fold, seed))
            for fold in self.folds
            for candidate in self.candidates
            for seed in seeds_of(candidate, self.config.seeds)
        ]

    def training_eras(self, unit: Unit) -> npt.NDArray[np.int64]:
        """Those of the unit's fold that its candidate takes: purge first, stride after."""
        return every_nth(unit.fold.train_E, unit.candidate.data.era_stride)

    def _key(self, candidate: Candidate, fold: Fold, seed: int) -> str:
        decides = [
            FORMAT,
            fingerprint(candidate),
            seed,
            [one.sha256 for one in self.stored],
            list(self.sets.columns(candidate.data.feature_set)),
            self.target,
            fold.train_E.tolist(),
            fold.validation_E.tolist(),
        ]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:24]


def plan(
    config: StudyConfig,
    *,
    store: Store,
    files: Sequence[File],
    features_file: Path,
    decoded: Path,
    progress: Progress = silent,
) -> Study:
    """A study of the parquet `files` (in order of time) in a folder of its own below the home.

    Raises `InputError` before any training where candidates predict different targets, a target or feature set is
    not there, or the folds leave nothing (`folds.walk_forward` says which).
    """
    candidates = candidates_of(config)
    sets = read_features_json(features_file)
    features = _features(candidates, sets)
    _require_one_target(candidates)
    parts = [
        decode(file.path, into=decoded, sha256=file.sha256, features=features, progress=progress).folder
        for file in files
    ]
    told = {
        "config": to_table(config),
        "parts": [str(part) for part in parts],
        "features_file": str(features_file),
    }
    name = hashlib.sha256(json.dumps([FORMAT, told], sort_keys=True).encode()).hexdigest()[:12]
    folder = store.home / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STUDY, told)
    study = open_study(folder)
    for one in study.stored:
        one.target_column(study.target)
    _ = study.units  # the folds, and with them what they refuse
    return study


def open_study(folder: Path) -> Study:
    """The study that `plan` left in `folder`. Raises `StorageError` if it cannot be read."""
    try:
        told = json.loads((folder / STUDY).read_bytes())
        return Study(
            folder=folder,
            config=build(StudyConfig, told["config"]),
            parts=tuple(Path(part) for part in told["parts"]),
            features_file=Path(told["features_file"]),
        )
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise StorageError(f"{folder} must hold a study, however its {STUDY} cannot be read ({error})") from error


def _features(candidates: Sequence[Candidate], sets: FeatureSets) -> list[str]:
    """Those of all candidates, each once: one decoded file serves them all."""
    return list(dict.fromkeys(name for one in candidates for name in sets.columns(one.data.feature_set)))


def _require_one_target(candidates: Sequence[Candidate]) -> None:
    targets = {one.name: one.data.target for one in candidates}
    if len(set(targets.values())) > 1:
        told = ", ".join(f"{name} {target}" for name, target in targets.items())
        raise InputError(
            f"the recipes of a study must predict one target, however they differ ({told}); give the study one with"
            " target = ..."
        )


def _labelled_eras(stored: StoredDataset, target: str) -> npt.NDArray[np.int64]:
    return np.unique(stored.era_N[~np.isnan(stored.column(target))])
