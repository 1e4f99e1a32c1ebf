"""One unit of a study: a recipe fitted on a fold with a seed. It runs in whatever process the study's runner chose."""

from __future__ import annotations

from pathlib import Path

import torch
from prefect import task

from eraflow.errors import StorageError
from eraflow.progress import silent
from eraflow.study import units
from eraflow.study.plan import open_study
from tasks.policy import PLAIN


@task(name="unit", task_run_name="{name}", **PLAIN)
def do(folder: Path, key: str, name: str, threads: int) -> float:
    """The unit `key` of the study in `folder`, done unless it is there; the seconds that it took [s].

    Raises `StorageError` if the study has no such unit any more, and what the fit raises.
    """
    torch.set_num_threads(threads)
    study = open_study(folder)
    unit = next((unit for unit in study.units if unit.key == key), None)
    if unit is None:
        raise StorageError(
            f"{folder} must hold the unit {name} as it was planned, however its data or {study.features_file} have"
            " changed since; run the study again"
        )
    return units.do(study, unit, silent).seconds


def missing(folder: Path) -> str:
    """What of the study in `folder` this process does not see under its path; "" if it sees all."""
    try:
        study = open_study(folder)
    except StorageError as error:
        return str(error)
    unseen = [path for path in (study.features_file, *study.parts) if not path.exists()]
    return f"{unseen[0]} is not there" if unseen else ""
