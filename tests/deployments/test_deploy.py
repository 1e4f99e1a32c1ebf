"""The deployment as it is registered with a real server and served from there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from deployments.deploy import main
from eraflow.rehearsal import LocalTournament
from tests.real_prefect import ROOT, PrefectServer, environment_for, processes_of, run, wait_until

CONFIG = """
[slots]
rehearsal_one = "simple-mlp"

[submission]
readback_s = 1
"""


@dataclass(frozen=True)
class Served:
    """`python -m deployments.deploy` while it runs."""

    local: LocalTournament
    home: Path
    environment: dict[str, str]
    deployment: dict[str, Any]
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def served(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory, market_folder: Path
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "my.toml").write_text(CONFIG)
    with LocalTournament(folder / "tournament", data_from=market_folder) as local:
        local.open_next_round(delay_s=0)
        environment = {
            **environment_for(local, folder / "home", prefect_server),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.deploy", str(folder / "my.toml")],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_until(lambda: prefect_server.read("deployments") or process.poll() is not None)
            assert process.poll() is None, (folder / "log").read_text()
            (deployment,) = prefect_server.read("deployments")
            yield Served(local, folder / "home", environment, deployment, process)
        finally:
            process.terminate()
            process.wait(60)


def scheduled(served: Served, server: PrefectServer) -> list[dict[str, Any]]:
    """The runs that the server itself has planned."""
    of_ours = {"id": {"any_": [served.deployment["id"]]}}
    return server.read("flow_runs", deployments=of_ours, flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}})


@pytest.mark.prefect_server
def test_a_registered_deployment_really_gets_scheduled_runs(served: Served, prefect_server: PrefectServer) -> None:
    # With SQLAlchemy 2.1 the scheduler fails in its log only, and this never comes true.
    wait_until(lambda: len(scheduled(served, prefect_server)) >= 6, patience_s=10)
    times = {datetime.fromisoformat(one["expected_start_time"]) for one in scheduled(served, prefect_server)}
    attempts = {(moment.isoweekday(), moment.hour, moment.minute) for moment in times}
    assert all(moment.utcoffset() == UTC.utcoffset(None) for moment in times)
    assert attempts <= {(6, 12, 10), (6, 13, 10), (6, 16, 10), (6, 20, 10), (7, 2, 10), (7, 8, 10), (7, 12, 10)}
    assert {weekday for weekday, _, _ in attempts} == {6, 7}


@pytest.mark.prefect_server
def test_the_client_lists_the_deployments(served: Served) -> None:
    # With FastAPI 0.151 the server answers 422 to this.
    code = (
        "import json; from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client: found = client.read_deployments()\n"
        "print(json.dumps([one.name for one in found]))"
    )
    done = run([sys.executable, "-c", code], served.environment)
    assert (done.returncode, json.loads(done.stdout or "null")) == (0, ["weekly"]), done.stderr


@pytest.mark.prefect_server
def test_the_weekly_deployment_is_pinned(served: Served) -> None:
    found = served.deployment
    assert found["name"] == "weekly"
    assert found["entrypoint"] == "flows.round_flows.weekly"
    schedules = [(one["schedule"]["cron"], one["schedule"]["timezone"], one["active"]) for one in found["schedules"]]
    assert sorted(schedules) == [("10 12,13,16,20 * * 6", "UTC", True), ("10 2,8,12 * * 0", "UTC", True)]
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert found["tags"] == ["weekly"]
    assert not found["paused"]


@pytest.mark.prefect_server
def test_no_key_is_among_the_parameters(served: Served) -> None:
    text = json.dumps(served.deployment)
    assert '"rehearsal_one": "simple-mlp"' in text
    assert served.local.public_id not in text
    assert served.local.secret_key not in text


@pytest.mark.prefect_server
def test_a_run_of_the_deployment_submits_the_round(served: Served, prefect_server: PrefectServer) -> None:
    answer = requests.post(
        f"{prefect_server.url}/deployments/{served.deployment['id']}/create_flow_run", json={}, timeout=20
    )
    answer.raise_for_status()
    identity = answer.json()["id"]
    over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    wait_until(lambda: prefect_server.run_of(identity)["state"]["type"] in over)
    found = prefect_server.run_of(identity)
    assert (found["state"]["type"], found["name"]) == ("COMPLETED", "round 1401"), found["state"]["message"]
    assert found["tags"] == ["weekly", "round-1401", "simple-mlp"]
    assert len(served.local.accepted(1401)) == 1
    assert "receipts" in prefect_server.artifacts_of(identity)


@pytest.mark.prefect_server
def test_a_stop_keeps_the_schedule_and_leaves_no_process(served: Served, prefect_server: PrefectServer) -> None:
    before = len(scheduled(served, prefect_server))
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(30)
    (found,) = prefect_server.read("deployments")
    assert not found["paused"]
    assert len(scheduled(served, prefect_server)) == before >= 6
    assert processes_of(served.home) == {}


# What is refused before anything is served


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ERAFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    path = tmp_path / "my.toml"
    path.write_text(CONFIG)
    return path


def test_without_a_server_to_serve_from_nothing_is_served(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(config)]) == 2
    assert capsys.readouterr().err == (
        "eraflow: PREFECT_API_URL must name a running Prefect server, however it is not set; start one with"
        " `prefect server start`, then set it\n"
    )


def test_a_dead_server_is_refused_by_its_address(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert main([str(config)]) == 2
    assert "http://127.0.0.1:9/api does not" in capsys.readouterr().err


def test_a_wrong_configuration_is_refused_by_its_path(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text('[slots]\nmine = "no-such-recipe"\n')
    assert main([str(config)]) == 2
    assert "no-such-recipe" in capsys.readouterr().err


def test_a_missing_argument_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "python -m deployments.deploy weekly.toml" in capsys.readouterr().err
