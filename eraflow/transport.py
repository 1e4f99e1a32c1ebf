"""How bytes travel: one JSON POST, one streamed GET, one PUT. Only `tournament` uses this.

Every request has a time-out, verifies TLS, follows no redirect, sends no credentials but those it is given, and
turns what goes wrong into `eraflow.errors` without the address (signed addresses are secrets) or the headers. Whatever
a server does, an answer ends: its head after a time, its body after a time or a size, a file at the size announced.
"""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3

from eraflow.errors import InputError, RefusedError, StorageError, TransientError
from eraflow.later import Later
from eraflow.progress import Progress
from eraflow.store import require_room

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
ANSWER_LIMIT_S = 30.0  # one last read may follow, so an answer that trickles is given up within a minute
ANSWER_LIMIT_BYTES = 32 << 20
# From the start of a request to the end of its answer's head. READ_TIMEOUT_S is about one read: a head that trickles,
# or "100 Continue" again and again, is within it for ever.
HEAD_LIMIT_S = 30.0
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


def post_json(url: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
    """POST `body` as JSON; the answer whatever its status.

    Raises `NotSentError` if no connection was made, `TransientError` if the answer is late, broken, too
    large or not JSON.
    """
    started = time.monotonic()
    with _request("POST", url, "the tournament's API", json=body, headers=headers) as response:
        raw = bytearray()
        for chunk in _chunks(response, "the answer of the tournament's API"):
            raw += chunk
            if len(raw) > ANSWER_LIMIT_BYTES or time.monotonic() - started > ANSWER_LIMIT_S:
                raise TransientError("the answer of the tournament's API is endless; it was given up")
        return Answer(response.status_code, _json(bytes(raw)), _date(response), response.headers.get("Retry-After"))


@contextmanager
def get(url: str, what: str, headers: dict[str, str] | None = None) -> Iterator[Body]:
    """GET the bytes of `what` (a name for messages). Raises like `post_json`."""
    asked = {"Accept-Encoding": "identity", **(headers or {})}
    with _request("GET", url, what, headers=asked) as response:
        length = response.headers.get("Content-Length", "")
        yield Body(
            status=response.status_code,
            length_bytes=int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
            content_range=response.headers.get("Content-Range"),
            content_type=response.headers.get("Content-Type", ""),
            chunks=lambda: _chunks(response, what),
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
    # As a file it goes out block by block, each within the time-out; bytes would all have to be sent within one.
    with _request("PUT", url, what, data=io.BytesIO(data)) as response:
        if response.ok and "html" in response.headers.get("Content-Type", "").lower():
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


@contextmanager
def _request(
    method: str, url: str, what: str, *, limit_s: float | None = None, **arguments: Any
) -> Iterator[requests.Response]:
    given_up = threading.Event()

    def answered() -> requests.Response:
        # urllib3 writes paths to its log, and a signed address has its signature there.
        with untold():
            response = session.request(
                method,
                url,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                proxies=_proxies(url),
                allow_redirects=False,
                stream=True,
                auth=_NoAuth(),
                **arguments,
            )
        if given_up.is_set():
            response.close()
        return response

    try:
        # A session for one request: a kept connection that the server had closed would look like a lost answer.
        with _Session() as session, _in_time(answered, what, limit_s or HEAD_LIMIT_S, given_up) as response:
            if 300 <= response.status_code < 400:
                raise RefusedError(f"{what} answered with a redirect ({response.status_code}), which is not followed")
            yield response
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        # Their texts hold the address and the exceptions the request with its headers: neither goes on, not even as
        # the context of ours.
        failed = _wrapped(error, what)
    else:
        return
    raise failed


def _in_time(
    call: Callable[[], requests.Response], what: str, limit_s: float, given_up: threading.Event
) -> requests.Response:
    try:
        return Later(call, what).result(limit_s)
    except TransientError:  # of `Later` alone; whoever comes after that closes what he has
        given_up.set()
        raise


def _proxies(url: str) -> dict[str, str] | None:
    # A proxy of the environment has no way to what listens on this machine's loopback.
    host = urlsplit(url).hostname
    return {"no_proxy": host} if host in LOOPBACK else None


def _wrapped(error: Exception, what: str) -> Exception:
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", None)
    if isinstance(reason, urllib3.exceptions.SSLError) and _has(reason, ssl.SSLCertVerificationError):
        return NotSentError(
            f"{what}: the TLS certificate was not accepted; check this machine's clock and certificates"
        )
    if isinstance(error, requests.exceptions.ConnectTimeout) or isinstance(
        reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError
    ):
        return NotSentError(f"{what} cannot be reached; check the network, then try again")
    if isinstance(error, requests.exceptions.Timeout):
        return TransientError(f"{what} did not answer within {READ_TIMEOUT_S:.0f} s; try again later")
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return TransientError(f"the connection to {what} broke; try again later")
    return TransientError(f"{what} could not be asked ({type(error).__name__}); try again later")


def _has(error: Exception, kind: type[Exception]) -> bool:
    return any(isinstance(part, kind) for part in error.args)


def _chunks(response: requests.Response, what: str) -> Iterator[bytes]:
    window_started, window_bytes = time.monotonic(), 0
    raw = cast(urllib3.response.BaseHTTPResponse, response.raw)
    try:
        # read1 hands over what has arrived; read(n) would wait for n bytes however slowly they trickle.
        while chunk := raw.read1(CHUNK_BYTES, decode_content=True):
            window_bytes += len(chunk)
            yield chunk
            elapsed_s = time.monotonic() - window_started
            if elapsed_s > STALLED_AFTER_S:
                if window_bytes < STALLED_BYTES_PER_S * elapsed_s:
                    raise TransientError(f"{what} arrives at under {STALLED_BYTES_PER_S} bytes/s; it was given up")
                window_started, window_bytes = time.monotonic(), 0
    except (urllib3.exceptions.HTTPError, OSError) as error:
        broken = type(error).__name__
    else:
        return
    raise TransientError(f"{what} broke off ({broken}); try again later")


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


class _Silence(logging.Filter):
    """Drops what the present thread says while it handles an address."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the name is theirs
        return not getattr(self.here, "silent", False)


_silence = _Silence()
# They write whole addresses: apprise its own, urllib3 the path, in which some services have their token.
TALKATIVE = ("apprise", "urllib3.connectionpool", "urllib3.util.retry")


@contextmanager
def untold() -> Iterator[None]:
    """Whatever the log's level: in this block, and in this thread, nobody writes an address to it."""
    for name in TALKATIVE:
        logging.getLogger(name).addFilter(_silence)  # the second time does nothing
    before = getattr(_silence.here, "silent", False)
    _silence.here.silent = True
    try:
        yield
    finally:
        _silence.here.silent = before


def without_secrets(text: str, secrets: tuple[str, ...] = ()) -> str:
    """One line of at most 300 characters of a foreign text, without keys and addresses."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = re.sub(r"https?://\S+", "(address)", text, flags=re.IGNORECASE)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
