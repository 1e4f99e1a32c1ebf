"""A study under Prefect: each unit of work is a task, in turn or beside one another.

Import `flows.prefect_home` and prepare it first. What a unit is stands in `eraflow.study`; which runner to use when,
in `docs/runners.md`. Units that run on a cluster given by its address are not stopped with the study.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from prefect import State, flow
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner

from eraflow.errors import EraflowError, InputError
from eraflow.progress import Progress, for_this_terminal
from eraflow.study.plan import Study, Unit, open_study
from eraflow.study.run import Found, Watch, found_of, references_of
from tasks import artifacts
from tasks import study as tasks
from tasks.progress import ShownProgress
from tasks.run import describe_run

logger = logging.getLogger("eraflow")

CONNECT_S = 10.0
AGAIN = "run the study again, which does what is missing"
LOCAL_CLUSTER: dict[str, Any] = {
    # No page about the study is served.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # By default numpy has one thread there, and sums in another order end in other digits.
    "distributed.nanny.pre-spawn-environ": {},
}


@flow(name="study", flow_run_name="study {folder.name}", persist_result=False)
def study(folder: Path) -> State[Found]:
    """All units of the study in `folder`, and what they come to, which stays in this process."""
    opened = open_study(folder)
    describe_run(tags=[one.name for one in opened.candidates])
    watch = Watch(opened, _progress())
    with closing(_ended(opened)) as ends:
        for unit, error in ends:
            watch.ended(unit, error)
    found = found_of(opened, references_of(opened), watch.errors)
    artifacts.study(lambda: found)
    ended = Failed if watch.errors else Completed
    return ended(message=watch.sentence, data=found)


def run_units(opened: Study) -> Found:
    """Run the flow `study` with the runner that the study names; what it came to.

    Raises `InputError` for a cluster that cannot do the units, and what the flow itself failed with.
    """
    with _runner(opened) as runner:
        flow_of_it = study if runner is None else study.with_options(task_runner=runner)
        state = flow_of_it(opened.folder, return_state=True)
    found = state.result(raise_on_failure=False)
    if isinstance(found, BaseException):
        raise found
    if not isinstance(found, Found):
        raise EraflowError(f"the study must end with its units, however it ended as {state.name}: {state.message}")
    return found


def _ended(opened: Study) -> Generator[tuple[Unit, BaseException | None]]:
    """Each unit with what it failed with, as they end."""
    threads = threads_a_unit(opened)
    if opened.config.runner == "in turn":
        for unit in opened.units:
            state = tasks.do(opened.folder, unit.key, unit.name, threads, return_state=True)
            yield unit, _failure(state.result(raise_on_failure=False))
        return
    ended: queue.SimpleQueue[PrefectFuture[float]] = queue.SimpleQueue()
    waiting = {tasks.do.submit(opened.folder, unit.key, unit.name, threads): unit for unit in opened.units}
    for future in waiting:
        future.add_done_callback(ended.put)
    for _ in range(len(waiting)):
        future = ended.get()
        yield waiting[future], _failure_of(future)


def _failure_of(future: PrefectFuture[float]) -> BaseException | None:
    """What the unit failed with. The server is not asked: of a worker that died it still says that it runs."""
    try:
        return _failure(future.result(raise_on_failure=False))
    except Exception as error:  # whatever a runner says of a worker or a cluster that has gone
        why = f"its worker was lost first ({type(error).__name__}: {error})"
        return EraflowError(f"a unit must end by itself, however {why}; {AGAIN}")


def _failure(result: object) -> BaseException | None:
    return result if isinstance(result, BaseException) else None


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
            # A terminal sends Ctrl-C to the workers too; without this each would leave a traceback.
            on_signal: Callable[..., Any] = signal.signal
            ignored = (signal.SIGINT, signal.SIG_IGN)
            yield _Processes(max_workers=config.workers, initializer=on_signal, initargs=ignored)
        else:
            with _dask(opened) as runner:
                yield runner
    finally:
        torch.set_num_threads(before)


class _Processes(ProcessPoolTaskRunner):
    """A study that is stopped leaves the units at work, which may take hours; what is finished of them is kept."""

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_type is not None:
            for process in multiprocessing.active_children():
                process.terminate()
        super().__exit__(exc_type, exc_value, traceback)


@contextmanager
def _dask(opened: Study) -> Iterator[Any]:
    """Units on the cluster at the study's address, or on one of this machine that ends with the study."""
    import dask
    import distributed
    from prefect_dask.task_runners import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.ERROR)  # at INFO it tells each connection on standard error
    if opened.config.dask_address:
        _require_cluster(opened, distributed)
        yield DaskTaskRunner(address=opened.config.dask_address, client_kwargs={"timeout": CONNECT_S})
        return
    with dask.config.set(LOCAL_CLUSTER), _local_cluster(opened.config.workers, distributed) as cluster:
        yield DaskTaskRunner(address=cluster.scheduler_address, client_kwargs={"security": cluster.security})


def _local_cluster(workers: int, distributed: Any) -> Any:
    """Started here, because Prefect would print a traceback if a worker is lost meanwhile. Raises `EraflowError`."""
    try:
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            # Who reaches a scheduler can run code as its user, and other users of a machine reach its loopback.
            security=True,
            # Mapped files count as a worker's memory: at 95 % of its share Dask would kill it.
            memory_limit=0,
            silence_logs=logging.ERROR,
            dashboard_address=None,
            # Even without a dashboard it listens for HTTP, by default at a fixed port.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        )
    except (RuntimeError, OSError) as error:
        why = f"it did not ({error.__cause__ or error})"
        raise EraflowError(f"a Dask cluster must start on this machine, however {why}; {AGAIN}") from error


def _require_cluster(opened: Study, distributed: Any) -> None:
    """Raises `InputError` unless the cluster answers and each of its workers can do the study's units."""
    address = opened.config.dask_address
    try:
        with distributed.Client(address, timeout=CONNECT_S, set_as_default=False) as client:
            missing_by_worker = client.run(tasks.missing, opened.folder)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"dask_address must be that of a scheduler whose workers have eraflow, however {address} is not"
            f" ({type(error).__name__}: {error}); start one with `dask scheduler` and `dask worker`, or leave it out"
        ) from error
    if not missing_by_worker:
        raise InputError(f"the cluster at {address} must have a worker, however it has none; start `dask worker`")
    for worker, missing in missing_by_worker.items():
        if missing:
            raise InputError(
                f"every worker of a cluster must see the study under the same paths, however {worker} does not:"
                f" {missing}; put ERAFLOW_HOME and the data where all of them reach them"
            )


def _progress() -> Progress:
    return ShownProgress(for_this_terminal())
