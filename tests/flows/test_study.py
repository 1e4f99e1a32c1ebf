"""`eraflow study` as a user runs it: killed and started again, refused early, and the same table by every runner."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eraflow.study.conftest import studied_folder
from tests.real_prefect import ROOT, PrefectServer, clean_environment, last_json, run, wait_until

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

    other = environment | {"ERAFLOW_HOME": str(tmp_path / "other")}
    done = run(command(tmp_path, studied_folder, "--runner", "process"), other)
    assert done.returncode == 0, done.stderr
    in_processes = last_json(done.stdout)
    assert in_processes["scores"] == in_turn["scores"]
    assert in_processes["verdict"] == in_turn["verdict"]


def test_a_study_that_means_nothing_ends_with_2_before_any_training(
    tmp_path: Path, studied_folder: Path, environment: dict[str, str]
) -> None:
    done = run(command(tmp_path, studied_folder, "--folds", "9"), environment)
    assert done.returncode == 2
    assert "fold 1" in done.stderr
    assert not (tmp_path / "home" / "studies" / "units").exists()
