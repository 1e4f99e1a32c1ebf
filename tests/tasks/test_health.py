"""Whether a Prefect server answers: asked within a time limit, whatever listens there."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tasks.health import answers


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def healthy() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_healthy_server_answers_with_and_without_a_slash(healthy: int) -> None:
    assert answers(f"http://127.0.0.1:{healthy}/api")
    assert answers(f"http://127.0.0.1:{healthy}/api/")


def test_another_server_at_that_address_does_not_count(healthy: int) -> None:
    assert not answers(f"http://127.0.0.1:{healthy}/other")


def test_nobody_there_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert not answers(f"http://127.0.0.1:{port}/api")


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/api", timeout_s=0.2)
    assert time.monotonic() - started < 30


def test_a_server_that_speaks_no_http_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as odd:

        def answer() -> None:
            connection, _ = odd.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-whatever\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not answers(f"http://127.0.0.1:{odd.getsockname()[1]}/api")
        thread.join()


@pytest.mark.parametrize("address", ["", "file:///etc", "ftp://127.0.0.1/api", "http://", "http://[::1", "http://a b/"])
def test_what_is_no_address_is_no_answer(address: str) -> None:
    assert not answers(address)
