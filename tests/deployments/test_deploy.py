"""The deployments as they are registered with a real server and served from there, swept and caught up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from deployments.deploy import DAILY_WAIT_S, WEEKLY_WAIT_S, main
from eraflow.rehearsal import LocalTournament
from eraflow.weekly_config import DAILY_CRONS, SCORES_CRONS, WATCH_CRONS, WEEKLY_CRONS
from tests.real_prefect import ROOT, PrefectServer, environment_for, processes_of, run, wait_until

SECRET_PART = "s3cret-part-of-an-address"
CONFIG = f"""
[slots]
rehearsal_one = "simple-mlp"

[submission]
readback_s = 1

[alarm]
urls = ["json://127.0.0.1:9/{SECRET_PART}"]
"""
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """What the server must know of a deployment."""

    entrypoint: str
    crons: tuple[str, ...]
    alone: bool
    """A run that comes due while another is at work is cancelled."""


PINNED = {
    "weekly": Pinned(entrypoint="flows.round_flows.weekly", crons=WEEKLY_CRONS, alone=True),
    "daily": Pinned(entrypoint="flows.round_flows.daily", crons=DAILY_CRONS, alone=True),
    "watch": Pinned(entrypoint="flows.care_flows.watch", crons=WATCH_CRONS, alone=False),
    "scores": Pinned(entrypoint="flows.care_flows.scores", crons=SCORES_CRONS, alone=False),
    "manual": Pinned(entrypoint="flows.round_flows.manual", crons=(), alone=False),
}


@dataclass
class Served:
    """`python -m deployments.deploy` for one home, and the server that it serves from."""

    local: LocalTournament
    folder: Path
    server: PrefectServer
    process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def environment(self) -> dict[str, str]:
        return {**environment_for(self.local, self.home, self.server), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}

    def start(self) -> None:
        """Returns when the runner asks for work, so that everything before is done: registered, swept, caught up."""
        began = datetime.now(UTC)
        with (self.folder / "log").open("wb") as log:
            self.process = process = subprocess.Popen(
                [sys.executable, "-m", "deployments.deploy", str(self.folder / "my.toml")],
                cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

        def asks() -> bool:
            asked = [one["last_polled"] for one in self.deployments().values()]
            return len(asked) == len(PINNED) and all(at and datetime.fromisoformat(at) > began for at in asked)

        wait_until(lambda: asks() or process.poll() is not None)
        assert process.poll() is None, self.log

    def stop(self) -> None:
        """As an init system does, once no run is at work."""
        wait_until(lambda: not self.runs(state={"type": {"any_": ["PENDING", "RUNNING"]}}))
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Name -> what the server knows of it."""
        return {one["name"]: one for one in self.server.read("deployments")}

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        """Runs of these deployments that match, by when they were or are due."""
        ours = {"id": {"any_": [one["id"] for one in self.deployments().values()]}}
        return self.server.read("flow_runs", deployments=ours, flow_runs=filters, sort="EXPECTED_START_TIME_ASC")

    def scheduled(self) -> list[dict[str, Any]]:
        """Those that the server itself has planned."""
        return self.runs(state={"type": {"any_": ["SCHEDULED"]}})

    def create(self, name: str, **body: Any) -> str:
        """Create a run of a deployment, as the dashboard does; returns its id."""
        return str(self.post(f"deployments/{self.deployments()[name]['id']}/create_flow_run", body)["id"])

    def post(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """A busy server answers 503 while its database is locked, and Prefect's own client asks again."""
        with requests.Session() as session:
            again = Retry(total=6, backoff_factor=0.5, status_forcelist=[503], allowed_methods=None)
            session.mount("http://", HTTPAdapter(max_retries=again))
            answer = session.post(f"{self.server.url}/{what}", json=body, timeout=90)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told

    def over(self, run_id: str) -> dict[str, Any]:
        """A run, once it is over."""
        wait_until(lambda: self.server.run_of(run_id)["state"]["type"] in OVER)
        return self.server.run_of(run_id)

    def set_state(self, run_id: str, kind: str) -> None:
        told = self.post(f"flow_runs/{run_id}/set_state", {"state": {"type": kind}})
        assert told["status"] == "ACCEPT", told


@pytest.fixture(scope="module")
def served(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory, market_folder: Path
) -> Iterator[Served]:
    """Round 1401 is open when this begins to serve."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "my.toml").write_text(CONFIG)
    with LocalTournament(folder / "tournament", data_from=market_folder) as local:
        local.open_next_round(delay_s=0)
        made = Served(local, folder, prefect_server)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.mark.prefect_server
@pytest.mark.parametrize("name", PINNED)
def test_each_deployment_is_pinned(served: Served, name: str) -> None:
    found, pinned = served.deployments()[name], PINNED[name]
    assert found["entrypoint"] == pinned.entrypoint
    schedules = [(one["schedule"]["cron"], one["schedule"]["timezone"], one["active"]) for one in found["schedules"]]
    assert sorted(schedules) == sorted((cron, "UTC", True) for cron in pinned.crons)
    limit = found["global_concurrency_limit"]
    assert (limit and limit["limit"]) == (1 if pinned.alone else None)
    assert (found["concurrency_options"] or {}).get("collision_strategy") == ("CANCEL_NEW" if pinned.alone else None)
    assert found["tags"] == [name]
    assert not found["paused"]


@pytest.mark.prefect_server
def test_there_is_no_other_deployment(served: Served) -> None:
    assert set(served.deployments()) == set(PINNED)


@pytest.mark.prefect_server
def test_only_the_daily_one_leaves_out_training_and_both_wait_for_the_opening(served: Served) -> None:
    requests_of = {name: one["parameters"].get("request", {}) for name, one in served.deployments().items()}
    assert {name: given["train"] for name, given in requests_of.items() if given} == {
        "weekly": True, "daily": False, "watch": True, "scores": True,
    }  # fmt: skip
    assert (requests_of["weekly"]["wait_s"], requests_of["daily"]["wait_s"]) == (WEEKLY_WAIT_S, DAILY_WAIT_S)
    assert requests_of["watch"]["wait_s"] == requests_of["scores"]["wait_s"] == 0


@pytest.mark.prefect_server
def test_a_registered_deployment_really_gets_scheduled_runs(served: Served) -> None:
    # With SQLAlchemy 2.1 the scheduler fails in its log only, and this never comes true.
    names = {one["id"]: name for name, one in served.deployments().items()}

    def planned() -> set[str]:
        return {names[one["deployment_id"]] for one in served.scheduled()}

    wait_until(lambda: planned() >= set(PINNED) - {"manual"}, patience_s=20)
    times = [datetime.fromisoformat(one["expected_start_time"]) for one in served.scheduled()]
    assert all(moment.utcoffset() == timedelta(0) for moment in times)


@pytest.mark.prefect_server
def test_the_client_lists_the_deployments(served: Served) -> None:
    # With FastAPI 0.151 the server answers 422 to this.
    code = (
        "import json; from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client: found = client.read_deployments()\n"
        "print(json.dumps([one.name for one in found]))"
    )
    done = run([sys.executable, "-c", code], served.environment)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) >= set(PINNED)


@pytest.mark.prefect_server
def test_neither_a_key_nor_an_alarm_address_is_among_the_parameters(served: Served) -> None:
    text = json.dumps(list(served.deployments().values()))
    assert '"rehearsal_one": "simple-mlp"' in text
    for secret in (served.local.public_id, served.local.secret_key, SECRET_PART):
        assert secret not in text


@pytest.mark.prefect_server
def test_the_open_round_is_caught_up_at_the_start(served: Served) -> None:
    (begun,) = served.runs(tags={"all_": ["catch-up"]})
    found = served.over(begun["id"])
    assert found["state"]["type"] == "COMPLETED", found["state"]["message"]
    assert found["deployment_id"] == served.deployments()["weekly"]["id"]
    assert {"weekly", "catch-up", "round-1401", "simple-mlp"} <= set(found["tags"])
    assert len(served.local.accepted(1401)) == 1


@pytest.mark.prefect_server
def test_the_manual_one_has_its_whole_configuration_as_a_typed_form(served: Served) -> None:
    found = served.deployments()["manual"]
    schema = found["parameter_openapi_schema"]
    form, parts = schema["properties"], schema["definitions"]
    assert list(form) == ["config", "recipe", "overrides", "train", "submit", "resubmit"]
    assert all(field["description"] for field in form.values())
    assert [name for name, field in form.items() if field.get("type") == "boolean"] == ["train", "submit", "resubmit"]
    assert list(parts["WeeklyConfig"]["properties"]) == ["data_version", "slots", "variants", "submission", "fallback"]
    assert parts["SubmissionConfig"]["properties"]["late"]["enum"] == ["skip", "submit"]
    assert parts["FallbackConfig"]["properties"]["max_age_weeks"]["type"] == "number"
    assert found["enforce_parameter_schema"]
    # What the form shows at first is the configuration.
    assert found["parameters"]["config"]["slots"] == {"rehearsal_one": "simple-mlp"}


@pytest.mark.prefect_server
def test_the_manual_one_plays_what_the_form_says(served: Served) -> None:
    wait_until(lambda: served.local.accepted(1401))
    config = {**served.deployments()["manual"]["parameters"]["config"], "slots": {"rehearsal_two": "simple-mlp"}}
    found = served.over(served.create("manual", parameters={"config": config, "train": False}))
    assert found["state"]["type"] == "COMPLETED", found["state"]["message"]
    assert [one.slot for one in served.local.accepted(1401)] == ["rehearsal_one", "rehearsal_two"]


@pytest.mark.prefect_server
def test_the_manual_one_trains_a_variant_that_the_form_has(served: Served) -> None:
    wait_until(lambda: served.local.accepted(1401))
    served.local.add_slot("rehearsal_three")
    config = {
        **served.deployments()["manual"]["parameters"]["config"],
        "slots": {"rehearsal_three": "mine"},
        "variants": {"mine": {"recipe": "simple-mlp", "training": {"epochs": 1}}},
    }
    found = served.over(served.create("manual", parameters={"config": config}))
    assert found["state"]["type"] == "COMPLETED", found["state"]["message"]
    assert "mine" in found["tags"]
    assert "rehearsal_three" in [one.slot for one in served.local.accepted(1401)]


@pytest.mark.prefect_server
def test_a_stop_keeps_the_schedule_and_the_next_start_sweeps_what_was_left_behind(served: Served) -> None:
    before = len(served.scheduled())
    served.stop()
    assert not any(one["paused"] for one in served.deployments().values())
    assert len(served.scheduled()) == before > 0
    assert processes_of(served.home) == {}

    # As after a power loss: a run that holds its place, and one that was due while nothing was served.
    killed = served.create("weekly", state={"type": "PENDING"})
    served.set_state(killed, "RUNNING")
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    overdue = served.create("daily", state={"type": "SCHEDULED", "state_details": {"scheduled_time": an_hour_ago}})
    served.start()
    assert served.server.run_of(killed)["state"]["type"] == "CRASHED"
    assert served.server.run_of(overdue)["state"]["type"] == "CANCELLED"
    # The place is free: had it been taken, this one would be cancelled.
    *_, caught_up = served.runs(tags={"all_": ["catch-up"]})
    assert served.over(caught_up["id"])["state"]["type"] == "COMPLETED"


@pytest.mark.prefect_server
def test_between_rounds_a_run_that_does_not_wait_is_no_failure(served: Served) -> None:
    served.local.close_round()
    served.local.move_clock(2 * 3600)
    request = {**served.deployments()["weekly"]["parameters"]["request"], "wait_s": 0}
    found = served.over(served.create("weekly", parameters={"request": request}))
    assert found["state"]["type"] == "COMPLETED", found["state"]["message"]
    assert found["state"]["message"].endswith("Current round not open for submissions")


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
        "eraflow: PREFECT_API_URL must name a running Prefect server, however it is not set; run `eraflow up`, or start"
        " one with `prefect server start` and set it\n"
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
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "required: CONFIG" in capsys.readouterr().err
