"""HTTP for the local tournament: reads a request, lets a fault strike, answers.

What a request asks for is decided in `core` and `answers`; `replies` are what is sent; here are paths, signatures, and
connections that break on purpose. Every answer closes its connection and carries the tournament's time in `Date`.
"""

from __future__ import annotations

import email.utils
import fcntl
import json
import select
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from eraflow.errors import EraflowError
from eraflow.rehearsal.answers import Desk, read_operation
from eraflow.rehearsal.core import Core
from eraflow.rehearsal.faults import Fault, Faults, Target
from eraflow.rehearsal.graphql import GraphQLError, canonical
from eraflow.rehearsal.publishing import etag_of
from eraflow.rehearsal.replies import CHUNK_BYTES, PAGE, Reply, flipped, json_reply, ranged, storage_error

LARGEST_REQUEST_BYTES = 64 << 20
# A stalled answer goes on by a byte this often [s].
STALLED_BYTE_EVERY_S = 60.0
# How soon an answer that never ends by itself sees that the client hung up or the tournament stops [s].
NOTICES_WITHIN_S = 0.1


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
    # What a fault lets pass before it resets the connection must not wait for an acknowledgement.
    disable_nagle_algorithm = True
    server: TournamentServer
    ahead_s: int | None = 0
    """How much `Date` is ahead [s]; None leaves it out."""

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
            self._send(json_reply({"errors": [error.entry()]}))
            return
        self._log("POST", "/", ",".join(names))
        authorization = self.headers.get("Authorization")
        self._answer(
            self.server.faults.strike(Target("query", names)),
            lambda: json_reply(self.server.desk.answer(operation, variables, authorization)),
        )

    def do_GET(self) -> None:
        """Data files and submissions, at signed addresses."""
        path = unquote(urlsplit(self.path).path)
        self._log("GET", path, "")
        _, kind, owner, name = (*path.split("/", 3), "", "", "")[:4]
        strike = self.server.faults.strike
        if kind == "files" and owner.isdigit() and name:
            self._answer(strike(Target("get", (name,))), lambda: self._refused() or self._file(int(owner), name))
        elif kind == "submissions" and name:
            self._answer(strike(Target("get", ("submission",))), lambda: self._refused() or self._submission(owner))
        else:
            self._send(storage_error(404, "NoSuchKey"))

    def do_PUT(self) -> None:
        """An upload to a signed address."""
        path = unquote(urlsplit(self.path).path)
        self._log("PUT", path, "")
        fault = self.server.faults.strike(Target("put"))
        if fault is not None and fault.what == "reset-after":
            self.rfile.read(min(fault.n, self._announced_bytes()))
            self._cut(reset=True)
            return
        data = self._read_body()
        granted = path.removeprefix("/uploads/")

        def receive() -> Reply:
            return Reply() if self.server.core.receive(granted, data) else storage_error(404, "NoSuchKey")

        self._answer(fault, lambda: self._refused() or receive())

    # What is answered

    def _refused(self) -> Reply | None:
        """None where the address is signed for this, otherwise the storage's refusal."""
        query = parse_qs(urlsplit(self.path).query)
        expires, signature = query.get("expires", [""])[0], query.get("signature", [""])[0]
        problem = self.server.core.signed(self.command, urlsplit(self.path).path, expires, signature)
        return storage_error(403, problem) if problem else None

    def _file(self, number: int, name: str) -> Reply:
        core = self.server.core
        if not core.has_data_file(name):
            return storage_error(404, "NoSuchKey")
        path = core.data_file(name, core.timetable.round(number))
        if not path.is_file():
            return storage_error(404, "NoSuchKey")
        status = path.stat()
        headers = {
            "ETag": etag_of(path, status.st_mtime_ns),
            "Last-Modified": email.utils.formatdate(status.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        whole = Reply(headers=headers, file=path, length=status.st_size)
        return ranged(whole, self.headers.get("Range"))

    def _submission(self, submission_id: str) -> Reply:
        core = self.server.core
        found = next((one for one in core.submissions() if one.id == submission_id), None)
        if found is None or found.sha256 is None:
            return storage_error(404, "NoSuchKey")
        body = core.stored(found.sha256)
        return ranged(Reply(headers={"Content-Type": "text/csv"}, body=body), self.headers.get("Range"))

    def _control(self, body: Any) -> Reply:
        token = self.server.core.keys.control_token
        if not isinstance(body, dict) or body.get("token") != token:
            return json_reply({"error": "the control token is wrong; it stands in keys.json of the home"}, 403)
        try:
            return json_reply({"result": self.server.control(str(body.get("call")), body.get("arguments") or {})})
        except (EraflowError, ValueError, TypeError, KeyError) as error:
            return json_reply({"error": str(error)}, 400)

    # How it is answered, and what may go wrong

    def _answer(self, fault: Fault | None, work: Callable[[], Reply]) -> None:
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
        elif fault.what == "endless":
            self._send_without_end(fault)
        else:
            self._prepare(fault)
            self._spoil(fault, work())

    def _without_effect(self, fault: Fault) -> Reply | None:
        if fault.what == "status":
            headers = {"Content-Type": "text/html", **fault.headers}
            return Reply(status=fault.code, headers=headers, body=fault.body.encode())
        if fault.what == "html-200":
            return Reply(headers={"Content-Type": "text/html; charset=utf-8"}, body=PAGE.encode())
        if fault.what == "redirect":
            return Reply(status=302, headers={"Location": fault.to or f"{self.server.url}/elsewhere"})
        if fault.what == "empty-rounds":
            return json_reply({"data": {"rounds": []}})
        return None

    def _prepare(self, fault: Fault) -> None:
        """What happens before the request is done."""
        if fault.what == "ignore-range":
            del self.headers["Range"]
        elif fault.what == "new-round":
            self.server.control("open_next_round", {"delay_s": 0.0})
        elif fault.what == "close":
            self.server.control("close_round", {})
        elif fault.what in ("clock", "no-date"):
            self.ahead_s = fault.n if fault.what == "clock" else None

    def _spoil(self, fault: Fault, reply: Reply) -> None:
        """What becomes of the answer."""
        if fault.what == "lost-answer":
            self._cut()
        elif fault.what == "bad-json":
            self._send(Reply(headers={"Content-Type": "application/json"}, body=b'{"data": {"rounds": [{"numb'))
        elif fault.what == "wrong-length":
            body = b"".join(reply.chunks())
            self._send(replace(reply, file=None, length=None, body=body[: max(0, len(body) - fault.n)]))
        elif fault.what == "flip-bits":
            self._send(replace(reply, file=None, length=None, body=flipped(b"".join(reply.chunks()), fault.n)))
        elif fault.what == "truncate":
            self._send(reply, stop_after=fault.n)
        elif fault.what == "slow":
            self._send(reply, bytes_per_s=fault.n)
        elif fault.what == "reset-after":
            self._send(reply, stop_after=fault.n)
            self._wait_until_received()
            self._cut(reset=True)
        elif fault.what == "stall":
            self._send_stalling(reply, fault.n)
        elif fault.what == "address":
            handed_out, instead = f"{self.server.url}/".encode(), f"{fault.to}/".encode()
            self._send(replace(reply, body=reply.body.replace(handed_out, instead)))
        else:
            self._send(reply)

    def _send(self, reply: Reply, *, stop_after: int | None = None, bytes_per_s: int | None = None) -> None:
        self.close_connection = True
        with suppress(OSError):
            self._send_head(reply.status, {**reply.headers, "Content-Length": str(reply.size)})
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

    def _send_stalling(self, reply: Reply, n: int) -> None:
        body = b"".join(reply.chunks())
        sent = max(0, min(n, len(body) - 1))
        self._send(reply, stop_after=sent)
        with suppress(OSError):
            while sent < len(body) and self._waits(STALLED_BYTE_EVERY_S):
                self.wfile.write(body[sent : sent + 1])
                sent += 1
        self._cut()

    def _send_without_end(self, fault: Fault) -> None:
        kind, filler = ("application/json", b" ") if self.command == "POST" else ("application/octet-stream", b"\0")
        self.close_connection = True
        with suppress(OSError):
            self._send_head(200, {"Content-Type": kind, **fault.headers})
            block = filler * CHUNK_BYTES
            # `send`, because a write of the whole block would not see the stop while the client does not read.
            while not self.server.stopping.is_set():
                if self._is_ready(select.POLLOUT, NOTICES_WITHIN_S):
                    self.connection.send(block)
        self._cut()

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_header(self, keyword: str, value: str) -> None:
        """Every header but a `Date` that a fault leaves out."""
        if keyword != "Date" or self.ahead_s is not None:
            super().send_header(keyword, value)

    def _waits(self, seconds: float) -> bool:
        """Wait; False as soon as the tournament stops or the client hangs up."""
        ends_at_s = time.monotonic() + seconds
        while (left_s := ends_at_s - time.monotonic()) > 0:
            if self.server.stopping.wait(min(left_s, NOTICES_WITHIN_S)):
                return False
            if self._is_ready(select.POLLIN, 0.0) and not self.connection.recv(1, socket.MSG_PEEK):
                return False
        return True

    def _wait_until_received(self) -> None:
        """Wait until the client's side has all that was sent, because a reset discards the rest."""
        with suppress(OSError):
            while int.from_bytes(fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
                if self.server.stopping.wait(0.001):
                    return

    def _is_ready(self, event: int, timeout_s: float) -> bool:
        waiting = select.poll()
        waiting.register(self.connection, event)
        return bool(waiting.poll(1000 * timeout_s))

    def _cut(self, reset: bool = False) -> None:
        self.close_connection = True
        with suppress(OSError):
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # The server would shut the connection down first, and the client would see an end in place of a reset;
                # and the socket is closed only when its reader is.
                self.rfile.close()
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    def _announced_bytes(self) -> int:
        length = self.headers.get("Content-Length", "0")
        return int(length) if length.isdigit() else 0

    def _read_body(self) -> bytes:
        size = self._announced_bytes()
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
        moment = self.server.core.now_utc().timestamp() + (self.ahead_s or 0) if timestamp is None else timestamp
        return email.utils.formatdate(moment, usegmt=True)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: tests and people watch the commands, not this."""


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
