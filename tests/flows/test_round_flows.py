"""The weekly flow as a user starts it, with and without a Prefect server, and with one that fails it."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eraflow.rehearsal import Fault, LocalTournament
from tests.real_prefect import (
    ROOT,
    PrefectServer,
    environment_for,
    last_json,
    processes_of,
    run,
    wait_until,
    weekly_command,
    with_database,
)

pytestmark = pytest.mark.prefect_server

SLOTS = ("rehearsal_one", "rehearsal_two")
SAID = re.compile(r"\d\d:\d\d:\d\d ")


@dataclass(frozen=True)
class Ran:
    """A run of `eraflow weekly` that is over."""

    home: Path
    local: LocalTournament
    exit_code: int
    out: str
    err: str

    @property
    def round(self) -> dict[str, Any]:
        found: dict[str, Any] = last_json(self.out)["rounds"][0]
        return found


def play(environment: dict[str, str], local: LocalTournament, *slots: str) -> Ran:
    done = run(weekly_command(*slots or SLOTS[:1]), environment)
    return Ran(Path(environment["ERAFLOW_HOME"]), local, done.returncode, done.stdout, done.stderr)


def recorded_in(home: Path, query: str) -> list[tuple[Any, ...]]:
    """What the database of the temporary servers of this home says."""
    connection = sqlite3.connect(home / "prefect" / "prefect.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


# With a server


@pytest.fixture(scope="module")
def tournament(tmp_path_factory: pytest.TempPathFactory, market_folder: Path) -> Iterator[LocalTournament]:
    with LocalTournament(tmp_path_factory.mktemp("tournament"), data_from=market_folder) as local:
        local.open_next_round(delay_s=0)
        yield local


@pytest.fixture(scope="module")
def safe(tournament: LocalTournament, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Two slots, submitted under the server."""
    home = tmp_path_factory.mktemp("safe") / "home"
    ran = play(environment_for(tournament, home, prefect_server), tournament, *SLOTS)
    assert ran.exit_code == 0, ran.err
    return ran


@pytest.fixture(scope="module")
def safe_run(safe: Ran, prefect_server: PrefectServer) -> dict[str, Any]:
    """What the server knows of that run."""
    return prefect_server.newest_run()


@pytest.fixture(scope="module")
def artifacts(safe_run: dict[str, Any], prefect_server: PrefectServer) -> dict[str, dict[str, Any]]:
    return prefect_server.artifacts_of(safe_run["id"])


def test_a_safe_round_is_completed_and_says_so(safe: Ran, safe_run: dict[str, Any]) -> None:
    assert safe_run["state"]["type"] == "COMPLETED"
    assert safe_run["state"]["message"].startswith("Round 1401 is safe: 2 of 2 slots verified, ")
    assert {one["status"] for one in safe.round["submissions"]} == {"submitted"}
    assert len(safe.local.accepted(1401)) == 2


def test_a_run_is_found_by_its_round_and_recipe(safe_run: dict[str, Any]) -> None:
    assert safe_run["name"] == "round 1401, attempt 1"
    assert safe_run["tags"] == ["round-1401", "simple-mlp"]


def test_every_step_is_a_task_run_that_tells_its_slot_or_recipe(
    safe_run: dict[str, Any], prefect_server: PrefectServer
) -> None:
    runs = prefect_server.read("task_runs", flow_runs={"id": {"any_": [safe_run["id"]]}})
    assert {one["state"]["type"] for one in runs} == {"COMPLETED"}
    assert sorted(one["name"] for one in runs) == [
        "find budget",
        "find slots",
        "gather files",
        "look up rehearsal_one",
        "look up rehearsal_two",
        "open round",
        "predict with simple-mlp",
        "prepare dataset for simple-mlp",
        "report",
        "submit rehearsal_one",
        "submit rehearsal_two",
        "train simple-mlp",
    ]


def test_there_is_one_artifact_for_each_question_with_a_stable_key(artifacts: dict[str, dict[str, Any]]) -> None:
    pages = dict.fromkeys(("week", "data", "model-simple-mlp"), "markdown")
    assert {key: one["type"] for key, one in artifacts.items()} == {**pages, "checks": "table"}


def test_the_week_answers_whether_it_is_safe(safe: Ran, artifacts: dict[str, dict[str, Any]]) -> None:
    week = artifacts["week"]
    assert week["description"].startswith("Round 1401 is safe: 2 of 2 slots verified")
    for slot in SLOTS:
        (sent,) = [one for one in safe.round["submissions"] if one["model"] == slot]
        assert sent["submission_id"] in week["data"]
    assert (
        artifacts["checks"]["data"].count('"rehearsal_two"') == artifacts["checks"]["data"].count('"rehearsal_one"') > 4
    )
    assert "| v5.3/live.parquet | " in artifacts["data"]["data"]


@pytest.mark.parametrize(("key", "pictures"), [("week", 1), ("model-simple-mlp", 2)])
def test_a_picture_is_a_small_png_inside_the_artifact(
    artifacts: dict[str, dict[str, Any]], key: str, pictures: int
) -> None:
    encoded = re.findall(r"!\[.+?\]\(data:image/png;base64,([^)]*)\)", artifacts[key]["data"])
    assert len(encoded) == pictures
    for png in (base64.b64decode(one, validate=True) for one in encoded):
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert png.endswith(b"IEND\xaeB`\x82")
        assert 1000 < len(png) < 300_000


def test_the_model_has_its_figures_beside_the_pictures(safe: Ran, artifacts: dict[str, dict[str, Any]]) -> None:
    mean = safe.round["models"][0]["validation"]["spearman_mean"]
    assert f"| mean era Spearman | {mean:.4f} |" in artifacts["model-simple-mlp"]["data"]


def test_the_log_of_the_run_is_in_the_dashboard(safe_run: dict[str, Any], prefect_server: PrefectServer) -> None:
    logs = prefect_server.read("logs", logs={"flow_run_id": {"any_": [safe_run["id"]]}})
    assert {"eraflow", "prefect.flow_runs"} <= {one["name"] for one in logs}


def test_no_key_is_in_any_file_of_the_server_or_of_the_home(safe: Ran, prefect_server: PrefectServer) -> None:
    secrets = [safe.local.public_id.encode(), safe.local.secret_key.encode()]
    files = [path for folder in (safe.home, prefect_server.home) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in files)
    leaking = [path for path in files if any(secret in path.read_bytes() for secret in secrets)]
    assert leaking == []
    assert not any(secret.decode() in safe.out + safe.err for secret in secrets)


def test_a_slot_that_missed_the_deadline_is_a_failed_run_that_says_why_and_exit_3(
    safe: Ran, prefect_server: PrefectServer
) -> None:
    safe.local.close_round()
    safe.local.add_slot("rehearsal_late")
    ran = play(environment_for(safe.local, safe.home, prefect_server), safe.local, "rehearsal_late")
    found = prefect_server.newest_run()
    assert ran.exit_code == 3
    assert [one["status"] for one in ran.round["submissions"]] == ["skipped"]
    assert found["state"]["type"] == "FAILED"
    assert "is not safe" in found["state"]["message"]
    assert "on-time deadline" in found["state"]["message"]
    assert "Traceback" not in ran.err
    assert "is not safe" in prefect_server.artifacts_of(found["id"])["week"]["description"]


# Without a server


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, market_folder: Path) -> Iterator[Ran]:
    """One slot, submitted in a fresh home with no server configured."""
    folder = tmp_path_factory.mktemp("alone")
    with LocalTournament(folder / "tournament", data_from=market_folder) as local:
        local.open_next_round(delay_s=0)
        yield play(environment_for(local, folder / "home"), local)


@pytest.fixture(scope="module")
def alone_and_wrong(alone: Ran) -> Ran:
    """After that, the same for a slot that the account does not have."""
    return play(environment_for(alone.local, alone.home), alone.local, "nobodys_slot")


def test_without_a_server_the_round_is_submitted_and_recorded_all_the_same(alone: Ran) -> None:
    assert alone.exit_code == 0, alone.err
    assert len(alone.local.accepted(1401)) == 1
    runs = recorded_in(alone.home, "select name, state_type from flow_run order by created limit 1")
    assert runs == [("round 1401, attempt 1", "COMPLETED")]
    assert {key for (key,) in recorded_in(alone.home, "select key from artifact where key is not null")} == {
        "week", "data", "checks", "model-simple-mlp",
    }  # fmt: skip


def test_the_last_task_is_recorded_before_the_temporary_server_ends(alone: Ran) -> None:
    states = recorded_in(alone.home, "select name, state_type from task_run where name in ('report', 'find slots')")
    assert {"report", "find slots"} == {name for name, _ in states}
    assert ("report", "COMPLETED") in states


def test_without_a_server_nothing_but_eraflows_own_lines_is_on_standard_error(alone: Ran) -> None:
    assert [line for line in alone.err.splitlines() if not SAID.match(line)] == []
    assert "refect" not in alone.err


def test_prefects_state_lies_in_the_home_for_its_owner_alone(alone: Ran) -> None:
    assert stat.S_IMODE((alone.home / "prefect").stat().st_mode) == 0o700
    assert (alone.home / "prefect" / "prefect.db").is_file()


def test_no_result_of_a_task_is_persisted(alone: Ran) -> None:
    assert not list(alone.home.glob("prefect/storage/*"))


def test_a_run_that_is_refused_is_failed_and_leaves_one_line(alone_and_wrong: Ran) -> None:
    assert alone_and_wrong.exit_code == 2
    assert len(alone_and_wrong.err.splitlines()) == 1
    newest = "from flow_run f join flow_run_state s on s.id = f.state_id order by f.created desc limit 1"
    (found,) = recorded_in(alone_and_wrong.home, f"select f.state_type, s.message {newest}")
    assert found[0] == "FAILED"
    assert "nobodys_slot" in found[1]


def test_neither_a_safe_run_nor_a_refused_one_leaves_a_process(alone_and_wrong: Ran) -> None:
    assert processes_of(alone_and_wrong.home) == {}


# With a server that fails


@pytest.fixture
def home(tmp_path: Path, prefect_server: PrefectServer) -> Path:
    return with_database(tmp_path / "home", prefect_server)


def test_a_server_that_is_dead_or_never_answers_is_noticed_and_the_run_goes_on(
    local: LocalTournament, home: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        hung = play({**environment_for(local, home), "PREFECT_API_URL": url}, local)
    # Now nobody listens there any more.
    dead = play({**environment_for(local, home), "PREFECT_API_URL": url}, local)
    assert [one["status"] for ran in (hung, dead) for one in ran.round["submissions"]] == [
        "submitted",
        "already-submitted",
    ]
    for ran in (hung, dead):
        assert ran.exit_code == 0, ran.err
        assert f"the Prefect server at {url} does not answer; this run goes on with a temporary one" in ran.err
    newest = recorded_in(home, "select name, state_type from flow_run order by created desc limit 2")
    # The database, a copy, may hold runs of other tests on a round of that number.
    assert [(name.partition(",")[0], state) for name, state in newest] == [("round 1401", "COMPLETED")] * 2
    assert processes_of(home) == {}


def test_a_server_that_dies_in_mid_run_costs_no_submission(local: LocalTournament, home: Path) -> None:
    child = start(environment_for(local, home))
    wait_until(lambda: any("rounds" in root for _, _, root in local.requests))
    (server,) = [one for one, command in processes_of(home).items() if "temporary_server.py" in command]
    os.kill(server, signal.SIGKILL)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert [one["status"] for one in last_json(out)["rounds"][0]["submissions"]] == ["submitted"]
    assert len(local.accepted(1401)) == 1
    assert "the dashboard could not be given the artifact week" in err
    assert "Prefect failed when the round was over" in err
    assert [line for line in err.splitlines() if not SAID.match(line)] == []
    assert processes_of(home) == {}


def test_a_prefect_that_cannot_start_at_all_costs_no_submission(local: LocalTournament, tmp_path: Path) -> None:
    broken = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////nowhere/prefect.db"}
    ran = play({**environment_for(local, tmp_path / "home"), **broken}, local)
    assert ran.exit_code == 0, ran.err
    assert "the round goes on without it" in ran.err
    assert len(local.accepted(1401)) == 1
    assert processes_of(ran.home) == {}


# Cut short


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        weekly_command(SLOTS[0]), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_run_that_is_ended_leaves_no_process_and_the_next_one_submits_once(
    local: LocalTournament, home: Path, prefect_server: PrefectServer
) -> None:
    hang = Fault(where="get:train.parquet", what="hang", times=2)
    local.faults.add(hang)
    for hung, (number, exit_code) in enumerate([(signal.SIGKILL, -9), (signal.SIGTERM, 143)], start=1):
        child = start(environment_for(local, home))
        wait_until(lambda hung=hung: local.faults.struck.count(hang) == hung)  # type: ignore[misc]  # B023's way
        assert any("temporary_server.py" in command for command in processes_of(home).values())
        child.send_signal(number)
        child.communicate(timeout=30)
        assert child.returncode == exit_code
        wait_until(lambda: processes_of(home) == {}, patience_s=10)
        assert local.accepted(1401) == []
    ran = play(environment_for(local, home, prefect_server), local)
    assert ran.exit_code == 0, ran.err
    assert len(local.accepted(1401)) == 1


def test_closed_pipes_end_no_round(local: LocalTournament, tmp_path: Path, prefect_server: PrefectServer) -> None:
    reading, writing = os.pipe()
    child = subprocess.Popen(
        weekly_command(SLOTS[0]), cwd=ROOT, env=environment_for(local, tmp_path / "home", prefect_server),
        stdin=subprocess.DEVNULL, stdout=writing, stderr=writing,
    )  # fmt: skip
    os.close(writing)
    os.close(reading)
    assert child.wait(120) == 0
    assert len(local.accepted(1401)) == 1
    assert prefect_server.newest_run()["state"]["type"] == "COMPLETED"
