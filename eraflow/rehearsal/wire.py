"""HTTP for the local tournament: reads a request, lets a fault strike, answers.

What a request asks for is decided in `core` and `answers`; here are paths, signatures, ranges, and connections that
break on purpose. Every answer closes its connection and carries the tournament's time in `Date`.
"""

from __future__ import annotations

import email.utils
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from eraflow.errors import EraflowError
from eraflow.rehearsal.answers import Desk, read_operation
from eraflow.rehearsal.core import Core
from eraflow.rehearsal.faults import Fault, Faults, Target
from eraflow.rehearsal.graphql import GraphQLError, canonical
from eraflow.rehearsal.publishing import etag_of

LARGEST_REQUEST_BYTES = 64 << 20
CHUNK_BYTES = 1 << 16
PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser.</body></html>"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer before it is sent: its bytes, or a part of a file."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Path | None = None
    start: int = 0
    length: int | None = None
    """Of the file's part; that of `body` otherwise."""

    @property
    def size(self) -> int:
        return len(self.body) if self.length is None else self.length

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a bounded block at a time."""
        if self.file is None:
            yield from (self.body[at : at + CHUNK_BYTES] for at in range(0, len(self.body), CHUNK_BYTES))
            return
        left = self.size
        with self.file.open("rb") as file:
            file.seek(self.start)
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk


class TournamentServer(ThreadingHTTPServer):
    """The listening socket and what its handlers share."""

    daemon_threads = True
    block_on_close = False
    # A client that gives up must not leave its port blocked for the next start.
    allow_reuse_address = True

    def __init__(self, port: int, core: Core, faults: Faults, control: Callable[[str, dict[str, Any]], Any]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.core, self.faults, self.control = core, faults, control
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.desk = Desk(core, self.url)
        self.stopping = threading.Event()
        self.requests: list[tuple[str, str, str]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Clients that hang up are part of the play; anything else is told to the log."""
        import logging

        logging.getLogger("eraflow").debug("local tournament: a request broke off", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "LocalTournament", ""
    timeout = 60
    server: TournamentServer

    def do_POST(self) -> None:
        """`POST /` is GraphQL, `POST /control` moves the tournament itself."""
        body = _json(self._read_body())
        if urlsplit(self.path).path == "/control":
            self._send(self._control(body))
            return
        try:
            operation, variables = read_operation(body)
            names = tuple(canonical(one.name) for one in operation.fields)
        except GraphQLError as error:
            self._log("POST", "/", "")
            self._send(_json_reply({"errors": [error.entry()]}))
            return
        self._log("POST", "/", ",".join(names))
        authorization = self.headers.get("Authorization")
        self._answer(
            Target("query", names), lambda: _json_reply(self.server.desk.answer(operation, variables, authorization))
        )

    def do_GET(self) -> None:
        """Data files and submissions, at signed addresses."""
        path = unquote(urlsplit(self.path).path)
        self._log("GET", path, "")
        _, kind, owner, name = (*path.split("/", 3), "", "", "")[:4]
        if kind == "files" and owner.isdigit() and name:
            self._answer(Target("get", (name,)), lambda: self._refused() or self._file(int(owner), name))
        elif kind == "submissions" and name:
            self._answer(Target("get", ("submission",)), lambda: self._refused() or self._submission(owner))
        else:
            self._send(_storage_error(404, "NoSuchKey"))

    def do_PUT(self) -> None:
        """An upload to a signed address."""
        path = unquote(urlsplit(self.path).path)
        self._log("PUT", path, "")
        data = self._read_body()
        granted = path.removeprefix("/uploads/")

        def receive() -> Reply:
            return Reply() if self.server.core.receive(granted, data) else _storage_error(404, "NoSuchKey")

        self._answer(Target("put"), lambda: self._refused() or receive())

    # What is answered

    def _refused(self) -> Reply | None:
        """None where the address is signed for this, otherwise the storage's refusal."""
        query = parse_qs(urlsplit(self.path).query)
        expires, signature = query.get("expires", [""])[0], query.get("signature", [""])[0]
        problem = self.server.core.signed(self.command, urlsplit(self.path).path, expires, signature)
        return _storage_error(403, problem) if problem else None

    def _file(self, number: int, name: str) -> Reply:
        core = self.server.core
        path = core.data_file(name, core.timetable.round(number))
        if not path.is_file():
            return _storage_error(404, "NoSuchKey")
        status = path.stat()
        headers = {
            "ETag": etag_of(path, status.st_mtime_ns),
            "Last-Modified": email.utils.formatdate(status.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        whole = Reply(headers=headers, file=path, length=status.st_size)
        return _ranged(whole, self.headers.get("Range"))

    def _submission(self, submission_id: str) -> Reply:
        core = self.server.core
        found = next((one for one in core.submissions() if one.id == submission_id), None)
        if found is None or found.sha256 is None:
            return _storage_error(404, "NoSuchKey")
        body = core.stored(found.sha256)
        return _ranged(Reply(headers={"Content-Type": "text/csv"}, body=body), self.headers.get("Range"))

    def _control(self, body: Any) -> Reply:
        token = self.server.core.keys.control_token
        if not isinstance(body, dict) or body.get("token") != token:
            return _json_reply({"error": "the control token is wrong; it stands in keys.json of the home"}, 403)
        try:
            return _json_reply({"result": self.server.control(str(body.get("call")), body.get("arguments") or {})})
        except (EraflowError, ValueError, TypeError, KeyError) as error:
            return _json_reply({"error": str(error)}, 400)

    # How it is answered, and what may go wrong

    def _answer(self, target: Target, work: Callable[[], Reply]) -> None:
        fault = self.server.faults.strike(target)
        if fault is None:
            self._send(work())
            return
        early = self._without_effect(fault)
        if early is not None:
            self._send(early)
        elif fault.what == "hang":
            self.server.stopping.wait()
            self._cut()
        elif fault.what == "reset-before":
            self._cut(reset=True)
        else:
            self._spoil(fault, work)

    def _without_effect(self, fault: Fault) -> Reply | None:
        if fault.what == "status":
            headers = {"Content-Type": "text/html", **fault.headers}
            return Reply(status=fault.code, headers=headers, body=fault.body.encode())
        if fault.what == "html-200":
            return Reply(headers={"Content-Type": "text/html; charset=utf-8"}, body=PAGE.encode())
        if fault.what == "redirect":
            return Reply(status=302, headers={"Location": f"{self.server.url}/elsewhere"})
        if fault.what == "empty-rounds":
            return _json_reply({"data": {"rounds": []}})
        return None

    def _spoil(self, fault: Fault, work: Callable[[], Reply]) -> None:
        if fault.what == "ignore-range":
            del self.headers["Range"]
        reply = work()
        if fault.what == "lost-answer":
            self._cut()
        elif fault.what == "bad-json":
            self._send(Reply(headers={"Content-Type": "application/json"}, body=b'{"data": {"rounds": [{"numb'))
        elif fault.what == "wrong-length":
            body = b"".join(reply.chunks())
            self._send(replace(reply, file=None, length=None, body=body[: max(0, len(body) - fault.n)]))
        elif fault.what == "flip-bits":
            self._send(replace(reply, file=None, length=None, body=_flipped(b"".join(reply.chunks()), fault.n)))
        elif fault.what == "truncate":
            self._send(reply, stop_after=fault.n)
        elif fault.what == "slow":
            self._send(reply, bytes_per_s=fault.n)
        else:
            self._send(reply)

    def _send(self, reply: Reply, *, stop_after: int | None = None, bytes_per_s: int | None = None) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(reply.size), "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            left = reply.size if stop_after is None else stop_after
            for chunk in reply.chunks():
                self._trickle(chunk[:left], bytes_per_s)
                left -= len(chunk)
                if left <= 0:
                    break

    def _trickle(self, chunk: bytes, bytes_per_s: int | None) -> None:
        step = len(chunk) if bytes_per_s is None else max(1, bytes_per_s // 10)
        for at in range(0, len(chunk), max(step, 1)):
            if bytes_per_s is not None and self.server.stopping.is_set():
                return
            self.wfile.write(chunk[at : at + step])
            if bytes_per_s is not None:
                time.sleep(step / bytes_per_s)

    def _cut(self, reset: bool = False) -> None:
        self.close_connection = True
        with suppress(OSError):
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        size = int(length) if length.isdigit() else 0
        if size > LARGEST_REQUEST_BYTES:
            raise ConnectionError("the request is too large")
        data = self.rfile.read(size)
        if len(data) != size:
            raise ConnectionError("the request broke off")
        return data

    def _log(self, method: str, path: str, root: str) -> None:
        self.server.requests.append((method, path, root))

    def date_time_string(self, timestamp: float | None = None) -> str:
        """`Date` tells the tournament's time."""
        moment = self.server.core.now_utc().timestamp() if timestamp is None else timestamp
        return email.utils.formatdate(moment, usegmt=True)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: tests and people watch the commands, not this."""


def _ranged(whole: Reply, asked: str | None) -> Reply:
    """The part of a whole answer that a `Range` header asks for: one range; others are ignored, as they may be."""
    size = whole.size
    unit, _, text = (asked or "").partition("=")
    first, dash, last = text.partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).isdigit():
        return whole
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size or stop <= start:
        return Reply(status=416, headers={"Content-Range": f"bytes */{size}"})
    headers = {**whole.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    if whole.file is None:
        return Reply(status=206, headers=headers, body=whole.body[start:stop])
    return replace(whole, status=206, headers=headers, start=start, length=stop - start)


def _flipped(data: bytes, bits: int) -> bytes:
    """`data` with so many bits flipped, spread evenly over its middle."""
    flipped = bytearray(data)
    for i in range(bits if flipped else 0):
        flipped[len(flipped) * (i + 1) // (bits + 2)] ^= 1 << (i % 8)
    return bytes(flipped)


def _storage_error(status: int, code: str) -> Reply:
    text = {"AccessDenied": "Request has expired", "NoSuchKey": "The specified key does not exist."}.get(code, code)
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{text}</Message></Error>'
    return Reply(status=status, headers={"Content-Type": "application/xml"}, body=body.encode())


def _json_reply(value: Any, status: int = 200) -> Reply:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Reply(status=status, headers=headers, body=json.dumps(value).encode())


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
