"""`eraflow up` as it runs: reachable, closed to strangers, and whole again after each part of it was killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tasks.health import answers
from tests.browser import browser
from tests.flows.running_up import ALARM_URL, Up, state_of
from tests.real_prefect import PrefectServer, processes_of, wait_until, with_database

pytestmark = pytest.mark.prefect_server
SERVER, SERVING = "flows.server", "deployments.deploy"


def test_a_fresh_home_has_a_dashboard_and_runs_in_its_schedules(shared_up: Up) -> None:
    page = requests.get(shared_up.url, headers={"Accept": "text/html"}, timeout=20)
    assert (page.status_code, "<html" in page.text.lower()) == (200, True)
    # Where the page looks for the API, on whatever port it is.
    settings = requests.get(f"{shared_up.url}/ui-settings", timeout=20).json()
    assert (settings["api_url"], settings["auth"]) == (f"{shared_up.url}/api", "BASIC")
    assert answers(f"{shared_up.url}/api")
    on_time = {one["id"] for one in shared_up.deployments().values() if one["schedules"]}
    assert len(on_time) >= 3
    wait_until(lambda: {run["deployment_id"] for run in shared_up.scheduled()} == on_time, patience_s=30)


def test_it_says_where_it_is(shared_up: Up) -> None:
    state = state_of(shared_up)
    assert (state["pid"], state["url"]) == (shared_up.process.pid, shared_up.url)
    assert state["api_url"] == f"{shared_up.url}/api"
    assert state["config_file"].endswith("my.toml")
    assert state["started_at_utc"].endswith("+00:00")


def test_whoever_has_no_password_gets_nothing(shared_up: Up) -> None:
    for login in (None, ("someone", "else")):
        answer = requests.post(f"{shared_up.url}/api/deployments/filter", json={}, auth=login, timeout=20)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
def test_no_foreign_page_starts_a_run(shared_up: Up, headers: dict[str, str]) -> None:
    deployment = shared_up.deployments()["weekly"]["id"]
    # As a page may send it without being asked for leave: no content type, no preflight.
    answer = requests.post(
        f"{shared_up.url}/api/deployments/{deployment}/create_flow_run",
        data=b"{}", headers=headers, auth=shared_up.login, timeout=20,
    )  # fmt: skip
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_the_dashboards_own_pages_may_ask(shared_up: Up) -> None:
    for origin in (shared_up.url, shared_up.url.replace("127.0.0.1", "localhost")):
        answer = requests.post(
            f"{shared_up.url}/api/deployments/filter",
            json={}, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"}, auth=shared_up.login, timeout=20,
        )  # fmt: skip
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


def test_the_dashboard_works_in_a_browser_and_asks_nobody_else(shared_up: Up) -> None:
    with browser() as chromium:
        page = chromium.page()
        # A fresh profile is asked for the password by the page itself.
        page.open(shared_up.url, until="document.body.innerText.length > 0")
        page.wait_for("!!document.querySelector('input') || document.body.innerText.includes('Flows')")
        asked = page.evaluate("performance.getEntriesByType('resource').map(one => new URL(one.name).host)")
    assert {host for host in asked if host} == {f"127.0.0.1:{shared_up.port}"}


def test_secrets_are_where_they_are_needed_and_nowhere_else(shared_up: Up) -> None:
    server, serving = shared_up.child(SERVER), shared_up.child(SERVING)
    key, password = shared_up.local.secret_key, "s3cr3t-of-the-server"
    of_server = Path(f"/proc/{server}/environ").read_text()
    assert key not in of_server
    assert ALARM_URL not in of_server
    assert password in of_server
    assert key in Path(f"/proc/{serving}/environ").read_text()
    written = [*(shared_up.home / "prefect").glob("*.log"), shared_up.log, shared_up.home / "up.json"]
    everything = " ".join([*processes_of(shared_up.home).values(), *(file.read_text() for file in written)])
    assert len(written) == 4
    assert [secret for secret in (key, password, ALARM_URL) if secret in everything] == []
    assert stat.S_IMODE((shared_up.home / "prefect").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(log.stat().st_mode) == 0o600 for log in written[:2])


def test_a_second_one_is_told_where_the_first_is(shared_up: Up) -> None:
    second = shared_up.another()
    assert second.returncode == 1
    assert f"one already does: {shared_up.url} (process {shared_up.process.pid}); stop it first" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert state_of(shared_up)["pid"] == shared_up.process.pid


@pytest.mark.parametrize("module", [SERVER, SERVING])
def test_a_child_that_is_killed_is_started_again(shared_up: Up, module: str) -> None:
    before = shared_up.child(module)
    assert before is not None
    told = shared_up.log.read_text().count("runs again")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: shared_up.log.read_text().count("runs again") > told)
    assert shared_up.child(module) not in {None, before}
    assert shared_up.said("ended (signal 9) and is started again in ")
    assert "weekly" in shared_up.deployments()


# Its end


@pytest.fixture
def own_up(tmp_path: Path, prefect_server: PrefectServer) -> Iterator[Up]:
    found = Up(tmp_path, with_database(tmp_path / "home", prefect_server))
    yield found
    found.end()


def test_nothing_stays_after_a_kill_and_a_stop_in_mid_run_leaves_no_run_that_blocks(own_up: Up) -> None:
    own_up.process.kill()
    own_up.process.wait()
    wait_until(lambda: not processes_of(own_up.home), patience_s=15)
    own_up.start()
    identity = a_waiting_run(own_up)
    asked_s = time.monotonic()
    own_up.process.terminate()
    assert own_up.process.wait(20) == 0, "a stop that was asked for is no failure"
    assert time.monotonic() - asked_s < 15
    assert processes_of(own_up.home) == {}
    assert not (own_up.home / "up.json").exists()
    assert state_in_database(own_up.home, identity) == "CRASHED"


def a_waiting_run(up: Up) -> str:
    """A run of the weekly deployment that is at work: it waits for a round, as none is open."""
    deployment = up.deployments()["weekly"]["id"]

    def state_of_run() -> str:
        (found,) = up.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [identity]}}})
        return str(found["state"]["type"])

    while True:
        identity = str(up.ask(f"deployments/{deployment}/create_flow_run", {})["id"])
        wait_until(lambda: state_of_run() in {"RUNNING", "CANCELLED"})
        if state_of_run() == "RUNNING":
            return identity
        # Cancelled: the one that catches up at the start had the only place, for a second or two.
        time.sleep(0.5)


def state_in_database(home: Path, flow_run_id: str) -> str:
    database = sqlite3.connect(home / "prefect" / "prefect.db")
    try:
        found = dict(database.execute("select id, state_type from flow_run").fetchall())
    finally:
        database.close()
    return str(found[flow_run_id])
