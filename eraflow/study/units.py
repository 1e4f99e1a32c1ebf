"""One unit of work: fitted, its fold predicted, and kept by a hash of all that decides it.

    <home>/studies/units/<key>/prediction.npy    float32 [M], the fold's labelled rows in order of eras
    └── unit.json                                which, how long it took; written last
    <home>/studies/units/<key>.part/             a network's checkpoints while it is fitted

A unit that is there is never done again: a study that was stopped goes on, one more recipe costs one more recipe.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import StorageError
from eraflow.progress import Progress, silent
from eraflow.rows import Rows
from eraflow.store import exclusive, replacing_folder, utc_text, write_json
from eraflow.study.candidates import fit_and_predict
from eraflow.study.plan import Study, Unit

PREDICTION, TOLD = "prediction.npy", "unit.json"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A unit that is finished."""

    folder: Path
    seconds: float
    rows: int
    """Rows it was trained on."""
    made_at_utc: str
    histories: Sequence[Sequence[Mapping[str, Any]]] = ()
    """For each network of the unit an entry an epoch (`training.Fitted`)."""

    @property
    def prediction_M(self) -> npt.NDArray[np.float32]:
        """Ranks by era, float32 `[M]`: the fold's labelled rows in order of eras."""
        found: npt.NDArray[np.float32] = np.load(self.folder / PREDICTION)
        return found


def folder_of(study: Study, unit: Unit) -> Path:
    """Where the unit lies, or will."""
    return study.folder.parent / "units" / unit.key


def find(study: Study, unit: Unit) -> Done | None:
    """The unit if it is finished."""
    folder = folder_of(study, unit)
    try:
        found = Done(folder=folder, **json.loads((folder / TOLD).read_bytes())["done"])
        # Its length is checked against its header; what is in it was whole when it was moved into its place.
        np.load(folder / PREDICTION, mmap_mode="r")
        return found
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None  # never done, or damaged: done again


def do(study: Study, unit: Unit, progress: Progress = silent) -> Done:
    """The unit, done now unless it is there. Two that ask at once do it once. Raises what the fit raises."""
    folder = folder_of(study, unit)
    with exclusive(folder):
        return find(study, unit) or _done(study, unit, folder, progress)


def _done(study: Study, unit: Unit, folder: Path, progress: Progress) -> Done:
    rows = study.rows(unit.candidate)
    train = _of(study.taught(unit.candidate, rows), study.training_eras(unit))
    validation = _of(rows, unit.fold.validation_E)
    part = folder.with_name(folder.name + ".part")
    started = time.perf_counter()
    prediction_M, histories = fit_and_predict(
        unit.candidate, train, validation, seed=unit.drawn, folder=part, progress=progress
    )
    done = {
        "seconds": time.perf_counter() - started,
        "rows": len(train),
        "made_at_utc": utc_text(datetime.now(UTC)),
        "histories": histories,
    }
    with replacing_folder(folder) as fresh:
        np.save(fresh / PREDICTION, prediction_M.astype(np.float32))
        write_json(fresh / TOLD, {"unit": unit.name, "done": done})
    shutil.rmtree(part, ignore_errors=True)
    found = find(study, unit)
    if found is None:
        raise StorageError(f"{folder} must hold the unit that was just done, however it cannot be read")
    return found


def _of(rows: Rows, era_E: npt.NDArray[np.int64]) -> Rows:
    return rows.take(np.flatnonzero(np.isin(rows.era_M, era_E)))
