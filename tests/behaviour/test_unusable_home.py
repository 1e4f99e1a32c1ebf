"""What timers start in a home that cannot be used as it should: whoever is to be told is told, and once."""

from __future__ import annotations

import _thread
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eraflow.ledger import Ledger
from eraflow.rounds import Round, system_now_utc
from eraflow.store import Store
from eraflow.watch import check
from tests.behaviour.week import SLOTS, Week
from tests.eraflow.raw_server import OK, Server, closed_port, sending

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="modes, and what root may do in spite of them")
ROOT = Path(__file__).resolve().parents[2]
ASKED = "whether this week is safe cannot be asked: "
BLIND = "eraflow: whether this week is safe cannot be asked"
# Root gives up what lets it pass modes by, which counts from the next program on.
WEAKER = """
import ctypes, os, sys
for right in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, out of the bounding set
    ctypes.CDLL(None).prctl(24, right, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
COMMAND = """
import sys
from eraflow import tournament
from flows.command import main
tournament.RETRY_WAITS_S = ()
sys.exit(main(sys.argv[1:]))
"""


@dataclass
class Home:
    """A home whose configuration lies outside it, and whoever its alarms are told to."""

    week: Week
    config: Path
    server: Server

    @property
    def path(self) -> Path:
        return self.week.home

    @property
    def told(self) -> list[str]:
        """The titles of all alarms, in order."""
        return [str(json.loads(body)["title"]) for body in self.server.bodies]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WEAKER, "-c", COMMAND, *arguments, "--config", str(self.config)],
            cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def written(self, text: str, mode: int = 0o600) -> Path:
        """Its environment file."""
        path = self.path / "eraflow.env"
        path.write_text(text)
        path.chmod(mode)
        return path


@pytest.fixture
def home(week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    config, server = tmp_path / "my.toml", Server(sending(OK + b"Content-Length: 0\r\n\r\n"))
    Store.open(week.home)
    with server.running() as url:
        lines = ["[alarm]", f'urls = ["{url.replace("http:", "json:")}", "$OF_THE_FILE"]', "[slots]"]
        config.write_text("\n".join([*lines, *(f'{slot} = "simple-mlp"' for slot in SLOTS)]))
        yield Home(week, config, server)
    week.home.chmod(0o700)


# An environment file that is unfit


@pytest.mark.parametrize(
    ("line", "mode", "code", "why"),
    [
        ("OF_THE_FILE=json://127.0.0.1:1", 0o644, 4, "must be its owner's alone, however its mode is 644; run: chmod"),
        ("no pair", 0o600, 2, "must be NAME=VALUE, the value plain or in quotes that are closed, however it is not"),
    ],
)
def test_an_environment_file_that_is_unfit_does_not_silence_the_dead_mans_switch(
    home: Home, line: str, mode: int, code: int, why: str
) -> None:
    home.written(line, mode)
    done = home.run("status", "--check")
    assert done.returncode == code
    assert done.stdout.startswith(ASKED)
    assert why in done.stdout
    assert "alarm 2 of 2 could not be delivered (without a scheme): alarm.urls[1] reads the environment" in done.stderr
    assert home.told == [BLIND]
    assert (home.run("status", "--check").returncode, home.told) == (code, [BLIND]), "the same is not told twice"
    assert home.week.sent() == []


def test_a_round_that_is_refused_for_its_environment_file_is_told_of(home: Home) -> None:
    home.written("A=1", 0o644)
    assert (home.run("weekly", "--no-submit").returncode, home.told) == (4, [])
    done = home.run("weekly", "--json")
    assert (done.returncode, home.told) == (4, ["eraflow: a run stopped"])
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["code"] == "credentials"
    assert f"{home.path}/eraflow.env holds keys and must be its owner's alone" in error["message"]
    assert error["message"] in json.loads(home.server.bodies[0])["message"]
    assert done.stderr.splitlines()[-1] == f"eraflow: {error['message']}"
    assert (home.run("daily").returncode, len(home.told)) == (4, 1), "the same is not told twice"


def test_without_a_configuration_the_environment_file_is_what_is_told(home: Home) -> None:
    home.written("A=1", 0o644)
    home.config.unlink()
    for arguments in (["status", "--check"], ["weekly"]):
        done = home.run(*arguments)
        assert done.returncode == 4
        assert "must be its owner's alone" in done.stdout + done.stderr


def test_somebody_who_looks_is_told_of_the_environment_file_and_nobody_else_is(home: Home) -> None:
    home.written("A=1", 0o644)
    done = home.run("status")
    assert (done.returncode, home.told) == (4, [])
    assert "must be its owner's alone" in done.stderr


# Threads that cannot be started


def test_where_no_thread_can_be_started_for_the_ledger_the_dead_mans_switch_rings_all_the_same(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = _thread.start_new_thread, ["the configuration", "the alarms that were told"]

    def scarce(*given: Any) -> int:
        if left:
            raise RuntimeError(f"can't start new thread for {left.pop(0)}")
        return start(*given)

    monkeypatch.setattr(_thread, "start_new_thread", scarce)
    watched = check(home.path, home.config, os.environ)
    assert (watched.exit_code, left, home.told) == (1, [], [BLIND])
    assert "there must be more memory for this" in watched.sentence


# A home that may not be entered


@pytest.mark.parametrize("arguments", [["status", "--check"], ["weekly"], ["daily"]])
def test_a_home_that_may_not_be_entered_is_told_as_such(home: Home, arguments: list[str]) -> None:
    home.path.chmod(0o000)
    done = home.run(*arguments)
    why = f"the folder {home.path} cannot be used: Permission denied; set ERAFLOW_HOME to one that can"
    assert done.returncode == 1
    assert why in done.stdout + done.stderr
    assert "eraflow.env" not in done.stdout + done.stderr
    assert len(home.told) == 1
    assert why in json.loads(home.server.bodies[0])["message"]


# A home that can only be read


def test_a_verified_round_stays_safe_in_a_home_that_can_only_be_read(home: Home) -> None:
    home.week.play()
    home.week.sent()
    home.path.chmod(0o555)
    done = home.run("status", "--check", "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, found["is_safe"], home.told) == (0, True, [])
    assert found["did"] == [
        "round 1401 is safe: 2 slots verified",
        f"warning: the next round cannot be played: the folder {home.path} cannot be used: Permission denied;"
        " set ERAFLOW_HOME to one that can",
    ]
    assert [one["origin"] for one in found["submissions"]] == ["own", "own"], "the ledger is read"
    assert home.week.sent() == []


def test_what_the_ledger_knows_is_verified_counts_in_a_home_that_can_only_be_read(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("ERAFLOW_API_URL", url)
    ledger, now_utc = Ledger(Store(home.path).ledger_path, url), system_now_utc()
    ledger.note_round(Round(number=5, opens_at_utc=now_utc, closes_at_utc=now_utc.replace(year=2999)))
    for slot in SLOTS:
        began = ledger.begin(round_number=5, slot=slot, recipe="a", source="fresh", sha256="ab", late=False)
        ledger.mark(began, "verified", submission_id="s", verified="bytes")
    home.path.chmod(0o555)
    done = home.run("status", "--check")
    assert (done.returncode, home.told) == (0, [])
    assert done.stdout.startswith("round 5 is safe: 2 slots verified, says the ledger; the tournament")
    assert "warning: the next round cannot be played: the folder" in done.stdout


def test_a_round_that_is_not_safe_is_told_of_and_not_played_in_a_home_that_can_only_be_read(home: Home) -> None:
    Ledger(Store(home.path).ledger_path, home.week.local.url)
    home.path.chmod(0o555)
    done = home.run("status", "--check")
    assert done.returncode == 1
    assert done.stdout.startswith(f"the round cannot be played: the folder {home.path} cannot be used")
    assert home.told == ["eraflow: round 1401 has no verified submission yet, 1 d 1 h left"]
    assert home.week.sent() == []


@pytest.mark.parametrize("damaged", [False, True], ids=["no ledger", "a ledger that is none"])
def test_without_a_ledger_to_read_nothing_can_be_asked(home: Home, damaged: bool) -> None:
    if damaged:
        Store(home.path).ledger_path.write_bytes(b"no database" * 500)
    home.path.chmod(0o555)
    done = home.run("status", "--check")
    assert done.returncode == 1
    assert done.stdout.rstrip().endswith("cannot be used: Permission denied; set ERAFLOW_HOME to one that can")
    assert (home.told, home.week.sent()) == ([BLIND], [])


def test_what_was_told_before_is_not_told_again_in_a_home_that_can_only_be_read(home: Home) -> None:
    home.written("A=1", 0o644)
    assert home.run("status", "--check").returncode == 4
    home.path.chmod(0o555)
    assert (home.run("status", "--check").returncode, home.told) == (4, [BLIND])
