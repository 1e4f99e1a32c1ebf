"""The real Prefect server, and programs that run against it, for the tests that ask for them.

Nothing here imports Prefect into the tests' own process: it sets up logging for the whole process. Programs run as
processes of their own, and the server is asked over HTTP.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests

from eraflow.rehearsal import LocalTournament
from tasks.health import answers

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 90.0


class PrefectServer:
    """A server as `prefect server start` starts it, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "prefect-home"
        self.log = folder / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        environment = {
            **clean_environment(),
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Where the dashboard looks for the API; by default port 4200, whatever the port is.
            "PREFECT_SERVER_UI_API_URL": self.url,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: answers(self.url) or self._process.poll() is not None)
        assert self._process.poll() is None, self.log.read_text()

    def stop(self) -> None:
        """Stop it and what it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def read(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        """All objects of a kind: flow_runs, task_runs, artifacts, deployments, logs."""
        answer = requests.post(f"{self.url}/{what}/filter", json=filters, timeout=90)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def run_of(self, flow_run_id: str) -> dict[str, Any]:
        """One flow run."""
        (found,) = self.read("flow_runs", flow_runs={"id": {"any_": [flow_run_id]}})
        return found

    def artifacts_of(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """Key -> its last artifact, of one flow run; progress has no key and is left out."""
        found = self.read("artifacts", artifacts={"flow_run_id": {"any_": [flow_run_id]}}, sort="CREATED_DESC")
        return {one["key"]: one for one in reversed(found) if one["key"]}

    def newest_run(self) -> dict[str, Any]:
        """The flow run that was created last and has started."""
        runs = [run for run in self.read("flow_runs", sort="START_TIME_DESC") if run["start_time"]]
        return max(runs, key=lambda run: str(run["start_time"]))


@cache
def started_server() -> PrefectServer:
    """The one server of this process of tests; it takes 8 s to start."""
    folder = tempfile.TemporaryDirectory(prefix="eraflow-prefect-")
    server = PrefectServer(Path(folder.name))

    def end() -> None:
        server.stop()
        folder.cleanup()

    atexit.register(end)
    return server


@pytest.fixture(scope="session")
def prefect_server() -> PrefectServer:
    """A real Prefect server on a free port of 127.0.0.1."""
    return started_server()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that is Prefect's, the tournament's or eraflow's."""
    ours = ("PREFECT", "NUMERAI", "ERAFLOW")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def environment_for(local: LocalTournament, home: Path, server: PrefectServer | None = None) -> dict[str, str]:
    """What points a program at the local tournament, at its home and, if it is to use one, at a server."""
    return {
        **clean_environment(),
        "ERAFLOW_API_URL": local.url,
        "NUMERAI_PUBLIC_ID": local.public_id,
        "NUMERAI_SECRET_KEY": local.secret_key,
        "ERAFLOW_HOME": str(home),
        **({"PREFECT_API_URL": server.url} if server else {}),
    }


def with_database(home: Path, server: PrefectServer) -> Path:
    """`home` with a copy of the server's database as its own, which saves the 5 s that making one takes."""
    folder = home / "prefect"
    folder.mkdir(parents=True)
    source, target = sqlite3.connect(server.home / "prefect.db"), sqlite3.connect(folder / "prefect.db")
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
    return home


def weekly_command(*slots: str) -> list[str]:
    """`eraflow weekly` for these slots, with a recipe that trains within a second."""
    named = [part for slot in slots for part in ("--model", slot)]
    options = ["--recipe", "simple-mlp", "--set", "training.device=cpu", "--set", "submission.readback_s=1", "--json"]
    return [sys.executable, "-m", "flows", "weekly", *named, *options]


def run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=2 * PATIENCE_S,
    )  # fmt: skip


def last_json(text: str) -> dict[str, Any]:
    """The object in the last line of a program's standard output."""
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def processes_of(home: Path) -> dict[int, str]:
    """Process id -> command line of every living process whose environment names `home`."""
    if not Path("/proc/self/environ").exists():
        if os.environ.get("CI") == "true":
            pytest.fail("processes are found through /proc, and on CI nothing may be skipped")
        pytest.skip("processes are found through /proc, which this system does not have")
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
    return found


def wait_until(reached: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Wait until `reached` says so, and fail after `patience_s` [s]."""
    started = time.monotonic()
    while not reached():
        assert time.monotonic() - started < patience_s, "it never came so far"
        time.sleep(0.05)
