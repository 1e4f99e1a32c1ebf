"""What `eraflow up` refuses before it starts anything, and how a child of it is kept; without Prefect."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from eraflow.errors import CredentialsError, EraflowError, InputError
from eraflow.rehearsal import LocalTournament
from flows import child, supervisor
from flows.child import Child
from flows.process_group import members, wait_until
from flows.supervisor import Supervisor
from flows.up import up
from tests.real_prefect import clean_environment, environment_for

CONFIG = '[slots]\nrehearsal_one = "simple-mlp"\n'


@pytest.fixture
def environ(local: LocalTournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    environ = environment_for(local, tmp_path / "home")
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    return environ


def check(tmp_path: Path, environ: dict[str, str], text: str) -> int:
    (tmp_path / "my.toml").write_text(text)
    return up(tmp_path / "my.toml", environ, check_only=True)


# What is refused


def test_a_check_says_one_line_and_starts_nothing(
    tmp_path: Path, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, environ, CONFIG) == 0
    assert capsys.readouterr().out == f"nothing wrong was found in {tmp_path}/my.toml: rehearsal_one (simple-mlp)\n"
    assert not (tmp_path / "home" / "prefect").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[slots]\nnobodys = "simple-mlp"\n', "slot nobodys is not one of this account's models"),
        ('[slots]\nrehearsal_one = "simple-mlq"\n', "simple-mlq"),
        (f'{CONFIG}[schedule]\ntime_zone = "Mars"\n', "time_zone must name a time zone"),
        (f'{CONFIG}[schedule]\nweekly = ["5 12 * *"]\n', "schedule.*weekly"),
        (f'{CONFIG}[alarm]\nurls = ["nonsense"]\n', r"alarm\.urls\[0\]"),
        (f'{CONFIG}[alarm]\nurls = ["$NOT_SET_HERE"]\n', "NOT_SET_HERE"),
        ("", "no slot to submit for"),
    ],
)
def test_what_saturday_would_fail_at_is_refused_now(
    tmp_path: Path, environ: dict[str, str], text: str, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        check(tmp_path, environ, text)


def test_keys_that_the_tournament_refuses_are_refused(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMERAI_SECRET_KEY", "another")
    with pytest.raises(CredentialsError):
        check(tmp_path, environ, CONFIG)


def test_a_tournament_that_cannot_be_asked_keeps_nobody_from_starting(
    tmp_path: Path,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("flows.judge.ASKING_LIMIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        monkeypatch.setenv("ERAFLOW_API_URL", f"http://127.0.0.1:{hangs.getsockname()[1]}")
        assert check(tmp_path, environ, CONFIG) == 0
    assert "the tournament could not be asked" in capsys.readouterr().err


def test_a_password_without_a_user_is_refused_and_not_told(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match="of the form user:password") as caught:
        check(tmp_path, {**environ, "PREFECT_SERVER_API_AUTH_STRING": "s3cr3t"}, CONFIG)
    assert "s3cr3t" not in caught.value.message


def test_without_a_configuration_the_place_for_one_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/home/weekly.toml"):
        up(None, environ, check_only=True)


def test_a_port_in_use_is_said_and_nothing_is_started(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "weekly.toml").write_text(CONFIG)  # found by itself
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 must be free.*--port"):
            up(None, environ, port=port)
    assert not (tmp_path / "home" / "up.json").exists()
    assert not (tmp_path / "home" / "prefect").exists()


def test_a_refusal_of_the_process_that_judges_arrives_whole(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "my.toml").write_text("[slots]\nnobodys = 'simple-mlp'\n")
    with pytest.raises(EraflowError, match="slot nobodys") as caught:
        up(tmp_path / "my.toml", environ)
    assert (caught.value.code, caught.value.exit_code) == ("wrong-input", 2)


# How a child is kept

SLEEPER = "import os, time\nprint('keys:', 'NUMERAI_SECRET_KEY' in os.environ, flush=True)\ntime.sleep(60)\n"
MOTHER = (
    "import subprocess, sys, time\n"
    "daughter = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print('daughter', daughter.pid, flush=True)\ntime.sleep(60)\n"
)


def made(tmp_path: Path, text: str) -> Child:
    (tmp_path / "a_program.py").write_text(text)
    environ = clean_environment()
    environ["PYTHONPATH"] = os.pathsep.join([environ["PYTHONPATH"], str(tmp_path)])
    return Child(name="the program", command=["a_program"], environ=environ, log=tmp_path / "a.log")


@pytest.fixture
def stopping() -> Iterator[list[Child]]:
    found: list[Child] = []
    yield found
    for one in found:
        one.stop(0.0, lambda: True)


def test_a_child_that_dies_is_started_again_after_a_growing_pause(
    tmp_path: Path, stopping: list[Child], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(tmp_path, SLEEPER)
    stopping.append(one)
    one.tend()
    one.tell_ready()
    pauses = []
    for _ in range(8):
        one.kill()
        assert wait_until(lambda: one.tend() > 0, 5), "its end is noticed"
        assert not one.ready
        pauses.append(round(one.tend()))
        one._due_s = 0.0
        one.tend()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "the program ended (signal 9) and is started again in 2 s" in caplog.text
    monkeypatch.setattr(child, "RAN_WELL_S", 0.0)
    one.kill()
    assert wait_until(lambda: one.tend() > 0, 5)
    assert round(one.tend()) == 1, "one that ran well begins anew"


def test_one_that_never_starts_is_given_up_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child, "LONGEST_PAUSE_S", 0.0)
    one = made(tmp_path, "raise SystemExit('no room for it')\n")
    with pytest.raises(EraflowError, match=r"ended 3 times \(exit code 1\): no room for it; see .*a\.log") as caught:
        wait_until(lambda: bool(one.tend() < 0), 20)
    assert (caught.value.code, caught.value.exit_code) == ("did-not-start", 1)
    assert len(caplog.records) == 2


def test_what_it_started_ends_with_it_even_what_a_killed_one_left(tmp_path: Path, stopping: list[Child]) -> None:
    one = made(tmp_path, MOTHER)
    stopping.append(one)
    one.tend()
    first = one.pid
    assert first is not None
    assert wait_until(lambda: one.last_words().startswith("daughter"), 10)
    daughter = int(one.last_words().split()[1])
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: one.tend() > 0, 5)
    assert one.followers() == {daughter}, "it outlives its mother"
    one._due_s = 0.0
    one.tend()
    assert daughter in one.followers()
    one.stop(2.0, lambda: False)
    assert wait_until(lambda: not members(first), 2), "nothing stays"


def test_a_server_that_hangs_is_ended_and_started_again(
    tmp_path: Path, stopping: list[Child], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HEALTH_EACH_S", 0.0)
    monkeypatch.setattr(supervisor, "HEALTH_LIMIT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        keeper = Supervisor(tmp_path / "my.toml", clean_environment(), tmp_path, hangs.getsockname()[1], [])
        keeper.server = made(tmp_path, SLEEPER)
        stopping.append(keeper.server)
        keeper.server.tend()
        keeper.server.tell_ready()
        for _ in range(supervisor.HUNG_AFTER - 1):
            keeper._look_after_health()
        assert keeper.server.tend() == 0, "a busy one is given time"
        keeper._look_after_health()
    assert wait_until(lambda: keeper.server.tend() > 0, 5)
    assert "the Prefect server has not answered for" in caplog.text


def test_its_log_is_the_owners_and_one_old_one_is_kept(
    tmp_path: Path, stopping: list[Child], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eraflow")
    monkeypatch.setattr(child, "LARGEST_LOG_BYTES", 100)
    (tmp_path / "a.log").write_text("x" * 200)
    one = made(tmp_path, SLEEPER)
    stopping.append(one)
    one.tend()
    assert (tmp_path / "a.old.log").read_text() == "x" * 200
    assert wait_until(lambda: one.last_words() == "keys: False", 10)
    assert (tmp_path / "a.log").read_text().startswith("-- started at ")
    assert stat.S_IMODE((tmp_path / "a.old.log").stat().st_mode) == 0o600
    (tmp_path / "a.log").unlink()
    one.kill()
    assert wait_until(lambda: one.tend() > 0, 5)
    one._due_s = 0.0
    one.tend()
    assert stat.S_IMODE((tmp_path / "a.log").stat().st_mode) == 0o600
