"""What an attacker would try against the pure part: heads without end, files without end, pickles, talkative logs.

Each test is a line of docs/threats.md. What else stops these attacks is tested beside its module.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eraflow import alarms, runs, stored, transport
from eraflow.alarms import Alarm, ring
from eraflow.environment import secrets_in
from eraflow.errors import RefusedError, StorageError, TrainingError, TransientError
from eraflow.ledger import Ledger
from eraflow.transport import NotSentError, get, receive
from eraflow.weekly_config import AlarmConfig
from tests.conftest import ROOT
from tests.eraflow.raw_server import JSON, OK, SECRET, Server, ask, fetch, sending, upload

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TAKEN = sending(OK + b"Content-Length: 0\r\n\r\n")


# Time and size


@pytest.mark.parametrize(
    "answer",
    [sending(*[CONTINUE] * 60, pause_s=0.02), sending(OK + b"X-Slow: ", *[b"x"] * 60, pause_s=0.02)],
    ids=["continue", "header"],
)
@pytest.mark.parametrize("send", [ask, fetch, upload])
def test_a_head_that_never_ends_is_given_up(
    answer: Callable[[socket.socket], None], send: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read is within its time-out, so that without a limit of its own this is waited for as long as it lasts."""
    monkeypatch.setattr(transport, "HEAD_LIMIT_S", 0.3)
    monkeypatch.setattr(transport, "REACH_LIMIT_S", 0.3)
    with (
        Server(answer).running() as url,
        pytest.raises(TransientError, match=r"did not answer within 0\.3 s") as caught,
    ):
        send(url)
    assert not isinstance(caught.value, NotSentError), "the request may have taken effect"


def test_an_unanswered_query_is_given_up_within_a_minute_head_and_all() -> None:
    """Counted from where it has left this machine."""
    assert transport.HEAD_LIMIT_S + transport.ANSWER_LIMIT_S <= 60.0


def downloaded(url: str, name: str, to: Path) -> int:
    with get(url, name) as body:
        return receive(body, name, to, lambda *_: None).freshness.size_bytes


@pytest.mark.parametrize(("name", "limit"), [("v5.3/features.json", "JSON"), ("v5.3/live.parquet", "FILE")])
def test_a_file_too_large_to_be_the_tournaments_is_refused_before_its_first_byte(
    name: str, limit: str, tmp_path: Path
) -> None:
    most = getattr(transport, f"LARGEST_{limit}_BYTES")
    with (
        Server(sending(OK + f"Content-Length: {most + 1}\r\n\r\n".encode() + b"x" * 100)).running() as url,
        pytest.raises(RefusedError, match=rf"at most {most:,} bytes, however it has {most + 1:,}"),
    ):
        downloaded(url, name, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_file_of_no_announced_length_is_given_up_at_the_same_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LARGEST_JSON_BYTES", 100_000)
    with (
        Server(sending(OK + b"\r\n", *[b"x" * 60_000] * 4)).running() as url,
        pytest.raises(RefusedError, match="at most 100,000 bytes"),
    ):
        downloaded(url, "features.json", tmp_path / "file")
    assert (tmp_path / "file").stat().st_size <= 100_000


def test_a_file_of_no_announced_length_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "KEPT_FREE_BYTES", 1 << 62)
    monkeypatch.setattr(transport, "ROOM_EACH_BYTES", 100_000)
    with (
        Server(sending(OK + b"\r\n", *[b"x" * 60_000] * 4)).running() as url,
        pytest.raises(StorageError, match="whose length was not announced, needs"),
    ):
        downloaded(url, "live.parquet", tmp_path / "file")


def test_the_limits_that_are_shipped_are_those_that_are_told() -> None:
    """docs/threats.md names them; the tests that play an attack have smaller ones."""
    assert transport.ANSWER_LIMIT_BYTES == 32 * 1024**2
    assert (transport.LARGEST_FILE_BYTES, transport.LARGEST_JSON_BYTES) == (64 * 1024**3, 64 * 1024**2)
    assert (transport.KEPT_FREE_BYTES, transport.ROOM_EACH_BYTES) == (1024**3, 64 * 1024**2)
    assert (transport.STALLED_BYTES_PER_S, transport.STALLED_AFTER_S) == (1024, 60.0)
    assert (transport.CONNECT_TIMEOUT_S, transport.READ_TIMEOUT_S) == (10.0, 30.0)
    assert (transport.REACH_LIMIT_S, transport.HEAD_LIMIT_S, transport.ANSWER_LIMIT_S) == (60.0, 30.0, 30.0)
    assert (alarms.RING_LIMIT_S, alarms.HEARTBEAT_LIMIT_S) == (10.0, 10.0)


# Addresses


@pytest.fixture
def talkative() -> Iterator[list[str]]:
    """Every line that any logger says, at its most talkative."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    root, handler = logging.getLogger(), Handler()
    loggers = [root, logging.getLogger("urllib3")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    root.addHandler(handler)
    yield lines
    root.removeHandler(handler)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize("send", [ask, fetch, upload])
def test_no_signed_address_stands_in_a_log_whatever_its_level(
    send: Callable[[str], object], talkative: list[str]
) -> None:
    with Server(sending(JSON)).running() as url:
        send(f"{url}/file?Signature={SECRET}")
        assert not any(SECRET in line for line in talkative)
        # The same request without our door: the log would have told it.
        import requests

        requests.get(f"{url}/file?Signature={SECRET}", timeout=5)
    assert any(SECRET in line for line in talkative)


@pytest.mark.parametrize(("asks", "told"), [("", 0), ("?redirect=yes", 1)])
def test_an_alarm_goes_to_nobody_whom_its_service_names(asks: str, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    elsewhere = Server(TAKEN)
    with elsewhere.running() as target:
        away = f"HTTP/1.1 307 Elsewhere\r\nLocation: {target}/\r\nContent-Length: 0\r\n\r\n".encode()
        with Server(sending(away)).running() as url:
            config = AlarmConfig(urls=(f"{url.replace('http', 'json')}/{asks}",))
            alarm = Alarm(kind="failure", round=1432, title="round 1432 is not safe", body="disk full")
            assert ring(alarm, config, {}) == told
    assert len(elsewhere.heads) == told


# Code in data


class Payload:
    """A pickle that runs a command of whoever wrote it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def test_a_pickle_in_place_of_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "fitted.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(TrainingError, match="must hold a trained network"):
        runs.read(tmp_path / "fitted.safetensors")
    assert not marker.exists()


@pytest.mark.parametrize("name", stored.FILES)
def test_a_pickle_in_place_of_a_decoded_array_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    np.save(tmp_path / name, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"allow_pickle=False|Array can't be memory-mapped"):
        stored._describe(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(ValueError, match=r"allow_pickle=False|pickled"):
        stored._describe(tmp_path / name)
    assert not marker.exists()


def test_text_from_outside_is_data_to_the_ledger(tmp_path: Path) -> None:
    evil = "x'); DROP TABLE attempts; --"
    ledger = Ledger(tmp_path / "ledger.sqlite", evil)
    number = ledger.begin(round_number=1, slot=evil, recipe=evil, source="fresh", sha256=evil, late=False)
    ledger.mark(number, "failed", error=evil, stored_as=evil)
    found = ledger.attempt(number)
    assert (found.slot, found.recipe, found.error, found.stored_as) == (evil,) * 4
    assert ledger.check() is None


def test_what_the_environment_calls_a_secret_is_known_as_one() -> None:
    environ = {
        "NUMERAI_SECRET_KEY": "key-of-numerai", "NUMERAI_PUBLIC_ID": "public-id", "MY_TOKEN": "longer-than-the-others",
        "PREFECT_SERVER_API_AUTH_STRING": "user:password", "SHORT_KEY": "abc", "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    assert secrets_in(environ) == ("longer-than-the-others", "key-of-numerai", "user:password", "public-id")


# Crashes


@pytest.mark.skipif(os.name != "posix", reason="core files are of POSIX")
def test_a_process_that_may_hold_keys_and_what_it_starts_leave_no_core_file(tmp_path: Path) -> None:
    child = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    code = f"""
import os, resource, subprocess, sys
from pathlib import Path
from eraflow.environment import load
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
load(Path("nowhere.env"), os.environ)
sys.exit(subprocess.run([sys.executable, "-c", {child!r}]).returncode)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an abort is another")
@pytest.mark.parametrize("told", ["a dump of all threads", "nothing"])
def test_a_command_that_crashes_with_the_keys_in_its_hands_writes_none_of_them(told: str, tmp_path: Path) -> None:
    """In the thread that sends them. The dump is what the user may ask of Python; by itself no command asks for it."""
    code = """
import os, sys
import requests
from flows.command import main
def crash(self, method, url, **given):
    if "Authorization" in given["headers"]:
        os.write(1, b"it holds the keys")
        os.abort()
    raise requests.exceptions.ConnectTimeout
requests.Session.request = crash
sys.exit(main(["scores", "--model", "one", "--debug"]))
"""
    home = tmp_path / "home"
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    kept |= {"PYTHONFAULTHANDLER": "1"} if told != "nothing" else {}
    keys = {"NUMERAI_PUBLIC_ID": "PUBLIC-OF-ACCOUNT", "NUMERAI_SECRET_KEY": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={**kept, **keys, "ERAFLOW_HOME": str(home), "ERAFLOW_API_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "it holds the keys"), done.stderr
    assert ("Fatal Python error: Aborted" in done.stderr) == (told != "nothing")
    assert (str(Path("eraflow", "transport.py")) in done.stderr) == (told != "nothing")
    written = [done.stderr.encode(), *(path.read_bytes() for path in home.rglob("*") if path.is_file())]
    assert not [text for text in written for secret in keys.values() if secret.encode() in text]


def test_a_json_without_end_of_brackets_is_no_crash() -> None:
    body = b"[" * 200_000
    with Server(sending(OK + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)).running() as url:
        assert ask(url) is None
