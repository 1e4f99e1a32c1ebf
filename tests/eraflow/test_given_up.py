"""What is given up is over: nothing of it is sent later, and no answer keeps a read from ending."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from eraflow import transport
from eraflow.errors import TransientError
from eraflow.later import Later
from eraflow.rehearsal.server import LocalTournament
from eraflow.transport import NotSentError, get, post_json, put
from tests.eraflow.raw_server import OK, Server, cutting, for_ever, sending
from tests.eraflow.sender import Sender, Waiting
from tests.eraflow.talking import asked

TAKEN = sending(OK + b"Content-Length: 0\r\n\r\n")
GZIP, NOTHING = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", b"\x00\x00\x00\xff\xff"


class Kept(Later[Any]):
    """Those that were begun, so that a test can wait for the end of what was given up."""

    begun: ClassVar[list[Later[Any]]] = []

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.begun.append(self)


class NameServer:
    """A name server that does not answer, until it is told to."""

    def __init__(self) -> None:
        self._answers, self.asked = threading.Event(), 0
        self._real = socket.getaddrinfo

    def __call__(self, *given: object, **named: object) -> object:
        self.asked += 1
        assert self._answers.wait(30)
        return self._real(*given, **named)  # type: ignore[arg-type]

    def answer(self) -> None:
        """It answers; returns when what it was asked for has been done or given up."""
        self._answers.set()
        assert all(later._over.wait(10) for later in Kept.begun)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    found = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setattr(transport, "REACH_LIMIT_S", 0.2)
    monkeypatch.setattr(transport, "Later", Kept)
    monkeypatch.setattr(Kept, "begun", [])
    yield found
    found.answer()


@pytest.mark.parametrize("send", [lambda url: post_json(url, {}, {}), lambda url: put(url, b"1", "it")])
def test_what_was_given_up_before_it_left_never_leaves(names: NameServer, send: Callable[[str], object]) -> None:
    server = Server(TAKEN, read_body=True)
    with server.running() as url:
        with pytest.raises(NotSentError, match="cannot be reached"):
            send(url)
        assert names.asked
        names.answer()
    assert server.bodies == []


def test_what_has_not_left_in_the_time_that_it_has_never_leaves(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "REACH_LIMIT_S", 60.0)
    server = Server(TAKEN, read_body=True)
    with server.running() as url:
        with pytest.raises(NotSentError, match="cannot be reached"):
            post_json(url, {}, {}, 0.2)
        names.answer()
    assert server.bodies == []


def test_the_first_block_of_a_request_does_not_leave_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though whoever waits for it has not noticed yet."""
    monkeypatch.setattr(transport._Outgoing, "patience_s", 10.0)
    server = Server(TAKEN, read_body=True)
    with server.running() as url, pytest.raises(NotSentError, match="cannot be reached"):
        post_json(url, {}, {}, 0.0)
    assert server.bodies == []


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, TimeoutError])
def test_what_nobody_waits_for_any_more_never_leaves(
    end: type[BaseException], names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a signal or a task's time-out ends the wait."""

    def ended(*_: object) -> None:
        raise end

    monkeypatch.setattr(Kept, "result", ended)
    server = Server(TAKEN, read_body=True)
    with server.running() as url:
        with pytest.raises(end):
            post_json(url, {}, {})
        names.answer()
    assert server.bodies == []


def test_a_submission_that_was_given_up_is_not_made_later(
    one: Sender, local: LocalTournament, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first create query is looked for in vain, so another one is sent."""
    monkeypatch.setattr("eraflow.submission.time", Waiting())
    order, ask = one.order, one.door._queries.send
    hangs = [True]

    def send(query: str, *given: object, **named: object) -> object:
        if "create_submission" in query and hangs.pop(0) if hangs else False:
            monkeypatch.setattr(socket, "getaddrinfo", names)
        else:
            monkeypatch.setattr(socket, "getaddrinfo", names._real)
        return ask(query, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", names._real)
    monkeypatch.setattr(one.door._queries, "send", send)
    assert one.send(order()).verified == "bytes"
    names.answer()
    assert asked(local, "createSubmission") == 1
    assert len(local.submissions()) == 1


def test_an_upload_that_keeps_going_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is one of the answer's head, not of the upload."""
    monkeypatch.setattr(transport, "HEAD_LIMIT_S", 1.0)
    read, began_s = transport._Outgoing.read, time.monotonic()

    def slowly(outgoing: transport._Outgoing, size: int | None = -1) -> bytes:
        time.sleep(0.06)
        return read(outgoing, size)

    monkeypatch.setattr(transport._Outgoing, "read", slowly)
    with Server(TAKEN).running() as url:
        assert put(url, b"x" * 400_000, "the upload address") == 200
    assert time.monotonic() - began_s > transport.HEAD_LIMIT_S, "else it was never slow"


def test_an_upload_that_stands_still_is_given_up_and_goes_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HEAD_LIMIT_S", 0.2)
    over, arrived = threading.Event(), bytearray()

    def stands(channel: socket.socket) -> None:
        assert over.wait(10)
        while part := channel.recv(1 << 16):
            arrived.extend(part)

    with Server(stands, read_body=False).running() as url:
        with pytest.raises(TransientError, match=r"did not answer within 0\.2 s") as caught:
            put(url, b"x" * (1 << 26), "the upload address")
        over.set()
    assert not isinstance(caught.value, NotSentError)
    assert len(arrived) < 1 << 26


def test_an_upload_that_is_answered_by_nothing_at_all_has_arrived_whatever_it_is_called() -> None:
    """As a storage does that gives its empty answer the type of a page."""
    with Server(sending(OK + b"Content-Type: text/html; charset=UTF-8\r\nContent-Length: 0\r\n\r\n")).running() as url:
        assert put(url, b"1", "the upload address") == 200


ENDLESS = {
    "compressed nothings": for_ever(OK + b"Content-Encoding: gzip\r\n\r\n" + GZIP, NOTHING * 10, pause_s=0.001),
    "trailers": for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n", pause_s=0.001),
    "the length of a chunk": for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0", pause_s=0.001),
}


@pytest.mark.parametrize("how", ENDLESS)
def test_an_answer_that_never_comes_to_anything_is_given_up(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_LIMIT_S", 0.3)
    with Server(ENDLESS[how]).running() as url, pytest.raises(TransientError, match=r"given up|broke off"):
        post_json(url, {}, {})


@pytest.mark.parametrize("how", ENDLESS)
def test_a_file_that_never_comes_to_anything_is_given_up(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STALLED_AFTER_S", 0.2)
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.2)
    with (
        Server(ENDLESS[how]).running() as url,
        pytest.raises(TransientError, match=r"given up|broke off"),
        get(url, "the file") as body,
    ):
        list(body.chunks())


def test_what_must_be_short_is_given_up_at_its_limit_though_it_keeps_coming() -> None:
    with (
        Server(for_ever(OK + b"\r\n", b"x" * 1000, pause_s=0.001)).running() as url,
        pytest.raises(TransientError, match="the submission is endless; it was given up"),
        get(url, "the submission", limit_s=0.2) as body,
    ):
        list(body.chunks())


def test_a_file_that_comes_fast_enough_is_waited_for_through_many_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STALLED_AFTER_S", 0.05)
    parts = [b"x" * 1000] * 20
    with (
        Server(sending(OK + b"Content-Length: 20000\r\n\r\n", *parts, pause_s=0.02)).running() as url,
        get(url, "the file") as body,
    ):
        assert b"".join(body.chunks()) == b"".join(parts)


def test_what_comes_after_a_cut_is_not_taken_for_the_file_however_fast_it_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under TLS it is no more what was sent: records that nobody decrypts. The cut comes while the disk hangs."""
    monkeypatch.setattr(transport, "STALLED_AFTER_S", 0.05)
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.1)
    cut, end = threading.Event(), transport._end

    def ended(raw: Any) -> None:
        end(raw)
        cut.set()

    monkeypatch.setattr(transport, "_end", ended)
    with (
        Server(sending(OK + b"\r\n", b"x" * 5_000_000)).running() as url,
        get(url, "the file") as body,
        pytest.raises(TransientError, match="it was given up"),
    ):
        [cut.wait(10) for _ in body.chunks()]


def test_a_cut_in_the_midst_is_told_as_one() -> None:
    with (
        Server(cutting).running() as url,
        pytest.raises(TransientError, match="the connection to the file broke"),
        get(url, "the file") as body,
    ):
        list(body.chunks())
