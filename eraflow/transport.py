"""How bytes travel: one JSON POST, one streamed GET, one PUT. Only `tournament` uses this.

Every request has a time-out, verifies TLS, follows no redirect, sends no credentials but those it is given, and
turns what goes wrong into `eraflow.errors` without the address (signed addresses are secrets) or the headers. Whatever
a server does, an answer ends: its head after a time, its body after a time or a size, a file at the size announced.
What was given up is over: nothing of it leaves this machine any more.
"""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3

from eraflow.errors import InputError, RefusedError, StorageError, TransientError
from eraflow.later import Later, cut_off
from eraflow.progress import Progress
from eraflow.store import require_room
from eraflow.untold import untold

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
# Until something of a request leaves: a name may have several addresses, and name servers that do not answer.
REACH_LIMIT_S = 60.0
# From there, and from each further block of it that leaves, to the end of the answer's head. READ_TIMEOUT_S is about
# one read: a head that trickles, or "100 Continue" again and again, is within it for ever.
HEAD_LIMIT_S = 30.0
ANSWER_LIMIT_S = 30.0
ANSWER_LIMIT_BYTES = 32 << 20
# The largest file of 2026 has 4 GB; a JSON file, of which the largest has 1 MB, is read into memory whole.
LARGEST_FILE_BYTES, LARGEST_JSON_BYTES = 64 << 30, 64 << 20
# A file of unannounced length leaves this much free on the disk, on which the ledger is; looked at each so many bytes.
KEPT_FREE_BYTES, ROOM_EACH_BYTES = 1 << 30, 64 << 20
# Below this speed over a minute a download counts as stalled, although single bytes still arrive.
STALLED_BYTES_PER_S = 1024
STALLED_AFTER_S = 60.0
CHUNK_BYTES = 1 << 20
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class NotSentError(TransientError):
    """The connection was never made, so the request cannot have taken effect."""

    code = "tournament-unreachable"


@dataclass(frozen=True)
class Answer:
    """Status and JSON body of a POST, and the server's time."""

    status: int
    body: Any
    date_utc: datetime | None
    """The server's time when the last byte of the body came."""
    retry_after: str | None


@dataclass(frozen=True)
class Body:
    """A response whose bytes are still to be read."""

    status: int
    length_bytes: int | None
    etag: str | None
    last_modified: str | None
    content_range: str | None
    content_type: str
    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """What a one-byte request told about a file; two that are equal mean the file has not changed."""

    size_bytes: int
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A file that has arrived in full length."""

    sha256: str
    freshness: Freshness


def checked_address(url: str, what: str) -> str:
    """`url` if it may be used: https, or http to this machine itself. Raises `InputError` otherwise."""
    try:
        parts = urlsplit(url)
    except ValueError:  # as an IPv6 address with half its brackets
        parts = urlsplit("")
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if secure and parts.hostname and not parts.username and not parts.password:
        return url
    raise InputError(
        f"{what} must be an https address (http only for 127.0.0.1) without a user name, however it is not"
    )


def post_json(url: str, body: dict[str, Any], headers: dict[str, str], leaves_within_s: float | None = None) -> Answer:
    """POST `body` as JSON, or not at all once `leaves_within_s` [s] have passed; the answer whatever its status.

    Raises `NotSentError` if no connection was made or not in time, `TransientError` if the answer is late, broken,
    too large or not JSON.
    """
    outgoing = _Outgoing(json.dumps(body, allow_nan=False).encode(), leaves_within_s)
    headers = {"Content-Type": "application/json", **headers}
    with _request("POST", url, "the tournament's API", outgoing, headers=headers) as response:
        began_s = time.monotonic()
        what = "the answer of the tournament's API"
        raw = gathered(_chunks(response, what, ANSWER_LIMIT_S), what)
        date_utc = _date(response)
        if date_utc is not None:  # it was written ahead of a body that may have taken its time
            date_utc += timedelta(seconds=time.monotonic() - began_s)
        return Answer(response.status_code, _json(raw), date_utc, response.headers.get("Retry-After"))


@contextmanager
def get(url: str, what: str, headers: dict[str, str] | None = None, *, limit_s: float | None = None) -> Iterator[Body]:
    """GET the bytes of `what` (a name for messages), all of them within `limit_s` [s]; without it they need only keep
    coming. Raises like `post_json`."""
    asked = {"Accept-Encoding": "identity", **(headers or {})}
    with _request("GET", url, what, _Outgoing(), headers=asked) as response:
        length = response.headers.get("Content-Length", "")
        yield Body(
            status=response.status_code,
            length_bytes=int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
            content_range=response.headers.get("Content-Range"),
            content_type=response.headers.get("Content-Type", ""),
            chunks=lambda: _chunks(response, what, limit_s),
        )


def receive(body: Body, name: str, to: Path, progress: Progress) -> Downloaded:
    """Write all bytes of a response to the fresh path `to`, never more than announced. Raises like `get`,
    `RefusedError` for a file that is too large to be one of the tournament's, and `StorageError` for a disk without
    room, before the first byte where the length is known.
    """
    if body.status != 200:
        raise refusal(body.status, f"the file {name}")
    expected = body.length_bytes
    if expected is not None:
        _require_plausible(name, expected)
        require_room(to.parent, expected, f"the file {name}")
    received, looked_at, digest = 0, 0, hashlib.sha256()
    try:
        with to.open("wb") as file:
            for chunk in body.chunks():
                received += len(chunk)
                if expected is not None and received > expected:
                    break
                if expected is None and received - looked_at > ROOM_EACH_BYTES:
                    require_room(to.parent, KEPT_FREE_BYTES, f"the file {name}, whose length was not announced,")
                    looked_at = received
                _require_plausible(name, received)
                file.write(chunk)
                digest.update(chunk)
                progress(f"download {name}", received, expected or 0, f"{received / 1e6:.1f} MB")
    except OSError as error:
        raise StorageError(
            f"the file {name} cannot be written to {to.parent}: {error.strerror}", code="no-room"
        ) from error
    if expected is not None and received != expected:
        raise TransientError(
            f"the file {name} should have {expected:,} bytes, however {received:,} came; try again later"
        )
    if received == 0:
        raise TransientError(f"the file {name} came empty; try again later")
    freshness = Freshness(size_bytes=received, etag=body.etag, last_modified=body.last_modified)
    return Downloaded(sha256=digest.hexdigest(), freshness=freshness)


def _require_plausible(name: str, size_bytes: int) -> None:
    largest = LARGEST_JSON_BYTES if name.endswith(".json") else LARGEST_FILE_BYTES
    if size_bytes > largest:
        raise RefusedError(
            f"the file {name} must have at most {largest:,} bytes, however it has {size_bytes:,} or more"
        )


def put(url: str, data: bytes, what: str) -> int:
    """PUT `data`; returns the status. Sends no header of its own choice: the address signs what may be sent.

    Raises like `post_json`, and `TransientError` for a page in place of the storage's empty answer.
    """
    with _request("PUT", url, what, _Outgoing(data)) as response:
        is_empty = response.headers.get("Content-Length") == "0"
        if response.ok and not is_empty and "html" in response.headers.get("Content-Type", "").lower():
            raise TransientError(f"{what} answered with a page, so the bytes did not arrive; try again later")
        return response.status_code


def refusal(status: int, what: str, retry_after: str | None = None) -> Exception:
    """The error for an HTTP status that is not a success."""
    if status in (408, 425, 429) or status >= 500:
        wait_s = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
        return TransientError(f"{what} answered {status}; try again later", retry_after_s=wait_s)
    return RefusedError(f"{what} answered {status}, which asking again would not change")


class _NoAuth(requests.auth.AuthBase):
    """Keeps requests from adding credentials of a .netrc file."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Session(requests.Session):
    """Follows no redirect, nor reads the body of one to its end."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the name is theirs
        return None


class _Outgoing(io.BytesIO):
    """The body of a request. It leaves block by block, each within the time-out, until the request is given up."""

    def __init__(self, data: bytes | None = None, leaves_within_s: float | None = None) -> None:
        super().__init__(data or b"")
        self._lock, self.given_up, self.is_empty = threading.Lock(), False, data is None
        # A request without a body has left when nobody sees it, so as late as it may.
        self._left_at_s = time.monotonic() + REACH_LIMIT_S if data is None else None
        limit_s = REACH_LIMIT_S if leaves_within_s is None else min(leaves_within_s, REACH_LIMIT_S)
        self._must_leave_s = time.monotonic() + limit_s

    def read(self, size: int | None = -1) -> bytes:
        with self._lock:
            if self.is_late:
                self.given_up = True
            if self.given_up:
                raise OSError("the request was given up")
            self._left_at_s = time.monotonic()
        return super().read(size)

    @property
    def is_late(self) -> bool:
        """Nothing of it has left in the time that it had."""
        return self._left_at_s is None and time.monotonic() >= self._must_leave_s

    @property
    def patience_s(self) -> float:
        """How much longer the head of the answer is waited for [s]."""
        left_at_s = self._left_at_s
        ends_at_s = self._must_leave_s if left_at_s is None else left_at_s + HEAD_LIMIT_S
        return ends_at_s - time.monotonic()

    def give_up(self) -> bool:
        """From here on nothing leaves. Returns whether something may have left before."""
        with self._lock:
            self.given_up = True
        return self._left_at_s is not None


@contextmanager
def _request(
    method: str, url: str, what: str, outgoing: _Outgoing, *, headers: dict[str, str] | None = None
) -> Iterator[requests.Response]:
    def answered() -> requests.Response:
        # urllib3 writes paths to its log, and a signed address has its signature there.
        with untold():
            response = session.request(
                method,
                url,
                data=None if outgoing.is_empty else outgoing,
                headers=headers,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                proxies=_proxies(url),
                allow_redirects=False,
                stream=True,
                auth=_NoAuth(),
            )
        if outgoing.given_up:
            response.close()
        return response

    try:
        # A session for one request: a kept connection that the server had closed would look like a lost answer.
        with _Session() as session, _in_time(answered, what, outgoing) as response:
            if 300 <= response.status_code < 400:
                raise RefusedError(f"{what} answered with a redirect ({response.status_code}), which is not followed")
            yield response
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        # Their texts hold the address and the exceptions the request with its headers: neither goes on, not even as
        # the context of ours.
        failed = _unreached(what) if outgoing.is_late else _wrapped(error, what)
    else:
        return
    raise failed


def _in_time(call: Callable[[], requests.Response], what: str, outgoing: _Outgoing) -> requests.Response:
    later = Later(call, what)
    while True:
        try:
            return later.result(min(outgoing.patience_s, HEAD_LIMIT_S))
        except TransientError:  # of `Later` alone
            if outgoing.patience_s > 0:
                continue
            if outgoing.give_up():
                raise TransientError(f"{what} did not answer within {HEAD_LIMIT_S:g} s; try again later") from None
            raise _unreached(what) from None
        except BaseException:  # a signal or a time-out of others: nobody waits for it any more
            outgoing.give_up()
            raise


def _unreached(what: str) -> NotSentError:
    return NotSentError(f"{what} cannot be reached; check the network, then try again")


def _proxies(url: str) -> dict[str, str] | None:
    # A proxy of the environment has no way to what listens on this machine's loopback.
    host = urlsplit(url).hostname
    return {"no_proxy": host} if host in LOOPBACK else None


def _wrapped(error: Exception, what: str) -> Exception:
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", None)
    tls = reason.args if isinstance(reason, urllib3.exceptions.SSLError) else ()
    if any(isinstance(part, ssl.SSLCertVerificationError) for part in tls):
        return NotSentError(
            f"{what}: the TLS certificate was not accepted; check this machine's clock and certificates"
        )
    if isinstance(error, requests.exceptions.ConnectTimeout) or isinstance(
        reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError
    ):
        return _unreached(what)
    if isinstance(error, requests.exceptions.Timeout):
        return TransientError(f"{what} did not answer within {READ_TIMEOUT_S:.0f} s; try again later")
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return TransientError(f"the connection to {what} broke; try again later")
    return TransientError(f"{what} could not be asked ({type(error).__name__}); try again later")


def gathered(chunks: Iterator[bytes], what: str) -> bytes:
    """All of them as one. Raises `TransientError` if they are more than `ANSWER_LIMIT_BYTES`."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > ANSWER_LIMIT_BYTES:
            raise TransientError(f"{what} is endless; it was given up")
    return bytes(data)


def _chunks(response: requests.Response, what: str, limit_s: float | None = None) -> Iterator[bytes]:
    """What arrives: all of it within `limit_s` [s] if that is given, else at no less than `STALLED_BYTES_PER_S`."""
    raw = cast(urllib3.response.HTTPResponse, response.raw)
    connection = raw.connection  # `raw` lets go of it where it takes the cut for an end
    window_s, slow = limit_s or STALLED_AFTER_S, f"arrives at under {STALLED_BYTES_PER_S} bytes/s"
    while True:
        began_s, arrived, broken, goes_on = time.monotonic(), 0, "", False
        # No time-out ends trailers or compressed nothings without end: those are about single bytes.
        with cut_off(partial(_end, raw), limit_s or STALLED_AFTER_S + READ_TIMEOUT_S) as is_cut:
            while time.monotonic() - began_s <= window_s:
                try:
                    # read1 hands over what has arrived; read(n) would wait for n bytes however slowly they trickle.
                    chunk = raw.read1(CHUNK_BYTES, decode_content=True)
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    broken = type(error).__name__
                    break
                if not chunk:
                    break
                arrived += len(chunk)
                yield chunk
            else:
                goes_on = limit_s is None and arrived >= STALLED_BYTES_PER_S * window_s
                if not goes_on:
                    is_cut.set()
        if is_cut.is_set():  # what is read past a cut is no longer what was sent, however fast it came before
            if connection is not None:
                connection.close()
            raise TransientError(f"{what} {slow if limit_s is None else 'is endless'}; it was given up")
        if broken:
            raise TransientError(f"{what} broke off ({broken}); try again later")
        if not goes_on:
            return


def _end(raw: urllib3.response.HTTPResponse) -> None:
    with suppress(ValueError, RuntimeError, OSError):  # its last byte has come meanwhile
        raw.shutdown()


def _json(raw: bytes) -> Any:
    try:
        found = json.loads(raw)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text: it is never shown nor kept
        return found
    except (ValueError, RecursionError):
        return None


def _date(response: requests.Response) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment if 2000 < moment.year < 9000 else None  # a clock that is set by it must not run out of years
