"""How bytes travel when all goes well, and which addresses, statuses and texts are let through."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eraflow import transport
from eraflow.errors import EraflowError, InputError, RefusedError, TransientError
from eraflow.transport import checked_address, get, post_json, put, refusal
from eraflow.untold import without_secrets
from tests.eraflow.raw_server import JSON, OK, SECRET, Server, ask, closed_port, fetch, sending


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.4)
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 0.4)


# Answers


def test_a_query_is_sent_as_json_with_the_headers_given() -> None:
    server = Server(sending(JSON))
    with server.running() as url:
        assert ask(url) == {"data": {}}
    assert server.heads[0].startswith("POST / HTTP/1.1")
    assert server.headers()["authorization"] == f"Token {SECRET}"
    assert server.headers()["content-type"] == "application/json"
    assert server.bodies == [b'{"query": "{}"}']


def test_status_and_what_the_server_asks_for_are_handed_on() -> None:
    head = b"HTTP/1.1 429 Slow Down\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n[]"
    with Server(sending(head)).running() as url:
        answer = post_json(url, {}, {})
    assert (answer.status, answer.body, answer.retry_after) == (429, [], "7")


@pytest.mark.parametrize(
    ("date", "heard"),
    [
        ("Sat, 22 Aug 2026 12:04:08 GMT", "2026-08-22T12:04:08+00:00"),
        ("Sat, 22 Aug 2026 12:04:08 -0000", "2026-08-22T12:04:08+00:00"),
        ("Sat, 22 Aug 2026 21:04:08 +0900", "2026-08-22T21:04:08+09:00"),
        ("yesterday", None), ("", None), ("Sat, 99 Aug 2026 12:04:08 GMT", None),
        ("Sat, 22 Aug 2026 12:04:08 +99999999999999999999", None),
    ],
)  # fmt: skip
def test_the_servers_time_is_heard_where_it_can_be_understood(date: str, heard: str | None) -> None:
    head = OK + f"Date: {date}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    with Server(sending(head)).running() as url:
        moment = post_json(url, {}, {}).date_utc
    # The seconds that its body took to come are added.
    assert (moment.replace(microsecond=0).isoformat() if moment else None) == heard


def test_the_time_that_a_body_takes_to_come_is_no_difference_between_the_clocks() -> None:
    head = OK + b"Date: Sat, 22 Aug 2026 12:04:08 GMT\r\nContent-Length: 8\r\n\r\n"
    with Server(sending(head, *[b" "] * 6, b"{}", pause_s=0.05)).running() as url:
        moment = post_json(url, {}, {}).date_utc
    assert moment is not None
    assert (moment - datetime(2026, 8, 22, 12, 4, 8, tzinfo=UTC)).total_seconds() > 0.2


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"", b'{"data": {', b"\xff\xfe", b"[" * 100_000])
def test_an_answer_that_is_not_json_is_no_exception_but_no_body(body: bytes) -> None:
    with Server(sending(OK + b"\r\n" + body)).running() as url:
        answer = post_json(url, {}, {})
    assert (answer.status, answer.body) == (200, None)


def test_a_file_comes_with_what_was_told_about_it() -> None:
    head = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\nETag: \"e1\"\r\nLast-Modified: Sat\r\n"
        b"Content-Range: bytes 0-0/4000\r\nContent-Type: x/parquet\r\n\r\nP"
    )  # fmt: skip
    server = Server(sending(head))
    with server.running() as url, get(f"{url}/live", "the file", {"Range": "bytes=0-0"}) as body:
        assert (body.status, body.length_bytes, body.etag, body.last_modified, body.content_range) == (
            206, 1, '"e1"', "Sat", "bytes 0-0/4000"
        )  # fmt: skip
        assert body.content_type == "x/parquet"
        assert list(body.chunks()) == [b"P"]
    assert server.headers()["range"] == "bytes=0-0"
    assert server.headers()["accept-encoding"] == "identity"


def test_a_file_without_a_length_is_read_to_its_end() -> None:
    with Server(sending(OK + b"\r\n" + b"x" * 100_000)).running() as url, get(url, "the file") as body:
        assert body.length_bytes is None
        assert b"".join(body.chunks()) == b"x" * 100_000


def test_chunks_arrive_while_the_rest_is_still_to_come() -> None:
    go = threading.Event()

    def answer(channel: socket.socket) -> None:
        channel.sendall(OK + b"Content-Length: 6\r\n\r\none")
        go.wait(5)
        channel.sendall(b"two")

    with Server(answer).running() as url, get(url, "the file") as body:
        chunks = body.chunks()
        assert next(chunks) == b"one"
        go.set()
        assert b"".join(chunks) == b"two"


def test_an_upload_sends_the_bytes_and_no_header_that_the_address_did_not_sign() -> None:
    server = Server(sending(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"))
    with server.running() as url:
        assert put(f"{url}/upload?Signature={SECRET}", b"id,prediction\n", "the upload") == 201
    assert server.heads[0].startswith(f"PUT /upload?Signature={SECRET} ")
    assert server.bodies == [b"id,prediction\n"]
    assert set(server.headers()) <= {
        "host", "user-agent", "accept", "accept-encoding", "connection", "content-length"
    }  # fmt: skip


def test_an_address_is_used_to_its_last_character() -> None:
    server = Server(sending(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    with server.running() as url:
        put(checked_address(f"{url}/upload?Signature=abc/", "an address"), b"x", "the upload")
    assert server.heads[0].startswith("PUT /upload?Signature=abc/ ")


def test_a_slow_but_steady_upload_is_given_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 5.0)
    data = b"x" * (24 << 20)  # far more than the buffers on the way hold

    def answer(channel: socket.socket) -> None:
        received = len(server.bodies[0])
        while received < len(data):
            received += len(channel.recv(1 << 20))
            time.sleep(0.03)
        channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server = Server(answer, read_body=False)
    with server.running() as url:
        started = time.monotonic()
        assert put(url, data, "the upload") == 200
    assert time.monotonic() - started > transport.CONNECT_TIMEOUT_S, "slower in all than one time-out"


def test_no_password_of_a_netrc_file_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = Server(sending(JSON))
    with server.running() as url:
        fetch(url)
        assert "authorization" not in server.headers()
        put(url, b"x", "the upload")
        assert "authorization" not in server.headers()
        ask(url)
        assert server.headers()["authorization"] == f"Token {SECRET}"


def test_no_name_or_password_of_an_address_is_sent() -> None:
    server = Server(sending(JSON))
    with server.running() as url:
        fetch(url.replace("http://", "http://somebody:hunter2@"))
    assert "authorization" not in server.headers()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(sending(JSON)).running() as url:
        assert ask(url) == {"data": {}}
        assert ask(url.replace("127.0.0.1", "localhost")) == {"data": {}}


# Addresses, statuses, foreign texts


@pytest.mark.parametrize(
    "url",
    ["https://api-tournament.numer.ai", "https://host:8443/x?a=b/", "http://127.0.0.1:8008", "http://localhost/",
     "http://[::1]:80", "HTTPS://host"],
)  # fmt: skip
def test_https_and_this_machine_may_be_asked(url: str) -> None:
    assert checked_address(url, "the address") == url


@pytest.mark.parametrize(
    "url",
    ["http://api-tournament.numer.ai", "http://127.0.0.2", "http://localhost.evil.example", "ftp://127.0.0.1",
     "file:///etc/passwd", "https://", "https:///path", 
     "https://somebody:secret@numer.ai", "https://[::1", "http://[", "127.0.0.1:8008", "", "//host"],
)  # fmt: skip
def test_any_other_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_address(url, "ERAFLOW_API_URL")
    assert caught.value.message == (
        "ERAFLOW_API_URL must be an https address (http only for 127.0.0.1) without a user name, however it is not"
    )


@given(st.text() | st.text().map("http://".__add__) | st.text("[]:/@.1ahtps").map("https://".__add__))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert checked_address(text, "the address") == text


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, RefusedError), (408, TransientError), (425, TransientError), (429, TransientError),
     (500, TransientError), (503, TransientError), (599, TransientError), (400, RefusedError), (403, RefusedError),
     (404, RefusedError), (410, RefusedError), (206, RefusedError)],
)  # fmt: skip
def test_a_status_tells_whether_asking_again_helps(status: int, kind: type[EraflowError]) -> None:
    error = refusal(status, "the file")
    assert type(error) is kind
    assert str(error).startswith(f"the file answered {status}")


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [("7", 7.0), ("0", 0.0), (None, None), ("", None), ("Sat, 22 Aug 2026 12:04:08 GMT", None), ("-1", None),
     ("²", None), ("1.5", None)],
)  # fmt: skip
def test_only_a_whole_number_of_seconds_is_a_wait(text: str | None, wait_s: float | None) -> None:
    error = refusal(503, "the file", text)
    assert isinstance(error, TransientError)
    assert error.retry_after_s == wait_s


def test_a_foreign_text_becomes_one_short_line_without_keys_and_addresses() -> None:
    text = f"bad\nkey {SECRET}\x1b[31m at https://user:pw@host/x?Signature=abc, sorry " + "x" * 999
    found = without_secrets(text, (SECRET, ""))
    assert found.startswith("bad key *** [31m at (address) sorry xxx")
    assert len(found) == 300


@given(st.text(), st.text(min_size=6))
def test_no_key_survives_in_a_foreign_text(text: str, secret: str) -> None:
    found = without_secrets(f"{text}{secret}{text}", (secret,))
    assert secret not in found or secret in "***"
    assert found.isprintable()
    assert len(found) <= 300
