"""How bytes travel when servers stall, cut, lie, redirect and never end: nothing is taken for what it is not."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from eraflow import transport
from eraflow.errors import EraflowError, RefusedError, TransientError
from eraflow.transport import NotSentError
from tests.eraflow.certificate import write_certificate
from tests.eraflow.raw_server import (
    JSON,
    OK,
    SECRET,
    Server,
    ask,
    closed_port,
    cutting,
    failure,
    fetch,
    for_ever,
    never,
    sending,
    upload,
)

SHIPPED_READ_TIMEOUT_S = transport.READ_TIMEOUT_S  # the tests below are less patient


def give_up_after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", seconds)
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", seconds)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for any answer of this machine, a handshake of TLS included, however busy it is."""
    give_up_after(5.0, monkeypatch)


@pytest.fixture
def _impatient(_patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is waited for in vain."""
    give_up_after(0.4, monkeypatch)


IMPATIENT = pytest.mark.usefixtures("_impatient")


# Faults


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
@pytest.mark.parametrize("send", [ask, fetch, upload])
def test_no_redirect_is_followed(status: int, send: Callable[[str], object]) -> None:
    elsewhere = Server(sending(JSON))
    with elsewhere.running() as target:
        head = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        with Server(sending(head)).running() as url, pytest.raises(RefusedError) as caught:
            send(url)
    assert f"answered with a redirect ({status}), which is not followed" in caught.value.message
    assert elsewhere.heads == []


def test_the_body_of_a_redirect_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n"
    with Server(for_ever(head, b"x" * 65536)).running() as url, pytest.raises(RefusedError, match="redirect"):
        ask(url)


def test_a_connection_that_is_refused_means_that_nothing_was_sent() -> None:
    with pytest.raises(NotSentError, match="the tournament's API cannot be reached; check the network"):
        ask(f"http://127.0.0.1:{closed_port()}")


def test_a_name_that_is_not_found_means_that_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(NotSentError, match="cannot be reached"):
        ask("https://api-tournament.example")


@IMPATIENT
def test_a_connection_that_is_not_taken_in_time_means_that_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, contextlib.ExitStack() as waiting:
        for _ in range(4):  # fill the queue that nobody empties
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        with pytest.raises(NotSentError, match="cannot be reached"):
            ask(f"http://127.0.0.1:{listening.getsockname()[1]}")


def assert_it_may_have_arrived(caught: pytest.ExceptionInfo[EraflowError]) -> None:
    assert type(caught.value) is TransientError, "and not NotSentError: the request may have taken effect"


@IMPATIENT
def test_a_server_that_never_answers_is_given_up() -> None:
    with Server(never).running() as url, pytest.raises(TransientError, match="did not answer within") as caught:
        ask(url)
    assert_it_may_have_arrived(caught)


@pytest.mark.parametrize("answer", [cutting, sending(), sending(b"HTTP/1.")], ids=["reset", "closed", "cut"])
def test_a_lost_answer_is_not_mistaken_for_a_request_that_never_left(answer: Callable[[socket.socket], None]) -> None:
    server = Server(answer)
    with server.running() as url, pytest.raises(TransientError, match=r"the connection to .* broke") as caught:
        ask(url)
    assert_it_may_have_arrived(caught)
    assert len(server.heads) == 1, "it was sent once"


@pytest.mark.parametrize(
    "answer",
    [
        sending(OK + b"Content-Length: 100\r\n\r\nonly this"),
        sending(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nonly \r\n"),
        sending(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nonly \r\n"),
        sending(OK + b"Content-Encoding: gzip\r\n\r\nthis is not gzip"),
    ],
    ids=["length", "chunked", "bad-chunk", "bad-gzip"],
)
@pytest.mark.parametrize("send", [ask, fetch])
def test_a_body_that_breaks_off_is_never_taken_as_whole(
    answer: Callable[[socket.socket], None], send: Callable[[str], object]
) -> None:
    with Server(answer).running() as url, pytest.raises(TransientError, match=r"broke off \(\w+\)") as caught:
        send(url)
    assert_it_may_have_arrived(caught)


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: many\r\n", b"Content-Length: \xb2\r\n"],
)
def test_a_length_that_makes_no_sense_is_a_passing_fault_or_no_length(head: bytes) -> None:
    with Server(sending(OK + head + b"\r\nhello")).running() as url:
        error = failure(fetch, url)
    assert error is None or type(error) is TransientError


@IMPATIENT
def test_a_download_that_stops_in_the_middle_is_given_up() -> None:
    def answer(channel: socket.socket) -> None:
        channel.sendall(OK + b"Content-Length: 100\r\n\r\nsome")
        never(channel)

    with Server(answer).running() as url, pytest.raises(TransientError, match=r"the file broke off \(ReadTimeout"):
        fetch(url)


def test_a_download_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STALLED_AFTER_S", 0.3)
    with (
        Server(for_ever(OK + b"\r\n", b"x", 0.02)).running() as url,
        pytest.raises(TransientError, match="the file arrives at under 1024 bytes/s; it was given up"),
    ):
        fetch(url)


def test_a_download_that_is_slow_but_steady_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STALLED_AFTER_S", 0.1)
    parts = [b"x" * 1024] * 10
    with Server(sending(OK + b"Content-Length: 10240\r\n\r\n", *parts, pause_s=0.03)).running() as url:
        assert len(fetch(url)) == 10240


def test_an_answer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_LIMIT_S", 0.3)
    with (
        Server(for_ever(OK + b"\r\n", b" ", 0.02)).running() as url,
        pytest.raises(TransientError, match="the answer of the tournament's API is endless; it was given up"),
    ):
        ask(url)


def test_an_unanswered_query_is_given_up_within_a_minute() -> None:
    """The slowest answer: its last byte in time comes at the limit, and the read after it waits in full."""
    assert transport.ANSWER_LIMIT_S + SHIPPED_READ_TIMEOUT_S <= 60.0


def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_LIMIT_BYTES", 1 << 20)
    with Server(for_ever(OK + b"\r\n", b" " * 65536)).running() as url, pytest.raises(TransientError, match="endless"):
        ask(url)


def test_a_small_answer_that_unpacks_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_LIMIT_BYTES", 4 << 20)
    packed = gzip.compress(bytes(64 << 20), 1)
    head = OK + f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    with Server(sending(head, packed)).running() as url, pytest.raises(TransientError, match="endless"):
        ask(url)


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 signed by itself, with its key, as one PEM file."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "both.pem")


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("send", [ask, fetch, upload])
def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    tls: ssl.SSLContext, send: Callable[[str], object]
) -> None:
    server = Server(sending(JSON), tls=tls)
    with server.running() as url, pytest.raises(NotSentError, match="the TLS certificate was not accepted; check"):
        send(url)
    assert server.heads == []


def test_a_certificate_of_another_name_is_refused(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    server = Server(sending(JSON), tls=tls)
    with server.running() as url, pytest.raises(NotSentError, match="the TLS certificate was not accepted"):
        ask(url.replace("127.0.0.1", "localhost"))
    assert server.heads == []


def test_a_certificate_that_this_machine_trusts_is_accepted(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with Server(sending(JSON), tls=tls).running() as url:
        assert ask(url) == {"data": {}}


def garbled(channel: socket.socket) -> None:
    """Bytes past the encryption, as a broken proxy sends them."""
    os.write(channel.fileno(), b"502 Bad Gateway" * 9)


@pytest.mark.parametrize("answer", [sending(), garbled])
def test_an_encrypted_connection_that_breaks_after_the_request_may_have_taken_effect(
    answer: Callable[[socket.socket], None],
    tls: ssl.SSLContext,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It surfaces as an SSL error like a refused certificate does, and re-sending could submit twice."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    server = Server(answer, tls=tls)
    with server.running() as url, pytest.raises(TransientError) as caught:
        ask(url)
    assert len(server.heads) == 1
    assert_it_may_have_arrived(caught)


@IMPATIENT
def test_a_server_without_tls_on_an_https_address_is_a_passing_fault() -> None:
    with Server(sending(JSON)).running() as url, pytest.raises(TransientError, match="try again later"):
        ask(url.replace("http:", "https:"))


FAULTS: dict[str, Callable[[socket.socket], None]] = {
    "never": never,
    "reset": cutting,
    "closed": sending(),
    "not-http": sending(b"SSH-2.0-x\r\n\r\n"),
    "truncated": sending(OK + b"Content-Length: 100\r\n\r\nx"),
    "bad-gzip": sending(OK + b"Content-Encoding: gzip\r\n\r\nx"),
    "two-lengths": sending(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    "redirect": sending(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/?key=" + SECRET.encode() + b"\r\n\r\n"),
    "bad-redirect": sending(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n"),
}


@pytest.mark.parametrize("fault", [*FAULTS, "refused", "not-tls"])
@pytest.mark.parametrize("send", [ask, fetch, upload])
def test_no_error_carries_an_address_a_header_or_a_foreign_exception(
    fault: str, send: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault in ("never", "not-tls"):
        give_up_after(0.4, monkeypatch)
    with Server(FAULTS.get(fault, sending(JSON))).running() as url:
        if fault == "refused":
            url = f"http://127.0.0.1:{closed_port()}"
        elif fault == "not-tls":
            url = url.replace("http:", "https:")
        error = failure(send, f"{url}/file?Signature={SECRET}")
    if error is None:
        assert fault in ("truncated", "bad-gzip"), "only the status of an upload's answer is read"
        return
    told = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    assert not any(SECRET in text or "127.0.0.1" in text for text in told)
    assert (error.__cause__, error.__context__) == (None, None)
