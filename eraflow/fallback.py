"""What is sent when a fresh model cannot be there in time, and on weekdays: the newest good model, or a benchmark.

Read `stand_in`, a step of the round. A model is good if it is whole, of the same data version, not too old, and was
above the configured floor on its hold-out. Models of the slot's own recipe come first, and of those the ones that
were trained as it is configured: others may be somebody's experiments. One that needs a feature which the live data
no longer have is passed over, and that is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.dataset import decode
from eraflow.errors import DataError, EraflowError, RefusedError, StorageError, TrainingError
from eraflow.files import File, adopt_files, fetch_for_round, fetch_live
from eraflow.parquet import ParquetSource
from eraflow.predictions import rank_uniform
from eraflow.progress import Progress, silent
from eraflow.recipes import Recipe
from eraflow.request import Request, wanted_recipe
from eraflow.result import ModelReport
from eraflow.rounds import Round
from eraflow.runs import FINISHED
from eraflow.steps import Predicted, predicted_by, report_of, require_same_ids
from eraflow.store import Store
from eraflow.tournament import Tournament
from eraflow.trained import MODEL, Trained, load, predict_live
from eraflow.weekly_config import WeeklyConfig

logger = logging.getLogger("eraflow")

BENCHMARK_FILE = "live_benchmark_models.parquet"


class NoStandInError(EraflowError):
    """There is no good older model, and no benchmark was allowed or could be had."""

    code = "no-stand-in"


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """What is sent in place of a fresh model's predictions."""

    predicted: Predicted
    model: ModelReport | None
    """None for a benchmark."""


def stand_in(
    request: Request, opened: Round, recipe: str, why: str, fresh: ModelReport | None, progress: Progress = silent
) -> StandIn:
    """Predictions of the newest good model, or of the benchmark if that is allowed; downloads live data alone.

    Before a `fresh` one that may be sent goes only a model of the same recipe and target whose mean era Spearman is
    above its own, and no benchmark. Raises `NoStandInError`.
    """
    tournament, store, config = Tournament.from_environment(), Store.open(request.home), request.config
    file = _live_file(request, tournament, store, opened, progress)
    try:
        return _older_model(request, tournament, store, opened, file, recipe, why, fresh, progress)
    except NoStandInError as nothing:
        if fresh is not None or not config.fallback.benchmark:
            raise
        logger.warning("%s", nothing.message)
        try:
            return _benchmark(request, tournament, store, opened, file, recipe, why)
        except (DataError, RefusedError) as error:
            raise NoStandInError(f"{nothing.message}; nor can the benchmark: {error.message}") from error


def _live_file(request: Request, tournament: Tournament, store: Store, opened: Round, progress: Progress) -> File:
    current = fetch_live(tournament, store, opened, request.config.data_version, progress)
    if request.data_from is not None:
        require_same_ids(adopt_files(request.data_from, store, opened.number).live, current)
    return current


def _older_model(
    request: Request, tournament: Tournament, store: Store, opened: Round, file: File, recipe: str, why: str,
    fresh: ModelReport | None, progress: Progress,
) -> StandIn:  # fmt: skip
    with ParquetSource(file.path) as source:
        features = set(source.names)
    wanted, into = wanted_recipe(request, recipe), _decoded(store, opened)
    models = good_models(store, request.config, wanted, features, tournament.now_utc())
    for found in models:
        if fresh is not None and (found.recipe.name != wanted.name or not _is_better(found, fresh)):
            continue
        live = decode(file.path, into=into, sha256=file.sha256, features=found.features, kind="live")
        try:
            prediction_N = predict_live(_on_cpu(found), live, progress)
        except TrainingError as error:
            logger.warning("model %s cannot stand in: %s", found.model_id, error.message)
            continue
        note = f"{why}; model {found.model_id} of {found.made_at_utc[:10]} predicted"
        predicted = predicted_by(
            request, opened.number, live, prediction_N, found, source="older-model", recipe=recipe, note=note
        )
        return StandIn(predicted=predicted, model=report_of(found))
    raise NoStandInError(f"none of {len(models)} older models can stand in for {recipe}")


def _is_better(found: Trained, fresh: ModelReport) -> bool:
    # A recipe keeps its name when it is given another target, and scores on two targets cannot be compared.
    score = fresh.validation["spearman_mean"]
    return found.recipe.data.target == fresh.target and (score is None or score_of(found) > score)


def _benchmark(
    request: Request, tournament: Tournament, store: Store, opened: Round, file: File, recipe: str, why: str
) -> StandIn:
    column, version = request.config.fallback.benchmark, request.config.data_version
    with ParquetSource(file.path) as source:  # one feature, so that the decoded form has the ids
        features = [name for name in source.names if name.startswith("feature_")][:1]
    live = decode(file.path, into=_decoded(store, opened), sha256=file.sha256, features=features, kind="live")
    path = fetch_for_round(tournament, store, opened, version, BENCHMARK_FILE).path
    prediction_N = benchmark_predictions(path, column, live.id_N)
    note = f"{why}; the benchmark {column} predicted"
    predicted = predicted_by(
        request, opened.number, live, prediction_N, None, source="benchmark", recipe=recipe, note=note
    )
    return StandIn(predicted=predicted, model=None)


def _decoded(store: Store, opened: Round) -> Path:
    return store.round_folder(opened.number) / "decoded"


def _on_cpu(found: Trained) -> Trained:
    """It takes seconds there, and the GPU may be gone, or full of what this one stands in for."""
    training = replace(found.recipe.training, device="cpu")
    return replace(found, recipe=replace(found.recipe, training=training))


def good_models(
    store: Store, config: WeeklyConfig, wanted: Recipe, features: set[str], now_utc: datetime
) -> list[Trained]:
    """The models that may stand in for the recipe `wanted` on live data with these `features`, the best choice first.

    Raises `NoStandInError` that says of each model why it does not.
    """
    judged = [(found, _against(found, config, features, now_utc)) for found in _models(store)]
    good = [found for found, against in judged if against is None]
    if not good:
        told = "; ".join(f"{found.model_id} {against}" for found, against in judged) or "none is there yet"
        raise NoStandInError(
            f"an older model must stand in for {wanted.name}, however no good one is there ({told[:600]}); train one"
            " with `eraflow weekly`, or allow a benchmark with fallback.benchmark"
        )
    return sorted(good, key=lambda found: _choice(found, wanted), reverse=True)


def _choice(found: Trained, wanted: Recipe) -> tuple[bool, bool, str]:
    return found.recipe == wanted, found.recipe.name == wanted.name, found.made_at_utc


def score_of(found: Trained) -> float:
    """Mean era Spearman on its hold-out; minus infinity where it is undefined."""
    mean = found.validation.spearman_mean
    return float("-inf") if mean is None else mean


def benchmark_predictions(path: Path, column: str, id_N: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The tournament's benchmark `column` for the live ids `id_N`, float64 `[N]`, rank-normalised into (0, 1).

    Raises `DataError` if the file has no such column, or not exactly these ids, or values that are not finite.
    """
    with ParquetSource(path) as source:
        if column not in source.names or "id" not in source.names:
            known = ", ".join(name for name in source.names if name not in ("id", "era"))
            raise DataError(f"{path} must have the column {column} (fallback.benchmark), however it has only: {known}")
        value_of = dict(zip(source.column("id").to_pylist(), source.column(column).to_pylist(), strict=True))
    value_N = np.array([value_of.get(one, np.nan) for one in id_N.tolist()], np.float64)
    if not np.isfinite(value_N).all():
        raise DataError(
            f"{path} must have a finite {column} for each live id, however {int((~np.isfinite(value_N)).sum())} of"
            f" {len(value_N)} are missing; the benchmark was not used"
        )
    return rank_uniform(value_N)


def _models(store: Store) -> Iterator[Trained]:
    for path in sorted(store.models_folder.glob(f"*/{MODEL}")):
        try:
            yield load(path.parent)
        except StorageError as error:
            logger.debug("not a whole model: %s", error.message)


def _against(found: Trained, config: WeeklyConfig, features: set[str], now_utc: datetime) -> str | None:
    """Why a model may not stand in; None if it may."""
    against = config.against(
        cut=found.cut,
        data_version=found.data_version,
        age_s=(now_utc - datetime.fromisoformat(found.made_at_utc).astimezone(UTC)).total_seconds(),
        spearman_mean=found.validation.spearman_mean,
    )
    missing = [name for name in found.features if name not in features]
    if against is None and missing:
        return f"needs {missing[0]}, which the live data no longer have"
    if against is None and any(not (folder / FINISHED).is_file() for folder in found.member_folders()):
        return "has lost its weights"
    return against
