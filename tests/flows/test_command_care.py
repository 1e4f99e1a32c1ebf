"""`eraflow status --watch`, `doctor` and `scores` as a user sees them: on a terminal, in a pipe, as JSON."""

from __future__ import annotations

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from eraflow import status
from eraflow.ledger import Ledger, Score
from eraflow.rehearsal import LocalTournament
from eraflow.store import Store
from flows import command_care
from flows.command import main
from tests.eraflow.raw_server import closed_port
from tests.real_prefect import environment_for, run

ROOT = Path(__file__).resolve().parents[2]
ERAFLOW = [sys.executable, "-m", "flows"]
CONFIG = '[slots]\nrehearsal_one = "simple-mlp"\n'


@pytest.fixture
def environment(local: LocalTournament, tmp_path: Path) -> dict[str, str]:
    """What points the command at a home with a configuration, and at the local tournament."""
    home = Store.open(tmp_path / "home").home
    (home / "weekly.toml").write_text(CONFIG)
    return environment_for(local, home)


@contextmanager
def started(environment: Mapping[str, str], out: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*ERAFLOW, "status", "--watch"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(reading: int, text: bytes) -> bytes:
    """What comes until `text` has come; a test that waits in vain runs into its time limit."""
    found = b""
    while text not in found:
        found += os.read(reading, 4096)
    return found


def test_on_a_terminal_the_status_is_drawn_over_itself_until_ctrl_c(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with started(environment, theirs) as process:
        os.close(theirs)
        first = read_until(ours, b"\x1b[J")
        assert first.startswith(b"\x1b[HRound 1401 is not safe")
        assert read_until(ours, b"\x1b[J").lstrip(b"\r\n").startswith(b"\x1b[HRound 1401")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    os.close(ours)


def test_ctrl_c_ends_the_watch_even_where_its_exception_is_lost(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("ERAFLOW_API_URL", "ERAFLOW_HOME", "NUMERAI_PUBLIC_ID", "NUMERAI_SECRET_KEY"):
        monkeypatch.setenv(name, environment[name])
    look, looks = status.look, []

    def interrupted(*given: Any) -> Any:
        looks.append(given)
        assert len(looks) == 1, "it goes on"
        with suppress(KeyboardInterrupt):  # as the interpreter does in a callback, which has nobody to raise it to
            signal.raise_signal(signal.SIGINT)
        return look(*given)

    monkeypatch.setattr(status, "look", interrupted)
    assert main(["status", "--watch"]) == 0
    assert "Round 1401" in capfd.readouterr().out


def test_in_a_pipe_the_status_is_printed_again_when_it_changes(
    environment: dict[str, str], local: LocalTournament
) -> None:
    reading, writing = os.pipe()
    with started(environment, writing) as process:
        os.close(writing)
        assert read_until(reading, b"up  ").startswith(b"Round 1401 is not safe")
        ledger = Ledger(Store(Path(environment["ERAFLOW_HOME"])).ledger_path, local.url)
        ledger.note_alarm(1401, "test", "a change", 1)
        assert read_until(reading, b"a change").count(b"is not safe") == 1
        os.close(reading)
        assert process.wait(20) == 0, "nobody reads it any more"


def test_a_home_that_nothing_can_be_kept_in_is_a_warning(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ERAFLOW_API_URL", environment["ERAFLOW_API_URL"])
    monkeypatch.setenv("ERAFLOW_HOME", str(tmp_path / "file"))
    why = f"the folder {tmp_path}/file cannot be used: Not a directory; set ERAFLOW_HOME to one that can"
    assert main(["status"]) == 0
    assert f"warning: {why}\n" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [why]


def test_the_doctor_ends_with_the_code_of_what_is_wrong(environment: dict[str, str]) -> None:
    done = run([*ERAFLOW, "doctor", "--json"], {**environment, "NUMERAI_SECRET_KEY": "wrong"})
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 4
    assert told["error"]["code"] == "unfit"
    states = {finding["name"]: finding["state"] for finding in told["findings"]}
    assert (states["scopes"], states["tournament"], states["device"]) == ("fail", "ok", "ok")


def test_scores_that_were_collected_are_shown_when_the_tournament_is_down(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment["ERAFLOW_API_URL"] = f"http://127.0.0.1:{closed_port()}"
    for name in ("ERAFLOW_API_URL", "ERAFLOW_HOME", "NUMERAI_PUBLIC_ID", "NUMERAI_SECRET_KEY"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr("eraflow.tournament.RETRY_WAITS_S", ())
    home = Path(environment["ERAFLOW_HOME"])
    ledger = Ledger(Store(home).ledger_path, environment["ERAFLOW_API_URL"])
    ledger.note_scores([Score(round=1390, slot="rehearsal_one", name="corr60", day=3, value=0.0123)])
    assert command_care.scores(argparse.Namespace(config=None, model=[], json=True)) == 1
    told = capsys.readouterr()
    assert "(ERAFLOW_API_URL is set); this is what was collected before" in told.err
    assert [score["value"] for score in json.loads(told.out)["scores"]] == [0.0123]
    assert (home / "scores.png").read_bytes()[:4] == b"\x89PNG"
