"""How bytes travel, against servers on this machine that answer, stall, cut, lie and never end."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import ipaddress
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from eraflow import transport
from eraflow.errors import CredentialsError, EraflowError, InputError, RefusedError, TransientError
from eraflow.transport import NotSentError, checked_address, get, post_json, put, refusal, without_secrets

SHIPPED_READ_TIMEOUT_S = transport.READ_TIMEOUT_S  # the tests below are less patient
SECRET = "s3cr3t-of-the-account"
OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"Content-Length: 12\r\n\r\n" + b'{"data": {}}'


@dataclass
class Server:
    """A server on loopback that reads each request and lets `answer` do with its connection what it likes."""

    answer: Callable[[socket.socket], None]
    tls: ssl.SSLContext | None = None
    read_body: bool = True
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            thread = threading.Thread(target=self._serve, args=(listening,), daemon=True)
            thread.start()
            yield f"{'https' if self.tls else 'http'}://127.0.0.1:{port}"
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes accept
            thread.join(10)
            assert not thread.is_alive()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            # A client that gives up cuts the connection: that is what most of these tests are about.
            with contextlib.suppress(OSError), connection, self._wrapped(connection) as channel:
                channel.settimeout(5)
                if self._read(channel):
                    self.answer(channel)

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        return self.tls.wrap_socket(connection, server_side=True) if self.tls else connection

    def _read(self, channel: socket.socket) -> bool:
        received = b""
        while b"\r\n\r\n" not in received:
            part = channel.recv(65536)
            if not part:
                return False
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        self.heads.append(head.decode("latin-1"))
        while self.read_body and len(body) < int(self.headers().get("content-length", 0)):
            body += channel.recv(65536)
        self.bodies.append(body)
        return True

    def headers(self) -> dict[str, str]:
        """Those of the newest request, their names in lower case."""
        lines = self.heads[-1].split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def sending(*parts: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    """Send the parts and end the connection."""

    def answer(channel: socket.socket) -> None:
        for part in parts:
            channel.sendall(part)
            time.sleep(pause_s)

    return answer


def never(channel: socket.socket) -> None:
    """Wait until the client gives up."""
    channel.recv(1)


def cutting(channel: socket.socket) -> None:
    """Reset the connection instead of answering."""
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def for_ever(first: bytes, part: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    def answer(channel: socket.socket) -> None:
        channel.sendall(first)
        while True:
            channel.sendall(part)
            time.sleep(pause_s)

    return answer


def fetch(url: str) -> bytes:
    with get(url, "the file") as body:
        return b"".join(body.chunks())


def ask(url: str) -> object:
    return post_json(url, {"query": "{}"}, {"Authorization": f"Token {SECRET}"}).body


def failure(send: Callable[[str], object], url: str) -> EraflowError | None:
    try:
        send(url)
    except EraflowError as error:
        return error
    return None


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
    assert (moment.isoformat() if moment else None) == heard


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
    data = b"x" * (4 << 20)

    def answer(channel: socket.socket) -> None:
        received = len(server.bodies[0])
        while received < len(data):
            received += len(channel.recv(256 << 10))
            time.sleep(0.06)
        channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server = Server(answer, read_body=False)
    with server.running() as url:
        started = time.monotonic()
        assert put(url, data, "the upload") == 200
    assert time.monotonic() - started > 2 * transport.CONNECT_TIMEOUT_S, "slower than one time-out in all"


# Faults


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
@pytest.mark.parametrize("send", [ask, fetch, lambda url: put(url, b"x", "the upload")], ids=["POST", "GET", "PUT"])
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


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def test_a_connection_that_is_refused_means_that_nothing_was_sent() -> None:
    with pytest.raises(NotSentError, match="the tournament's API cannot be reached; check the network"):
        ask(f"http://127.0.0.1:{closed_port()}")


def test_a_name_that_is_not_found_means_that_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(NotSentError, match="cannot be reached"):
        ask("https://api-tournament.example")


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
@pytest.mark.parametrize("send", [ask, fetch], ids=["POST", "GET"])
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
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eraflow tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("send", [ask, fetch, lambda url: put(url, b"x", "the upload")], ids=["POST", "GET", "PUT"])
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


def test_an_encrypted_connection_that_is_cut_after_the_request_may_have_taken_effect(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It surfaces as an SSL error like a refused certificate does, and re-sending could submit twice."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    server = Server(sending(), tls=tls)
    with server.running() as url, pytest.raises(TransientError) as caught:
        ask(url)
    assert len(server.heads) == 1
    assert_it_may_have_arrived(caught)


def test_a_server_without_tls_on_an_https_address_is_a_passing_fault() -> None:
    with Server(sending(JSON)).running() as url, pytest.raises(TransientError, match="try again later"):
        ask(url.replace("http:", "https:"))


# Secrets and the environment


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
@pytest.mark.parametrize("send", [ask, fetch, lambda url: put(url, b"x", "the upload")], ids=["POST", "GET", "PUT"])
def test_no_error_carries_an_address_a_header_or_a_foreign_exception(fault: str, send: Callable[[str], object]) -> None:
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
     "file:///etc/passwd", "https://", "https:///path", "https://[::1", "http://[", "127.0.0.1:8008", "", "//host"],
)  # fmt: skip
def test_any_other_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_address(url, "ERAFLOW_API_URL")
    assert caught.value.message == (
        "ERAFLOW_API_URL must be an https address (http only for 127.0.0.1), however its scheme or host is not"
    )


@given(st.text() | st.text().map("http://".__add__) | st.text("[]:/@.1ahtps").map("https://".__add__))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert checked_address(text, "the address") == text


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, CredentialsError), (408, TransientError), (425, TransientError), (429, TransientError),
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
