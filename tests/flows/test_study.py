"""`eraflow study` as a user runs it: killed and started again, refused early, and the same table by every runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.command import main
from tests.eraflow.study.conftest import studied_folder
from tests.flows.test_command import _as_before
from tests.real_prefect import (
    PATIENCE_S,
    ROOT,
    PrefectServer,
    clean_environment,
    free_port,
    last_json,
    processes_of,
    run,
    wait_until,
)

__all__ = ["_as_before", "studied_folder"]
DASK = (sys.executable, "-m", "dask")
STUDY = """
recipes = ["ridge", "tiny"]
seeds = 8
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
# Two folds, in each ridge once and the network eight times.
UNITS = 18
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


@dataclass(frozen=True, kw_only=True)
class KilledAndAgain:
    """A study in turn that was killed after its first unit, and then run to its end."""

    before: dict[Path, int]
    """The finished units' files -> when they were written [ns]."""
    after: dict[Path, int]
    answer: dict[str, Any]


@pytest.fixture(scope="module")
def in_turn(
    tmp_path_factory: pytest.TempPathFactory, studied_folder: Path, prefect_server: PrefectServer
) -> KilledAndAgain:
    folder = tmp_path_factory.mktemp("in-turn")
    (folder / "study.toml").write_text(STUDY)
    environment = environment_of(folder, prefect_server)
    with started(command(folder, studied_folder), environment, folder / "study.log") as study:
        wait_until(lambda: finished(folder) or study.poll() is not None)
        study.kill()
        study.wait()
    before = finished(folder)
    done = run(command(folder, studied_folder), environment)
    assert done.returncode == 0, done.stderr
    return KilledAndAgain(before=before, after=finished(folder), answer=last_json(done.stdout))


@pytest.fixture
def environment(tmp_path: Path, prefect_server: PrefectServer) -> dict[str, str]:
    (tmp_path / "study.toml").write_text(STUDY)
    return environment_of(tmp_path, prefect_server)


def environment_of(folder: Path, server: PrefectServer) -> dict[str, str]:
    return clean_environment() | {"ERAFLOW_HOME": str(folder / "home"), "PREFECT_API_URL": server.url}


def command(folder: Path, data: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "flows", *arguments(folder, data, *more)]


def arguments(folder: Path, data: Path, *more: str) -> list[str]:
    return ["study", str(folder / "study.toml"), "--data-from", str(data), "--json", *more]


def finished(folder: Path) -> dict[Path, int]:
    """The file of each finished unit of the home in `folder` -> when it was written [ns]."""
    found = (folder / "home" / "studies" / "units").glob("[!.]*/unit.json")
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_killed_study_repeats_no_finished_unit(in_turn: KilledAndAgain) -> None:
    assert 0 < len(in_turn.before) < UNITS
    assert in_turn.before.items() <= in_turn.after.items()
    assert len(in_turn.after) == UNITS
    assert in_turn.answer["unfinished"] == {}


@pytest.mark.parametrize("runner", ["process", "dask"])
def test_a_study_whose_worker_is_killed_comes_to_the_same_table(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str], in_turn: KilledAndAgain, runner: str
) -> None:
    asked = command(tmp_path, studied_folder, "--runner", runner)
    with started(asked, environment, tmp_path / "study.log") as study:
        wait_until(lambda: finished(tmp_path) or study.poll() is not None)
        os.kill(workers_of(study.pid)[0], signal.SIGKILL)
        code = study.wait()
    text = (tmp_path / "study.log").read_text()
    assert "Traceback" not in text
    if runner == "process":  # the pool is of no use without each of its workers
        assert code == 1
        assert "its worker was lost first" in text
        assert "run the study again" in text
    else:  # Dask starts another worker in its place
        assert code == 0, text
        assert len(finished(tmp_path)) == UNITS
    before = finished(tmp_path)
    assert told(asked, environment) == told_by(in_turn.answer)
    assert before.items() <= finished(tmp_path).items()
    assert not processes_of(tmp_path / "home")


def test_a_cluster_is_refused_until_it_can_do_the_units_and_comes_to_the_same_table(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str], in_turn: KilledAndAgain
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    (tmp_path / "study.toml").write_text(f'dask_address = "{address}"\n{STUDY}')
    asked = command(tmp_path, studied_folder, "--runner", "dask")
    done = run(asked, environment)
    assert done.returncode == 2
    assert f"must be that of a scheduler whose workers have eraflow, however {address} is not" in done.stderr
    with ExitStack() as cluster:
        cluster.enter_context(scheduler(address, environment, tmp_path))
        done = run(asked, environment)
        assert done.returncode == 2
        assert f"the cluster at {address} must have a worker, however it has none" in done.stderr
        assert not finished(tmp_path)
        cluster.enter_context(workers(address, environment, tmp_path))
        assert told(asked, environment) == told_by(in_turn.answer)


@pytest.mark.parametrize("runner", ["process", "dask"])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_study_that_is_stopped_leaves_no_worker_behind(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str], runner: str, stop: signal.Signals
) -> None:
    (tmp_path / "study.toml").write_text(LONG)
    units = tmp_path / "home" / "studies" / "units"
    with started(command(tmp_path, studied_folder, "--runner", runner), environment, tmp_path / "study.log") as study:
        wait_until(lambda: any(units.glob("*.part")) or study.poll() is not None)
        if stop is signal.SIGINT:  # as a terminal sends it: to all of them
            os.killpg(study.pid, stop)
        else:
            study.send_signal(stop)
        assert study.wait() == 128 + stop, (tmp_path / "study.log").read_text()
    assert "Traceback" not in (tmp_path / "study.log").read_text()
    assert not any(units.glob("*/unit.json"))
    wait_until(lambda: not processes_of(tmp_path / "home"))


def test_a_study_without_dask_says_what_to_install_before_it_reads_any_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    assert main(arguments(tmp_path, tmp_path / "no-data", "--runner", "dask")) == 2
    assert (
        "in the checkout run .venv/bin/pip install --constraint constraints.txt -e '.[dask]'" in capsys.readouterr().err
    )
    assert not (tmp_path / "home").exists()


def test_without_lightgbm_a_study_that_names_it_is_refused_and_one_that_does_not_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert main(arguments(tmp_path, tmp_path / "no-data", "--recipes", "ridge,lightgbm")) == 2
    assert (
        ".venv/bin/pip install --constraint constraints.txt -e '.[lightgbm]', or leave it out"
        in capsys.readouterr().err
    )
    (tmp_path / "study.toml").write_text("seeds = 1")
    assert main(arguments(tmp_path, tmp_path / "no-data")) == 2
    told = capsys.readouterr().err
    assert "lightgbm is left out, because LightGBM is not installed; in the checkout run .venv/bin/pip install" in told
    assert "--data-from must name a folder" in told


@pytest.mark.parametrize(
    ("text", "flags", "refused"),
    [
        (STUDY, ("--folds", "9"), "fold 1"),
        (STUDY, ("--recipes", "ridge,rigde"), "rigde"),
        (STUDY, ("--seeds", "0"), "seeds must be 1 or more, however it is 0"),
        ("folds = 3", ("--folds", "2"), "folds must be a table, however 3 was given"),
        ('dask_address = "tcp://127.0.0.1:1"', (), 'dask_address needs runner = "dask"'),
    ],
)
def test_a_study_that_means_nothing_ends_with_2_before_any_training(
    tmp_path: Path,
    studied_folder: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    flags: tuple[str, ...],
    refused: str,
) -> None:
    (tmp_path / "study.toml").write_text(text)
    assert main(arguments(tmp_path, studied_folder, *flags)) == 2
    assert refused in capsys.readouterr().err
    assert not (tmp_path / "home" / "studies" / "units").exists()


def told(asked: Sequence[str], environment: dict[str, str]) -> Any:
    """What the study says that may not depend on how its units were run."""
    done = run(list(asked), environment)
    assert done.returncode == 0, done.stderr
    return told_by(last_json(done.stdout))


def told_by(answer: dict[str, Any]) -> Any:
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
def scheduler(address: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A Dask scheduler, started as a user starts one."""
    dask = [*DASK, "scheduler", "--host", address, "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    with started(dask, environment, folder / "scheduler.log"):
        wait_until(lambda: "Scheduler at" in (folder / "scheduler.log").read_text())
        yield


@contextmanager
def workers(address: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Two workers of the scheduler at `address`, in processes of one program."""
    dask = [
        *DASK, "worker", address, "--nworkers", "2", "--nthreads", "1", "--memory-limit", "0", "--host", "127.0.0.1",
        "--no-dashboard", "--local-directory", str(folder),
    ]  # fmt: skip
    with started(dask, environment, folder / "workers.log"):
        wait_until(lambda: (folder / "workers.log").read_text().count("Registered to") == 2)
        yield


@contextmanager
def started(command_of_it: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, of which nothing is left afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_of_it, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, preexec_fn=_interruptible,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()


def _interruptible() -> None:
    """A shell that starts the tests in its background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
