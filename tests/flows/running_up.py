"""`eraflow up` as a process of its own, for the tests that ask for it."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests

from eraflow.rehearsal import LocalTournament
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.market_files import ROUND_FILES, TRAIN_FILES, WEEK_FILES, write_file
from flows.up import read_state
from tests.real_prefect import ROOT, environment_for, free_port, processes_of, wait_until

CONFIG = """
[slots]
rehearsal_one = "simple-mlp"

[alarm]
urls = ["$OUR_ALARM_URL"]
"""
ALARM_URL = "json://alarms.invalid/s3cr3t-of-the-alarm"
PROGRAM = """
import logging, os, sys
from pathlib import Path
from eraflow.errors import EraflowError
from flows.up import up
logging.basicConfig(level=logging.INFO, format="%(message)s")
try:
    sys.exit(up(Path(sys.argv[1]), os.environ, port=int(sys.argv[2])))
except EraflowError as error:
    print(error.message, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Up:
    """One `eraflow up`, ready, with a local tournament between rounds: nothing is caught up."""

    def __init__(self, folder: Path, home: Path, *, password: str = "") -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        user, _, secret = password.partition(":")
        self.login = (user, secret) if password else None
        self.log = folder / "up.log"
        self.local = LocalTournament(folder / "tournament", data_from=_market(folder / "market"))
        self.local.start()
        (folder / "my.toml").write_text(CONFIG)
        self._command = [sys.executable, "-c", PROGRAM, str(folder / "my.toml"), str(self.port)]
        self.environment = {
            **environment_for(self.local, home),
            "OUR_ALARM_URL": ALARM_URL,
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            **({"PREFECT_SERVER_API_AUTH_STRING": password} if password else {}),
        }
        self.start()

    def start(self) -> None:
        """Start it, and wait until it says where the dashboard is."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: "the dashboard is at" in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def another(self) -> subprocess.CompletedProcess[str]:
        """What a second one of the same home says."""
        return subprocess.run(
            self._command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )

    def child(self, module: str) -> int | None:
        """The process id of the child that runs this module, None while it is being restarted."""
        found = [process for process, command in processes_of(self.home).items() if f" {module} " in command]
        return found[0] if found else None

    def ask(self, what: str, body: Mapping[str, Any]) -> Any:
        """What the API answers to a POST, from a program that knows the password."""

        def answered() -> requests.Response:
            return requests.post(f"{self.url}/api/{what}", json=body, auth=self.login, timeout=90)

        answer = answered()
        for _ in range(20):
            if answer.status_code != 503:  # its database is locked by another of its own writers; clients ask again
                break
            answer = answered()
        answer.raise_for_status()
        return answer.json()

    def deployments(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.ask("deployments/filter", {})}

    def scheduled(self) -> list[dict[str, Any]]:
        """The runs that the server itself has planned."""
        found: list[dict[str, Any]] = self.ask(
            "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        )
        return found

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def end(self) -> None:
        """Leave nothing running, whatever became of it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for process in processes_of(self.home):
            os.kill(process, signal.SIGKILL)
        self.local.stop()


@cache
def _shared() -> Up:
    folder = tempfile.TemporaryDirectory(prefix="eraflow-up-")
    found = Up(Path(folder.name), Path(folder.name) / "home", password="someone:s3cr3t-of-the-server")

    def end() -> None:
        found.end()
        folder.cleanup()

    atexit.register(end)
    return found


@pytest.fixture(scope="session")
def shared_up() -> Up:
    """One with a password, in a home that was empty; whoever kills a part of it waits until it runs again."""
    return _shared()


def state_of(up: Up) -> dict[str, Any]:
    """What it has written down about itself."""
    found = read_state(up.home)
    assert found is not None
    return found


def _market(folder: Path) -> Path:
    folder.mkdir()
    market = Market(MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=40))
    for name in (*TRAIN_FILES, *WEEK_FILES, *ROUND_FILES):
        write_file(market, name, folder / name, week=1, number=1401)
    return folder
