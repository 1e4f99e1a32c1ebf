"""A study before any training: its data, its folds, its units of work. All that can be refused is refused here.

    folder/study.json      what was asked, of which files
    ├── benchmark-<c>-<i>.npy   float64 [N], the c-th benchmark that a recipe learns the residual of, in stored file i
    units/<hash>/          shared by all studies of a home (`units`)

Shape letters: N rows of a stored file, M labelled rows of the study, E eras.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.config import build, nearest, to_table
from eraflow.dataset import decode
from eraflow.errors import InputError, StorageError
from eraflow.feature_sets import FeatureSets, read_features_json
from eraflow.files import File
from eraflow.folds import Fold, reserved_fold, walk_forward
from eraflow.progress import Progress, silent
from eraflow.references import benchmark_files, reference, require_benchmark, sha256_of_stored
from eraflow.residual import on_residual
from eraflow.rows import Rows
from eraflow.splits import every_nth, horizon_eras, purge, purge_eras
from eraflow.store import Store, made_folder, replacing, write_json
from eraflow.stored import StoredDataset, matching_target, open_stored, suffix_days
from eraflow.study.candidates import Candidate, Rival, candidates_of, fingerprint, seeds_of
from eraflow.study.config import StudyConfig

FORMAT = 3
# Seeds of a recipe and a fold: the same numbers would start every fold from the same weights.
SEEDS_AN_ERA = 1000
# The tournament's feature set for feature-neutral CORR.
NEUTRAL = "fncv3_features"
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
    def drawn(self) -> int:
        """What its chance begins with, anew in each fold, as the interval of a recipe takes it to be."""
        return self.seed + SEEDS_AN_ERA * int(self.fold.validation_E[0])

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
    benchmarks_sha256: tuple[str, ...] = ()
    """Of the benchmark models' files; empty where no candidate learns a residual."""

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
        return _horizon_target(self.stored[0], self.target)

    @property
    def horizon_eras(self) -> int:
        """Over how many eras the scores of two eras overlap."""
        return self.config.horizon_eras or horizon_eras(self.horizon_target)

    @cached_property
    def extra_purges(self) -> dict[str, int]:
        """Eras that the horizon of each candidate's extra targets purges."""
        names = dict.fromkeys(name for one in self.candidates for name in one.data.extra_targets)
        return {name: purge_eras(_horizon_target(self.stored[0], name)) for name in names}

    def in_order(self, parts: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Values of the stored files' rows `[N]` as those of the study's rows `[M]`."""
        labelled = [~np.isnan(one.column(self.target)) for one in self.stored]
        value_M = np.concatenate([part[known_N] for part, known_N in zip(parts, labelled, strict=True)])
        era_M = np.concatenate([one.era_N[known_N] for one, known_N in zip(self.stored, labelled, strict=True)])
        return value_M[np.argsort(era_M, kind="stable")]

    def rows(self, candidate: Candidate) -> Rows:
        """All labelled rows with the candidate's features and extra targets, in order of eras."""
        features, extra = self.sets.columns(candidate.data.feature_set), candidate.data.extra_targets
        return Rows.joined(
            [
                Rows.of(
                    one.codes_NF,
                    one.column(self.target),
                    one.era_N,
                    columns=one.columns(features),
                    extra_NX=one.target_NT[:, [one.target_column(name) for name in extra]],
                ).labelled()
                for one in self.stored
            ]
        ).by_era()

    def rows_of(self, features: Sequence[str]) -> Rows:
        """All labelled rows with these features, in order of eras."""
        return Rows.joined(
            [
                Rows.of(one.codes_NF, one.column(self.target), one.era_N, columns=one.columns(features)).labelled()
                for one in self.stored
            ]
        ).by_era()

    @cached_property
    def features(self) -> list[str]:
        """Those of all candidates, each once."""
        return _features(self.candidates, self.sets)

    @cached_property
    def neutral_features(self) -> list[str]:
        """What feature-neutral CORR is neutral to."""
        return list(self.sets.sets.get(NEUTRAL, self.features))

    def taught(self, candidate: Candidate, rows: Rows) -> Rows:
        """`rows`, all of the study, as the candidate learns them: the residual is the target if it asks for that."""
        if not (column := candidate.data.residual_of):
            return rows
        parts = [np.load(path) for path in self.benchmark_paths(column)]
        return on_residual(rows, self.in_order(parts))

    @property
    def benchmarks(self) -> list[str]:
        """Whatever candidates learn the residual of, each once."""
        return list(dict.fromkeys(one.data.residual_of for one in self.candidates if one.data.residual_of))

    def benchmark_paths(self, column: str) -> list[Path]:
        """Where the benchmark's predictions for each stored file lie."""
        number = self.benchmarks.index(column)
        return [self.folder / f"benchmark-{number}-{part}.npy" for part in range(len(self.parts))]

    @cached_property
    def folds(self) -> list[Fold]:
        era_E = np.unique(np.concatenate([_labelled_eras(one, self.target) for one in self.stored]))
        if self.config.reserve:
            return [reserved_fold(era_E, self.config.folds, self.horizon_target)]
        return walk_forward(era_E, self.config.folds, self.horizon_target)

    @cached_property
    def units(self) -> list[Unit]:
        """In the order in which they are best done: fold by fold, so that a first table is there early."""
        return [
            self._unit(candidate, fold, seed)
            for fold in self.folds
            for candidate in self.candidates
            for seed in seeds_of(candidate, self.config.seeds)
        ]

    def training_eras(self, unit: Unit) -> npt.NDArray[np.int64]:
        """Those of the unit's fold that its candidate takes: purge first, stride after.

        An extra target purges what its own horizon asks for, for its candidate alone: the folds stay those of all, and
        a purge that the study gives is of the study's target. Raises `InputError` if that leaves nothing.
        """
        train_E, data = unit.fold.train_E, unit.candidate.data
        if data.extra_targets:
            longest = max(self.extra_purges[name] for name in data.extra_targets)
            train_E = purge(train_E, unit.fold.validation_E, longest)
        return every_nth(train_E, data.era_stride)

    def _unit(self, candidate: Candidate, fold: Fold, seed: int) -> Unit:
        unit = Unit(candidate=candidate, fold=fold, seed=seed, key="")
        return replace(unit, key=self._key(unit))

    def _key(self, unit: Unit) -> str:
        candidate, fold = unit.candidate, unit.fold
        decides: list[Any] = [
            FORMAT,
            fingerprint(candidate),
            unit.drawn,
            [one.sha256 for one in self.stored],
            list(self.sets.columns(candidate.data.feature_set)),
            self.target,
            fold.train_E.tolist(),
            fold.validation_E.tolist(),
        ]
        if candidate.data.residual_of:
            decides.append(list(self.benchmarks_sha256))
        if candidate.data.extra_targets:  # which purge more than the fold does
            decides.append(self.training_eras(unit).tolist())
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

    Raises `InputError` before any training where candidates predict different targets, a target, a feature set or a
    benchmark is not there, or the folds leave nothing (`folds.walk_forward` says which).
    """
    candidates = candidates_of(config)
    sets = read_features_json(features_file)
    features = list(dict.fromkeys([*_features(candidates, sets), *sets.sets.get(NEUTRAL, ())]))
    _require_one_target(candidates)
    benchmarks = _benchmarks(candidates, features_file.parent)
    _require_compared(config, benchmark_files(features_file.parent))
    parts = [
        decode(file.path, into=decoded, sha256=file.sha256, features=features, progress=progress).folder
        for file in files
    ]
    told = {
        "config": to_table(config),
        "parts": [str(part) for part in parts],
        "features_file": str(features_file),
    }
    if benchmarks:  # only then, so that other studies keep their folder
        told["benchmarks_sha256"] = [sha256_of_stored(path) for path in benchmarks]
    name = hashlib.sha256(json.dumps([FORMAT, told], sort_keys=True).encode()).hexdigest()[:12]
    folder = made_folder(store.home / "studies" / name)
    write_json(folder / STUDY, told)
    study = open_study(folder)
    for one in study.stored:
        one.target_column(study.target)
    _require_extra_targets(study)
    for unit in study.units:  # the folds, and with them what they refuse
        study.training_eras(unit)
    for column in study.benchmarks:
        _keep_benchmark(study, column, benchmarks)
    _require_residuals(study)
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
            benchmarks_sha256=tuple(told.get("benchmarks_sha256", ())),
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


def _require_extra_targets(study: Study) -> None:
    """Raises `InputError` for an extra target that a file lacks, or that a model could not learn."""
    for candidate in study.candidates:
        told = f"data.extra_targets of {candidate.name}"
        if candidate.data.extra_targets and isinstance(candidate, Rival):
            raise InputError(f"{told} must be empty, because only networks learn several targets, however it is not")
        for name, stored in product(candidate.data.extra_targets, study.stored):
            if name not in stored.targets:
                raise InputError(
                    f"{told} must be among {', '.join(stored.targets)} of {stored.source}, however {name!r} was given"
                    f"{nearest(name, stored.targets)}"
                )


def _benchmarks(candidates: Sequence[Candidate], folder: Path) -> list[Path]:
    """The benchmark models' files, where a candidate learns what one of them leaves over. Raises for one not there."""
    wanted = {one.name: one.data.residual_of for one in candidates if one.data.residual_of}
    if not wanted:
        return []
    files = benchmark_files(folder)
    if not files:
        name, column = next(iter(wanted.items()))
        raise InputError(
            f"{folder} must hold the files *_benchmark_models.parquet, because {name} learns what {column} leaves over,"
            " however it holds none; put the tournament's there, or leave out data.residual_of"
        )
    for column in wanted.values():
        require_benchmark(files, column)
    return files


def _require_compared(config: StudyConfig, files: Sequence[Path]) -> None:
    """Raises `InputError` for a benchmark that was named and is in none of the files that are there."""
    if files and config.benchmark not in ("", StudyConfig().benchmark):
        require_benchmark(files, config.benchmark, "benchmark")


def _keep_benchmark(study: Study, column: str, files: Sequence[Path]) -> None:
    """As arrays beside `study.json`: units need no parquet, and a file that is replaced meanwhile changes none."""
    for stored, path in zip(study.stored, study.benchmark_paths(column), strict=True):
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, reference(stored, files, column))


def _require_residuals(study: Study) -> None:
    """Raises `InputError` for a fold in which a candidate that learns a residual would have nothing to learn."""
    taught_E: dict[str, npt.NDArray[np.int32]] = {}
    for unit in study.units:
        if not (column := unit.candidate.data.residual_of):
            continue
        if column not in taught_E:
            taught_E[column] = np.unique(study.taught(unit.candidate, study.rows(unit.candidate)).era_M)
        era_E = study.training_eras(unit)
        if not np.isin(era_E, taught_E[column]).any():
            raise InputError(
                f"{unit.candidate.name} must have training rows with a prediction of {column} in fold"
                f" {unit.fold.number}, however none of its eras {era_E[0]} to {era_E[-1]} has one; take fewer folds"
            )


def _horizon_target(stored: StoredDataset, target: str) -> str:
    if suffix_days(target) is not None:
        return target
    return matching_target(stored, target) or target


def _labelled_eras(stored: StoredDataset, target: str) -> npt.NDArray[np.int64]:
    return np.unique(stored.era_N[~np.isnan(stored.column(target))])
