"""What a study compares: networks by their recipe, and beside them a ridge regression and boosted trees.

A candidate is fitted to some rows and predicts others; nothing here knows folds or files.

Shape letters: M rows, K members.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow import recipes
from eraflow.config import nearest
from eraflow.errors import InputError
from eraflow.inference import predict
from eraflow.predictions import combined
from eraflow.progress import Progress, silent
from eraflow.recipes import DataConfig, Recipe
from eraflow.rows import Rows
from eraflow.study.boosting import BoostingConfig, fit_boosting, predict_boosting
from eraflow.study.config import StudyConfig
from eraflow.study.ridge import RidgeConfig, fit_ridge
from eraflow.training import Fitted, fit, members_at_once
from eraflow.variants import variant_of


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A model that is no network, so that a report shows what a network has to beat."""

    name: str
    data: DataConfig = field(default_factory=DataConfig)
    ridge: RidgeConfig | None = None
    boosting: BoostingConfig | None = None


Candidate = Recipe | Rival

RIVALS = {
    "ridge": lambda: Rival(name="ridge", ridge=RidgeConfig()),
    "lightgbm": lambda: Rival(name="lightgbm", boosting=BoostingConfig()),
}


def candidates_of(config: StudyConfig) -> list[Candidate]:
    """What is compared, in the study's order, with its targets and feature sets.

    Raises `InputError` for a name that is neither a recipe, a rival nor a variant, by its dotted path.
    """
    known = [*recipes.RECIPES, *RIVALS]
    for name in config.ensembles:
        if name in known:
            raise InputError(f"ensembles.{name} must have a name of its own, however {name} is one of eraflow's")
    for name in config.variants:  # those that are not studied may be wrong too
        _found(name, config)
    return [_found(name, config) for name in config.recipes]


def seeds_of(candidate: Candidate, seeds: int) -> range:
    """A ridge has no chance in it: one seed says everything."""
    return range(1 if isinstance(candidate, Rival) and candidate.ridge else seeds)


def fingerprint(candidate: Candidate) -> str:
    """A hash of all values but the name and the seed, which a study draws: equal candidates share their results."""
    table = {key: value for key, value in asdict(candidate).items() if key != "name"}
    if isinstance(candidate, Recipe):
        table["training"]["seed"] = 0
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


History = tuple[dict[str, Any], ...]


def fit_and_predict(
    candidate: Candidate, train: Rows, validation: Rows, *, seed: int, folder: Path, progress: Progress = silent
) -> tuple[npt.NDArray[np.float64], tuple[History, ...]]:
    """The candidate fitted to `train` with that seed; its prediction of `validation`, float64 `[M]`, and histories.

    Ranks by era, the mean of them where a recipe has several members. Each network has a history (`training.Fitted`),
    with its scores on a sample of `validation`: for looking at alone, nothing is chosen by it. A network's checkpoints
    lie in `folder`, so that a fit that was stopped goes on. Raises as `training.fit`, and `InputError` for a missing
    library.
    """
    predictions: Sequence[npt.NDArray[Any]]
    proportion, histories = 0.0, tuple[History, ...]()
    if isinstance(candidate, Recipe):
        proportion = candidate.prediction.neutralize
        nets = _networks(candidate, train, validation, seed, folder, progress)
        predictions = list(predict([one.model for one in nets], validation, progress=progress))
        histories = tuple(one.history for one in nets)
    elif candidate.ridge is not None:
        predictions = [fit_ridge(train, candidate.ridge, progress=progress).predict(validation, progress)]
    else:
        booster = fit_boosting(train, candidate.boosting or BoostingConfig(), seed, progress=progress)
        predictions = [predict_boosting(booster, validation, progress=progress)]
    return combined(predictions, validation, validation.era_M, proportion), histories


def _networks(
    recipe: Recipe, train: Rows, validation: Rows, seed: int, folder: Path, progress: Progress
) -> list[Fitted]:
    # Apart from one another by all members, so that two seeds of a recipe share none.
    members = recipe.prediction.members
    seeds = [seed * members + m for m in range(members)]
    training = replace(recipe.training, seed=seeds[0])
    at_once = members_at_once(train, recipe.model, training, members)
    nets = list[Fitted]()
    for first in range(0, members, at_once):
        group = seeds[first : first + at_once]
        folders = [folder / str(member) for member in group]
        nets += fit(
            train,
            model=recipe.model,
            training=training,
            seeds=group,
            folders=folders,
            holdout=validation,
            progress=progress,
        )
    return nets


def _data(data: DataConfig, config: StudyConfig) -> DataConfig:
    try:
        return replace(data, target=config.target or data.target, feature_set=config.feature_set or data.feature_set)
    except ValueError as error:
        raise InputError(f"data.{error}") from error


def _found(name: str, config: StudyConfig) -> Candidate:
    if name in config.variants:
        found = variant_of(name, config.variants[name], lambda base: _named(base, config), [*recipes.RECIPES, *RIVALS])
        return replace(found, data=_data(found.data, config))
    return _named(name, config)


def _named(name: str, config: StudyConfig) -> Candidate:
    if name in RIVALS:
        found: Candidate = RIVALS[name]()
    elif name in recipes.RECIPES:
        found = recipes.get(name)
    else:
        known = [*recipes.RECIPES, *RIVALS, *config.variants]
        raise InputError(f"recipes must be of {', '.join(known)}, however {name!r} was given{nearest(name, known)}")
    return replace(found, data=_data(found.data, config))
