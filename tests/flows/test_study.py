"""`eraflow study` as a user runs it: killed and started again, refused early, and the same table by every runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.eraflow.study.conftest import studied_folder
from tests.real_prefect import (
    ROOT,
    PrefectServer,
    clean_environment,
    free_port,
    last_json,
    processes_of,
    run,
    wait_until,
)

__all__ = ["studied_folder"]
STUDY = """
recipes = ["ridge", "tiny"]
seeds = 2
target = "target_ender_20"
feature_set = "all"
workers = 2

[folds]
chunk_eras = 15
number = 2

[variants.tiny]
recipe = "simple-mlp"
model.hidden = [8]
training.epochs = 1
"""
LONG = """
recipes = ["long"]
target = "target_ender_20"
feature_set = "all"
folds = { chunk_eras = 15, number = 1 }

[variants.long]
recipe = "simple-mlp"
model.hidden = [8]
training.epochs = 1_000_000
"""


@pytest.fixture
def environment(tmp_path: Path, prefect_server: PrefectServer) -> dict[str, str]:
    (tmp_path / "study.toml").write_text(STUDY)
    return clean_environment() | {"ERAFLOW_HOME": str(tmp_path / "home"), "PREFECT_API_URL": prefect_server.url}


def command(tmp_path: Path, data: Path, *more: str) -> list[str]:
    given = [str(tmp_path / "study.toml"), "--data-from", str(data), "--json", *more]
    return [sys.executable, "-m", "flows", "study", *given]


def test_a_killed_study_repeats_no_finished_unit_and_all_runners_give_the_same_table(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str]
) -> None:
    units = tmp_path / "home" / "studies" / "units"
    started = subprocess.Popen(
        command(tmp_path, studied_folder), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: any(units.glob("[!.]*/unit.json")))
    started.send_signal(signal.SIGKILL)
    started.wait()
    first = {path: path.stat().st_mtime_ns for path in units.glob("[!.]*/unit.json")}
    done = run(command(tmp_path, studied_folder), environment)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(list(units.glob("[!.]*/unit.json"))) == 6
    in_turn = last_json(done.stdout)
    assert in_turn["unfinished"] == {}

    for runner in ("process", "dask"):
        assert told(tmp_path / runner, studied_folder, environment, runner) == told_by(in_turn)
    with cluster(environment, tmp_path) as address:
        (tmp_path / "study.toml").write_text(on_cluster(address))
        assert told(tmp_path / "cluster", studied_folder, environment, "dask") == told_by(in_turn)


@pytest.mark.parametrize("runner", ["process", "dask"])
def test_a_study_that_is_stopped_leaves_no_worker_behind(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str], runner: str
) -> None:
    (tmp_path / "study.toml").write_text(LONG)
    units = tmp_path / "home" / "studies" / "units"
    with started(command(tmp_path, studied_folder, "--runner", runner), environment, tmp_path / "study.log") as study:
        wait_until(lambda: any(units.glob("*.part")) or study.poll() is not None)
        study.send_signal(signal.SIGTERM)
        assert study.wait() == 143, (tmp_path / "study.log").read_text()
    assert not any(units.glob("*/unit.json"))
    wait_until(lambda: not processes_of(tmp_path / "home"))


@pytest.mark.parametrize("runner", ["process", "dask"])
def test_a_study_whose_worker_is_killed_goes_on_from_there(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str], runner: str
) -> None:
    command_of_it = command(tmp_path, studied_folder, "--runner", runner, "--seeds", "8")
    units = tmp_path / "home" / "studies" / "units"
    with started(command_of_it, environment, tmp_path / "study.log") as study:
        wait_until(lambda: any(units.glob("[!.]*/unit.json")) or study.poll() is not None)
        os.kill(workers_of(study.pid)[0], signal.SIGKILL)
        code = study.wait()
    text = (tmp_path / "study.log").read_text()
    assert "Traceback" not in text
    if runner == "process":  # the pool is of no use without each of its workers
        assert code == 1
        assert "its worker was lost first" in text
        assert "run the study again" in text
        first = {path: path.stat().st_mtime_ns for path in units.glob("[!.]*/unit.json")}
        again = run(command_of_it, environment)
        assert again.returncode == 0, again.stderr
        assert {path: path.stat().st_mtime_ns for path in first} == first
    else:  # Dask starts another worker in its place
        assert code == 0, text
    assert len(list(units.glob("[!.]*/unit.json"))) == 18


def test_a_cluster_that_cannot_do_the_units_is_refused(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str]
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    (tmp_path / "study.toml").write_text(on_cluster(address))
    asked = command(tmp_path, studied_folder, "--runner", "dask")
    done = run(asked, environment)
    assert done.returncode == 2
    assert f"must be that of a scheduler whose workers have eraflow, however {address} is not" in done.stderr
    with cluster(environment, tmp_path, workers=0) as address:
        (tmp_path / "study.toml").write_text(on_cluster(address))
        done = run(asked, environment)
    assert done.returncode == 2
    assert f"the cluster at {address} must have a worker, however it has none" in done.stderr
    assert not (tmp_path / "home" / "studies" / "units").exists()


def test_a_study_without_dask_says_what_to_install(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "prefect_dask.py").write_text("raise ImportError('No module named prefect_dask')")
    without = environment | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = run(command(tmp_path, studied_folder, "--runner", "dask"), without)
    assert done.returncode == 2
    assert "pip install 'eraflow[dask]'" in done.stderr
    assert not (tmp_path / "home" / "studies" / "units").exists()


def test_a_study_that_means_nothing_ends_with_2_before_any_training(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str]
) -> None:
    done = run(command(tmp_path, studied_folder, "--folds", "9"), environment)
    assert done.returncode == 2
    assert "fold 1" in done.stderr
    assert not (tmp_path / "home" / "studies" / "units").exists()


def on_cluster(address: str) -> str:
    """The study, on the cluster at `address`."""
    return f'runner = "dask"\ndask_address = "{address}"\n{STUDY}'


def told(home: Path, data: Path, environment: dict[str, str], runner: str) -> Any:
    """What the study in the folder of `home` says in a home of its own, which no process uses afterwards."""
    own = environment | {"ERAFLOW_HOME": str(home)}
    done = run(command(home.parent, data, "--runner", runner), own)
    assert done.returncode == 0, done.stderr
    assert not processes_of(home)
    return told_by(last_json(done.stdout))


def told_by(answer: dict[str, Any]) -> Any:
    """All that may not depend on how the units were run."""
    return {name: answer[name] for name in ("scores", "verdict", "unfinished")}


def workers_of(process_id: int) -> list[int]:
    """The processes that `process_id` has started to do units in."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == process_id and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return sorted(found)


@contextmanager
def cluster(environment: dict[str, str], folder: Path, workers: int = 2) -> Iterator[str]:
    """The address of a Dask cluster on free ports of 127.0.0.1, started as a user starts one."""
    address = f"tcp://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", address, "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    worker = [*dask, "worker", address, "--nworkers", "1", "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"]
    logs = [folder / f"worker-{number}.log" for number in range(workers)]
    with ExitStack() as stack:
        stack.enter_context(started(scheduler, environment, folder / "scheduler.log"))
        wait_until(lambda: "Scheduler at" in (folder / "scheduler.log").read_text())
        for log in logs:
            stack.enter_context(started([*worker, "--local-directory", str(folder)], environment, log))
        wait_until(lambda: all("Registered to" in log.read_text() for log in logs))
        yield address


@contextmanager
def started(command_of_it: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, of which nothing is left afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_of_it, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
