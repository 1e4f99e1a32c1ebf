"""Somebody is told, in time and without secrets, against real HTTP endpoints on this machine."""

from __future__ import annotations

import _thread
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eraflow.alarms import Alarm, alarms_of, beat, check, missed, ring
from eraflow.errors import InputError
from eraflow.receipt import Receipt
from eraflow.result import RoundResult
from eraflow.rounds import Round
from eraflow.weekly_config import AlarmConfig
from tests.eraflow.raw_server import OK, SECRET, Server, closed_port, sending

NOW = datetime(2026, 8, 23, 10, 48, tzinfo=UTC)
CLOSES = datetime(2026, 8, 23, 14, 0, tzinfo=UTC)
OPENED = Round(number=1432, opens_at_utc=datetime(2026, 8, 22, 12, 0, tzinfo=UTC), closes_at_utc=CLOSES)
TAKEN = sending(OK + b"Content-Length: 0\r\n\r\n")
ALARM = Alarm(kind="failure", round=1432, title="eraflow: round 1432 is not safe", body="What happened:\n- disk full")

SAFE = Receipt(
    round=1432, slot="one", recipe="mlp", source="fresh", status="submitted", submission_id="s1", sha256="ab",
    verified="bytes", origin="own", sent_at_utc="2026-08-22T12:30:00+00:00", left_s=91800.0,
)  # fmt: skip
FAILED = Receipt(
    round=1432, slot="two", recipe="mlp", source=None, status="failed", error_code="training",
    error_message="the loss is not finite, see https://example.org/key=abc", exit_code=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.records: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.levelname, f"{record.name}: {self.format(record)}"))

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.records)


@pytest.fixture
def log() -> Iterator[Lines]:
    """Everything that any logger says, at its most talkative."""
    lines, loggers = Lines(), [logging.getLogger(name) for name in ("", "eraflow", "apprise", "urllib3")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    for logger in loggers[:2]:
        logger.addHandler(lines)
    yield lines
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.removeHandler(lines)


@contextmanager
def hanging() -> Iterator[str]:
    """An address that takes every request and answers none."""
    over = threading.Event()

    def hold(channel: socket.socket) -> None:
        over.wait(20)

    with Server(hold).running() as url:
        yield url
        over.set()


def apprise_address(url: str, path: str = "") -> str:
    return f"{url.replace('http', 'json')}/{path}"


def result(*receipts: Receipt, **changed: Any) -> RoundResult:
    values: dict[str, Any] = {"round": 1432, "closes_at_utc": "2026-08-23T14:00:00+00:00", "receipts": receipts}
    return RoundResult(**{**values, **changed})


def kinds(*receipts: Receipt, receipts_too: bool = False, train: bool = True, **changed: Any) -> list[str]:
    config = AlarmConfig(receipts=receipts_too)
    return [alarm.kind for alarm in alarms_of(result(*receipts, **changed), config, NOW, train=train)]


def test_a_failed_slot_raises_an_alarm_with_the_round_the_time_left_and_what_to_do() -> None:
    (alarm,) = alarms_of(result(SAFE, FAILED, replace(FAILED, slot="three")), AlarmConfig(), NOW)
    assert (alarm.kind, alarm.round) == ("failure", 1432)
    assert alarm.title == "eraflow: round 1432 is not safe, 3 h 12 min left"
    assert alarm.body.splitlines() == [
        "What happened:",
        "- slots two, three: failed: the loss is not finite, see (address)",
        "What it means: Slots that have no verified submission by Sunday 2026-08-23 14:00 UTC earn nothing in round"
        " 1432.",
        "What to do now: Look at `eraflow status`; run `eraflow weekly` if no attempt is at work. `eraflow doctor`"
        " tells what is wrong with this machine or the keys.",
    ]


def test_after_the_deadline_an_alarm_says_that_it_passed() -> None:
    (alarm,) = alarms_of(result(FAILED), AlarmConfig(), CLOSES + timedelta(minutes=5))
    assert alarm.title == "eraflow: round 1432 is not safe, the deadline passed 5 min ago"
    assert "This round can't be saved." in alarm.body


def test_only_what_somebody_must_know_raises_an_alarm() -> None:
    closed = replace(FAILED, status="skipped", error_code="round-closed", exit_code=3)
    assert kinds(SAFE) == []
    assert kinds(SAFE, receipts_too=True) == ["receipt"]
    assert kinds(closed) == ["failure"], "the deadline passed while it ran"
    for code in ("no-round", "round-closed"):
        assert kinds(replace(closed, round=None, error_code=code), round=None, closes_at_utc=None) == []
        assert kinds(round=None, error={"code": code, "message": "no round is open", "exit_code": 3}) == []
    keys = {"code": "credentials", "message": "the keys are wrong", "exit_code": 4}
    assert kinds(round=None, error=keys) == ["failure"]
    assert kinds(replace(SAFE, status="late", left_s=-60.0)) == ["failure"], "a late submission earns nothing"


def test_one_alarm_a_kind_however_many_slots_are_concerned() -> None:
    old = replace(SAFE, source="older-model", model_id="m7", note="too little time to train")
    column = replace(SAFE, slot="three", source="benchmark", status="already-submitted")
    strange = replace(SAFE, slot="four", source=None, status="already-submitted", origin="foreign", verified="listed")
    found = alarms_of(result(old, FAILED, column, strange), AlarmConfig(receipts=True), NOW)
    assert [alarm.kind for alarm in found] == ["failure", "fallback", "foreign", "receipt"]
    assert "slot one: sent with an older model (m7) instead of a fresh model: too little time" in found[1].body
    assert "slot three: sent with the benchmark predictions instead of a fresh model" in found[1].body
    assert "slot four" in found[2].body
    assert kinds(old, train=False) == [], "where nothing was to be trained, the older model is the plan"
    assert kinds(column, train=False) == ["fallback"]


def test_an_alarm_stays_short_whatever_happened() -> None:
    many = [replace(FAILED, slot=f"slot{i:03}" * 20, error_message=f"{i} {'x' * 5000}") for i in range(60)]
    (alarm,) = alarms_of(result(*many), AlarmConfig(), NOW)
    assert len(alarm.body) < 3000
    assert "and 54 more" in alarm.body


def test_a_missed_attempt_names_the_slots_and_what_is_being_done() -> None:
    alarm = missed(OPENED, ["one", "two"], NOW, "no run is at work; the fallback round starts now")
    assert (alarm.kind, alarm.round) == ("missed", 1432)
    assert alarm.title == "eraflow: round 1432 has no verified submission yet, 3 h 12 min left"
    assert "- slots one, two: no verified submission for round 1432\n- no run is at work; the" in alarm.body


def test_an_alarm_arrives_with_its_text() -> None:
    server = Server(TAKEN)
    with server.running() as url:
        environ = {"MY_ALARM": apprise_address(url, SECRET)}
        assert ring(ALARM, AlarmConfig(urls=("$MY_ALARM",)), environ) == 1
    (body,) = map(json.loads, server.bodies)
    assert (body["title"], body["message"], body["type"]) == (ALARM.title, ALARM.body, "failure")
    assert server.heads[0].startswith(f"POST /{SECRET} ")


def test_a_hanging_address_delays_no_longer_than_the_limit_and_costs_no_other() -> None:
    server = Server(TAKEN)
    with hanging() as stuck, server.running() as url:
        started = time.monotonic()
        assert ring(ALARM, AlarmConfig(urls=(apprise_address(stuck), apprise_address(url))), {}, timeout_s=1) == 1
        assert time.monotonic() - started < 4
    assert len(server.bodies) == 1


def test_a_thread_that_dies_before_it_runs_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for want of memory."""
    config = AlarmConfig(urls=(apprise_address(f"http://127.0.0.1:{closed_port()}"),))
    for name in ("_thread.start_new_thread", "threading._start_new_thread"):
        monkeypatch.setattr(name, lambda *_: 0)
    assert ring(ALARM, config, {}, timeout_s=0.2) == 0


def test_an_address_for_which_there_is_no_thread_costs_no_other(monkeypatch: pytest.MonkeyPatch, log: Lines) -> None:
    server, started = Server(TAKEN), list[object]()
    start_thread = _thread.start_new_thread

    def limited(*given: Any) -> int:
        started.append(given)
        if len(started) > 1:
            raise RuntimeError("can't start new thread")
        return start_thread(*given)

    with server.running() as url:
        config = AlarmConfig(urls=(apprise_address(url), apprise_address(url)))
        for name in ("_thread.start_new_thread", "threading._start_new_thread"):
            monkeypatch.setattr(name, limited)
        assert ring(ALARM, config, {}) == 1
        monkeypatch.undo()
    assert (len(started), len(server.bodies)) == (2, 1)
    assert "alarm 2 of 2 could not be delivered (json://): RuntimeError" in log.text


def test_an_address_that_failed_is_tried_once_more() -> None:
    answers = iter([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n"])
    server = Server(lambda channel: channel.sendall(next(answers)))
    with server.running() as url:
        assert ring(ALARM, AlarmConfig(urls=(apprise_address(url),)), {}) == 1
    assert len(server.bodies) == 2


def test_what_could_not_be_delivered_is_logged_without_its_address(log: Lines) -> None:
    dead = f"json://user:{SECRET}@127.0.0.1:{closed_port()}/{SECRET}"
    server = Server(TAKEN)
    with server.running() as url:
        urls = (dead, apprise_address(url, SECRET), "$NOT_SET", f"nosuch://{SECRET}", f"json://127.0.0.1:x{SECRET}")
        alarm = replace(ALARM, body=f"{ALARM.body}\nthe keys are {SECRET} and {dead}")
        environ = {"NUMERAI_SECRET_KEY": SECRET}
        config = AlarmConfig(urls=urls, heartbeat_url=f"{url}/{SECRET}")
        assert ring(alarm, config, environ) == 1
        assert beat(config, environ)
    assert f"alarm 1 of {len(urls)} could not be delivered (json://): it was refused or not reached" in log.text
    assert "alarm 3 of 5 could not be delivered (without a scheme): alarm.urls[2] reads the environment" in log.text
    assert "alarm 4 of 5 could not be delivered (nosuch://)" in log.text
    assert "disk full" in log.text
    assert SECRET not in log.text
    assert SECRET not in repr(config)
    assert SECRET not in json.loads(server.bodies[0])["message"]


def test_an_alarm_for_nobody_is_at_least_in_the_log(log: Lines) -> None:
    assert ring(replace(ALARM, kind="receipt"), AlarmConfig(), {}) == 0
    assert log.records[0] == ("WARNING", f"eraflow: alarm: {ALARM.title} | What happened: | - disk full")
    assert "told to nobody" in log.text


def test_the_heartbeat_is_requested_exactly_once(log: Lines) -> None:
    server = Server(TAKEN)
    with server.running() as url:
        assert beat(AlarmConfig(heartbeat_url="$PULSE"), {"PULSE": f"{url}/{SECRET}"})
    assert [head.split(" HTTP")[0] for head in server.heads] == [f"GET /{SECRET}"]
    assert log.records[-1] == ("INFO", "eraflow: the heartbeat was sent")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "redirect (302)"),
        (b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n", "answered 404"),
    ],
)
def test_a_heartbeat_that_is_not_taken_is_said_and_raises_nothing(answer: bytes, reason: str, log: Lines) -> None:
    server = Server(sending(answer))
    with server.running() as url:
        assert not beat(AlarmConfig(heartbeat_url=f"{url}/{SECRET}"), {})
    assert len(server.heads) == 1
    assert "the heartbeat could not be sent: " in log.text
    assert reason in log.text
    assert SECRET not in log.text


def test_a_heartbeat_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, log: Lines) -> None:
    monkeypatch.setattr("eraflow.alarms.HEARTBEAT_LIMIT_S", 0.3)
    with hanging() as url:
        assert not beat(AlarmConfig(heartbeat_url=url), {})
    assert "the heartbeat could not be sent: no answer within 0.3 s" in log.text


def test_without_a_heartbeat_address_nothing_is_said(log: Lines) -> None:
    assert not beat(AlarmConfig(), {})
    assert log.records == []


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (AlarmConfig(urls=("json://localhost", f"nosuch://{SECRET}")), r"alarm\.urls\[1\] must .* \(nosuch://\)"),
        (AlarmConfig(urls=(SECRET,)), r"alarm\.urls\[0\] must .* \(without a scheme\)"),
        (AlarmConfig(urls=(f"tgram://{SECRET}",)), r"alarm\.urls\[0\] must .* \(tgram://\)"),
        (AlarmConfig(urls=("",)), r"alarm\.urls\[0\] must"),
        (AlarmConfig(urls=("$NOT_SET",)), r"alarm\.urls\[0\] reads the environment variable NOT_SET"),
        (AlarmConfig(heartbeat_url=f"http://example.org/{SECRET}"), r"alarm\.heartbeat_url must be an https address"),
        (AlarmConfig(heartbeat_url=f"ftp://{SECRET}"), r"alarm\.heartbeat_url must be an https address"),
        (AlarmConfig(heartbeat_url="$NOT_SET"), r"alarm\.heartbeat_url reads the environment variable NOT_SET"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_by_its_path(config: AlarmConfig, text: str, log: Lines) -> None:
    with pytest.raises(InputError, match=text) as caught:
        check(config, {})
    assert SECRET not in str(caught.value)
    assert SECRET not in log.text


def test_usable_addresses_pass_the_check() -> None:
    mail = "mailtos://user:password@example.org"
    check(AlarmConfig(urls=("json://localhost:1/x", "$MAIL"), heartbeat_url="https://example.org/x"), {"MAIL": mail})
    check(AlarmConfig(), {})
