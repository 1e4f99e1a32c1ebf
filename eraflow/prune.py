"""What a home no longer needs, so that its disk lasts for years: old rounds' data, and models nobody will use again.

Read `prune`. The record of every round stays: what was submitted, the report, its picture, what the files held, and
the ledger. So do training and validation data, of which each data version has one copy. Files that nobody here has
written are left alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eraflow.at_work import at_work_s
from eraflow.errors import StorageError
from eraflow.ledger import Ledger
from eraflow.store import Store, discard, exclusive, manifest_path, remove
from eraflow.trained import MODEL
from eraflow.weekly_config import WEEK_S

logger = logging.getLogger("eraflow")

# Five weeks of daily rounds, half a year of weekly ones: about a gigabyte.
KEPT_ROUNDS = 26
# What was downloaded for a round, and what was made of it on the way to what was submitted.
DATA = ("live.parquet", "live_benchmark_models.parquet", "decoded", "predictions-*.csv")


def prune(
    store: Store, ledger: Ledger, max_age_weeks: float, now_utc: datetime, keep_rounds: int = KEPT_ROUNDS
) -> list[Path]:
    """Remove the data of all but the newest `keep_rounds` rounds, and models older than `max_age_weeks` [weeks].

    The newest whole model of each recipe stays, however old, and so does one that predicted for one of those rounds.
    Returns what was removed. Raises nothing for what cannot be: more of the disk is used, and that is all.
    """
    removed = [path for path in _of_old_rounds(store, keep_rounds) if _is_removed(path)]
    with suppress(StorageError):  # without the ledger nobody knows which models were used
        used = {attempt.model_id for attempt in ledger.recent(keep_rounds)}
        for model in _old_models(store, used, max_age_weeks, now_utc):
            with suppress(StorageError), exclusive(model, timeout_s=0):  # otherwise somebody is at work on it
                removed += [model] if _is_removed(model) else []
    if removed:
        logger.info("removed what is no longer needed: %s", _counts(removed))
    return removed


@dataclass(frozen=True, kw_only=True)
class _Model:
    folder: Path
    made_at_utc: datetime
    is_whole: bool

    @property
    def recipe(self) -> str:
        return self.folder.name.rpartition("-")[0]


def _of_old_rounds(store: Store, keep: int) -> Iterator[Path]:
    numbers = sorted(int(path.name) for path in (store.home / "rounds").glob("*") if path.name.isdecimal())
    for number in numbers[: max(0, len(numbers) - keep)]:
        if at_work_s(store, number) is None:
            for pattern in DATA:
                yield from sorted((store.home / "rounds" / str(number)).glob(pattern))


def _old_models(store: Store, used: set[str | None], max_age_weeks: float, now_utc: datetime) -> Iterator[Path]:
    folders = [path for path in store.models_folder.glob("*") if re.fullmatch(r"\w.*-[0-9a-f]{12}", path.name)]
    models = [model for path in sorted(folders) if (model := _model(path))]
    newest: dict[str, _Model] = {}
    for model in sorted(models, key=lambda model: model.made_at_utc):
        if model.is_whole:
            newest[model.recipe] = model
    for model in models:
        age_s = (now_utc - model.made_at_utc).total_seconds()
        if age_s > max_age_weeks * WEEK_S and model.folder.name not in used and model is not newest.get(model.recipe):
            yield model.folder


def _model(folder: Path) -> _Model | None:
    """What lies there; a training that was never finished is as old as what it wrote last. None if it is no folder."""
    try:
        told = json.loads((folder / MODEL).read_bytes())
        made_at_utc = datetime.fromisoformat(told["made_at_utc"]).astimezone(UTC)
        return _Model(folder=folder, made_at_utc=made_at_utc, is_whole=not told["cut"])
    except (OSError, ValueError, KeyError, TypeError):
        try:
            written_s = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
        except OSError:
            return None
        made_at_utc = datetime.fromtimestamp(written_s, UTC)
        return _Model(folder=folder, made_at_utc=made_at_utc, is_whole=False) if folder.is_dir() else None


def _is_removed(path: Path) -> bool:
    try:
        # The other way round a kill would leave a manifest without its file, which `eraflow doctor` warns of.
        discard(manifest_path(path))
        remove(path)
    except (OSError, StorageError) as error:
        logger.debug("%s stays: %s", path, error)
        return False
    return True


def _counts(removed: list[Path]) -> str:
    models = sum(path.parent.name == "models" for path in removed)
    rounds = len({path.parent for path in removed if path.parent.name != "models"})
    return f"data of old rounds ({rounds}), old models ({models})"
