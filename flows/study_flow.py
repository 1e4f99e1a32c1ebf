"""A study under Prefect: each unit of work is a task, in turn or beside one another.

Import `flows.prefect_home` and prepare it first. What a unit is stands in `eraflow.study`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from prefect import State, flow
from prefect.futures import as_completed
from prefect.states import Completed, Failed

from eraflow.errors import EraflowError, InputError
from eraflow.progress import Progress, for_this_terminal
from eraflow.study.plan import Study, Unit, open_study
from eraflow.study.run import Watch
from tasks import study as tasks
from tasks.progress import ShownProgress
from tasks.run import describe_run

logger = logging.getLogger("eraflow")


@flow(name="study", flow_run_name="study {folder.name}", persist_result=False)
def study(folder: Path) -> State[dict[str, str]]:
    """All units of the study in `folder`; the failed ones' keys with what their failure said."""
    opened = open_study(folder)
    describe_run(tags=[one.name for one in opened.candidates])
    watch = Watch(opened, _progress())
    for unit, state in _ended(opened):
        error = state.result(raise_on_failure=False) if state.is_failed() or state.is_crashed() else None
        watch.ended(unit, error)
    ended = Failed if watch.errors else Completed
    return ended(message=watch.sentence, data=dict(watch.errors))


def run_units(opened: Study) -> dict[str, str]:
    """Run the flow `study` with the runner that the study names; what failed, by unit key.

    Raises `InputError` for a runner whose package is not installed.
    """
    with _runner(opened) as runner:
        flow_of_it = study if runner is None else study.with_options(task_runner=runner)
        state = flow_of_it(opened.folder, return_state=True)
    found = state.data if isinstance(state.data, dict) else state.result(raise_on_failure=False)
    if not isinstance(found, dict):
        raise EraflowError(f"the study must end with its units, however it ended as {state.name}: {state.message}")
    return found


def _ended(opened: Study) -> Iterator[tuple[Unit, State[Any]]]:
    """Each unit with how it ended, as they end."""
    threads = threads_a_unit(opened)
    if opened.config.runner == "in turn":
        for unit in opened.units:
            yield unit, tasks.do(opened.folder, unit.key, unit.name, threads, return_state=True)
        return
    waiting = {tasks.do.submit(opened.folder, unit.key, unit.name, threads): unit for unit in opened.units}
    for future in as_completed(list(waiting)):
        yield waiting[future], future.state


def threads_a_unit(opened: Study) -> int:
    """The same for all runners, because sums in another order differ in their last digits."""
    return max(1, (os.cpu_count() or 1) // opened.config.workers)


@contextmanager
def _runner(opened: Study) -> Iterator[Any]:
    """A task runner of Prefect's, None for units in turn."""
    config, before = opened.config, torch.get_num_threads()
    try:
        if config.runner == "in turn":
            yield None
        elif config.runner == "process":
            from prefect.task_runners import ProcessPoolTaskRunner

            yield ProcessPoolTaskRunner(max_workers=config.workers)
        else:
            yield _dask(config.dask_address, config.workers)
    finally:
        torch.set_num_threads(before)


def _dask(address: str, workers: int) -> Any:
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise InputError(
            f'runner = "dask" needs prefect-dask, however it cannot be imported ({error}); pip install'
            " 'eraflow[dask]', or choose another runner"
        ) from error
    if address:
        return DaskTaskRunner(address=address)
    return DaskTaskRunner(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None})


def _progress() -> Progress:
    return ShownProgress(for_this_terminal())
