"""A server on this machine whose connections a test may treat as it likes, and the three ways to ask it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from eraflow.errors import EraflowError
from eraflow.transport import get, post_json, put

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
            part = channel.recv(65536)
            if not part:
                return False
            body += part
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


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def fetch(url: str) -> bytes:
    with get(url, "the file") as body:
        return b"".join(body.chunks())


def ask(url: str) -> object:
    return post_json(url, {"query": "{}"}, {"Authorization": f"Token {SECRET}"}).body


def upload(url: str) -> int:
    return put(url, b"x", "the upload")


def failure(send: Callable[[str], object], url: str) -> EraflowError | None:
    try:
        send(url)
    except EraflowError as error:
        return error
    return None
