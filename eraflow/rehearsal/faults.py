"""Faults on request: what a network, a proxy or a tired server can do to a request.

where   "query:rounds"  a query or mutation of this root field, `create_submission` or `createSubmission`
        "any query"     each of them
        "get:v5.3/live.parquet", "get:live.parquet"  the download of a file; "get:submission"; "get:*"
        "put"           an upload
what    status          answer `code` with `body` and `headers`, without effect
        reset-before    cut the connection, without effect
        lost-answer     do it, then cut the connection instead of answering
        truncate        do it, then cut the answer after `n` bytes of those its Content-Length promises
        wrong-length    do it, with an answer that is `n` bytes too short and says so in its Content-Length
        html-200        a page of HTML with status 200, without effect
        bad-json        do it, then answer something that is almost JSON
        ignore-range    the whole file with status 200, whatever range was asked for
        flip-bits       do it; `n` bits of the answer are flipped, its length is right
        slow            do it; the answer trickles at `n` bytes a second
        hang            accept, and never answer
        empty-rounds    answer with `rounds: []`
        redirect        answer 302 to another address, `to` if it is given, without effect
        reset-after     put: read `n` bytes of the upload, then reset the connection, without effect;
                        otherwise do it, send the headers and `n` bytes of the answer, then reset the connection
        stall           do it; send `n` bytes of the answer (all but the last byte at most), then one byte a minute
        endless         answer 200 with a body that never ends, without effect; `headers` may name its content type
        address         do it; every address that is handed out begins with `to` (`https://nowhere.invalid`)
        clock           do it; the `Date` of the answer is `n` seconds ahead, behind if `n` is negative
        no-date         do it; the answer has no `Date`
        new-round       a new round opens, on time; then do it. Addresses handed out before may have expired by then
        close           the on-time deadline of the latest round passes; then do it

A reset ends a connection with an error (RST), a cut with an end of file. What never ends by itself ends when the client
hangs up or the tournament stops.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from eraflow.rehearsal.graphql import canonical

What = Literal[
    "status",
    "reset-before",
    "lost-answer",
    "truncate",
    "wrong-length",
    "html-200",
    "bad-json",
    "ignore-range",
    "flip-bits",
    "slow",
    "hang",
    "empty-rounds",
    "redirect",
    "reset-after",
    "stall",
    "endless",
    "address",
    "clock",
    "no-date",
    "new-round",
    "close",
]
# What makes sense for some kinds of requests only.
_KINDS_OF: Mapping[str, tuple[str, ...]] = {
    "empty-rounds": ("query",),
    "ignore-range": ("get",),
    "stall": ("query", "get"),
    "address": ("query",),
}
_HANDS_OUT_ADDRESSES = ("dataset", "submissionUploadAuth", "submissionDownloadAuth")
# As far as `Date` can be off; no year that cannot be written comes of it [s].
_FARTHEST_CLOCK_S = 10**9


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong, for some requests."""

    where: str
    what: What
    times: int | None = 1
    """How many requests it hits; None for all."""
    after: int = 0
    """How many matching requests it lets pass first."""
    code: int = 503
    body: str = "the local tournament was asked to fail"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    n: int = 100
    """Bytes, bits, bytes a second or seconds, as `what` says."""
    to: str = ""
    """An address: the whole one of `redirect`, scheme, host and port of `address`."""

    def __post_init__(self) -> None:
        if self.what not in get_args(What):
            raise ValueError(f"a fault must be one of {', '.join(get_args(What))}, however {self.what!r} was given")
        kind, _, name = self.where.partition(":")
        if self.where not in ("any query", "put") and not (kind in ("query", "get") and name):
            raise ValueError(
                f"a fault must hit 'any query', 'query:FIELD', 'get:FILE' or 'put', however {self.where!r} was given"
            )
        kinds = _KINDS_OF.get(self.what, ("query", "get", "put"))
        if ("query" if self.where == "any query" else kind) not in kinds:
            raise ValueError(f"{self.what} must hit a {' or a '.join(kinds)}, however {self.where!r} was given")
        self._check_numbers()
        self._check_address(canonical(name))

    def _check_numbers(self) -> None:
        least, most = {"slow": (1, None), "clock": (-_FARTHEST_CLOCK_S, _FARTHEST_CLOCK_S)}.get(self.what, (0, None))
        if self.n < least or (most is not None and self.n > most):
            limits = f"{least} or more" if most is None else f"from {least} to {most}"
            raise ValueError(f"n of {self.what} must be {limits}, however {self.n} was given")
        if (self.times is not None and self.times < 1) or self.after < 0:
            raise ValueError(
                "a fault must hit one request or more (None: all) after none or more, however times"
                f" {self.times} and after {self.after} were given"
            )
        if self.what == "status" and not 200 <= self.code <= 599:
            raise ValueError(f"the code of a fault must be from 200 to 599, however {self.code} was given")

    def _check_address(self, field: str) -> None:
        if self.to and self.what not in ("address", "redirect"):
            raise ValueError(f"to must be left out for {self.what}, however {self.to!r} was given")
        if not re.fullmatch(r"[!-~]*", self.to):
            raise ValueError(f"to must be an address in printable ASCII without spaces, however {self.to!r} was given")
        if self.what != "address":
            return
        if field not in _HANDS_OUT_ADDRESSES:
            fields = ", ".join(f"query:{one}" for one in _HANDS_OUT_ADDRESSES)
            raise ValueError(
                f"address must hit a query that hands out addresses ({fields}), however {self.where!r} was given"
            )
        if not re.fullmatch(r'[a-z][a-z0-9+.-]*://[^/?#"\\]+', self.to):
            raise ValueError(
                "to of address must be a scheme, a host and perhaps a port, as 'https://nowhere.invalid:444', however"
                f" {self.to!r} was given"
            )

    def as_table(self) -> dict[str, Any]:
        """Plain values, as they travel to `POST /control`."""
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "headers": dict(self.headers)}


@dataclass(frozen=True)
class Target:
    """What a request is, as far as faults are concerned."""

    kind: Literal["query", "get", "put"]
    names: tuple[str, ...] = ()
    """Root fields of a query in the schema's spelling, or the file."""

    def is_hit_by(self, where: str) -> bool:
        kind, _, name = where.partition(":")
        if where == "any query":
            return self.kind == "query"
        if kind == "get":
            return self.kind == "get" and any(name in ("*", own, own.rpartition("/")[2]) for own in self.names)
        return kind == self.kind and (not name or canonical(name) in self.names)


class Faults:
    """The faults that are still to come. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[tuple[Fault, list[int]]] = []
        self.struck: list[Fault] = []
        """Those that have hit a request, in order."""

    def add(self, *faults: Fault) -> None:
        """Plan faults; of several that match a request the first one added strikes."""
        with self._lock:
            self._planned += [(fault, [0]) for fault in faults]

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._planned.clear()

    def strike(self, target: Target) -> Fault | None:
        """The fault that hits this request, if any; every fault that matches counts it."""
        with self._lock:
            hit: Fault | None = None
            for fault, seen in self._planned:
                if not target.is_hit_by(fault.where):
                    continue
                due = seen[0] >= fault.after and (fault.times is None or seen[0] < fault.after + fault.times)
                if due and hit is not None:
                    continue  # keeps its turn for the next request
                seen[0] += 1
                hit = fault if due else hit
            if hit is not None:
                self.struck.append(hit)
            return hit


# A correct client gets through each of these, and through all of them in one round: at most two in a row hit one
# request, none waits for a time-out, and what takes effect unseen can be read back.
_SURVIVABLE: tuple[Fault, ...] = (
    Fault(where="any query", what="status", code=503, times=2),
    Fault(where="query:rounds", what="status", code=502, body="<html>Bad Gateway</html>"),
    Fault(where="any query", what="status", code=429, headers=MappingProxyType({"Retry-After": "1"}), after=3),
    Fault(where="query:dataset", what="reset-before"),
    Fault(where="query:account", what="bad-json"),
    Fault(where="get:live.parquet", what="truncate", n=2000),
    Fault(where="get:train.parquet", what="truncate", n=50_000),
    Fault(where="get:live.parquet", what="html-200"),
    Fault(where="get:validation.parquet", what="status", code=403),
    Fault(where="get:live.parquet", what="reset-before", after=1),
    Fault(where="get:*", what="ignore-range", times=None),
    Fault(where="put", what="status", code=500),
    Fault(where="put", what="status", code=403),
    Fault(where="put", what="lost-answer"),
    Fault(where="query:createSubmission", what="lost-answer"),
    Fault(where="query:submissionDownloadAuth", what="reset-before"),
)


def random_faults(seed: int) -> tuple[Fault, ...]:
    """Three to five faults that a correct client survives; the same ones for the same seed."""
    draw = random.Random(seed)  # noqa: S311 -- a plan that must repeat, not a secret
    return tuple(draw.sample(_SURVIVABLE, draw.randint(3, 5)))
