"""Small things for tests that talk to the local tournament."""

from __future__ import annotations

import json
import socket
from typing import Any

from eraflow.rehearsal.faults import Fault, What
from eraflow.rehearsal.server import LocalTournament

LIVE = "v5.3/live.parquet"
CSV = b"id,prediction\na,0.25\nb,0.75\n"
# What makes an answer useless, as (what, more) of a `Fault`.
FAULTS: list[tuple[What, dict[str, Any]]] = [
    ("status", {"code": 503}),
    ("status", {"code": 502, "body": "<html>Bad Gateway</html>"}),
    ("status", {"code": 429}),
    ("reset-before", {}),
    ("bad-json", {}),
    ("html-200", {}),
    ("truncate", {"n": 10}),
    ("lost-answer", {}),
]


def asked(local: LocalTournament, what: str) -> int:
    """How many requests of this root field, or of this method, were sent."""
    return sum(what in (root, method) for method, _, root in local.requests)


def allowed() -> None:
    """Allow it at any time, as `before` of `upload` and `create`."""


def unused_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def refused_with(message: str) -> Fault:
    """A GraphQL error, as the API sends it."""
    return Fault(
        where="any query",
        what="status",
        code=200,
        body=json.dumps({"data": None, "errors": [{"message": message}]}),
        times=None,
    )
