"""What is sent when a fresh model cannot be there in time, and on weekdays: the newest good model, or a benchmark.

A model is good if it is whole, of the same data version, not too old, and was above the configured floor on its
hold-out. Models of the slot's own recipe come first. One that needs a feature which the live data no longer have is
passed over, and that is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import DataError, EraflowError, StorageError
from eraflow.parquet import ParquetSource
from eraflow.predictions import rank_uniform
from eraflow.store import Store
from eraflow.trained import MODEL, Trained, load
from eraflow.weekly_config import FallbackConfig, WeeklyConfig

logger = logging.getLogger("eraflow")

WEEK_S = 7 * 24 * 3600.0
BENCHMARK_FILE = "live_benchmark_models.parquet"


class NoStandInError(EraflowError):
    """There is no good older model, and no benchmark was allowed or could be had."""

    code = "no-stand-in"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model in the store, and why it may not stand in (None if it may)."""

    trained: Trained
    against: str | None


def good_models(
    store: Store, config: WeeklyConfig, recipe: str, features: set[str], now_utc: datetime
) -> list[Trained]:
    """The models that may stand in for `recipe` on live data with these `features`, the best choice first.

    Raises `NoStandInError` that says of each model why it does not.
    """
    judged = [_judged(found, config, features, now_utc) for found in _models(store)]
    good = [one.trained for one in judged if one.against is None]
    if not good:
        told = "; ".join(f"{one.trained.model_id} {one.against}" for one in judged) or "none is there yet"
        raise NoStandInError(
            f"an older model must stand in for {recipe}, however no good one is there ({told[:600]}); train one with"
            " `eraflow weekly`, or allow a benchmark with fallback.benchmark"
        )
    return sorted(good, key=lambda found: (found.recipe.name == recipe, found.made_at_utc), reverse=True)


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


def _judged(found: Trained, config: WeeklyConfig, features: set[str], now_utc: datetime) -> Judged:
    return Judged(trained=found, against=_against(found, config.fallback, config.data_version, features, now_utc))


def _against(
    found: Trained, settings: FallbackConfig, version: str, features: set[str], now_utc: datetime
) -> str | None:
    age_weeks = (now_utc - datetime.fromisoformat(found.made_at_utc).astimezone(UTC)).total_seconds() / WEEK_S
    missing = [name for name in found.features if name not in features]
    if found.cut:
        return "was never finished"
    if found.data_version != version:
        return f"is of data version {found.data_version or 'unknown'}, not {version}"
    if missing:
        return f"needs {missing[0]}, which the live data no longer have"
    if age_weeks > settings.max_age_weeks:
        return f"is {age_weeks:.1f} weeks old, above fallback.max_age_weeks = {settings.max_age_weeks:g}"
    if not score_of(found) > settings.min_spearman:
        return (
            f"has a mean era Spearman of {found.validation.spearman_mean}, not above fallback.min_spearman ="
            f" {settings.min_spearman:g}"
        )
    if any(not (folder / "fitted.safetensors").is_file() for folder in found.member_folders()):
        return "has lost its weights"
    return None
