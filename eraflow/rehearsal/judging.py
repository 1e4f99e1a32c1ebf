"""Whether the bytes of a submission are valid, and how a late one gets the ids of the next round.

The rules and the codes are those of the tournament's own `numerai-tools` (`submissions.py`).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

HEADERS, IDS, VALUES = "invalid_submission_headers", "invalid_submission_ids", "invalid_submission_values"


def judge(data: bytes, live_ids: Sequence[str]) -> str | None:
    """What is wrong with a submission, beginning with the tournament's code for it; None for a valid one."""
    rows = _rows(data)
    if rows is None or not rows or rows[0] != ["id", "prediction"]:
        return f"{HEADERS}: the columns must be id,prediction"
    body = rows[1:]
    if any(len(row) != 2 for row in body):
        return f"{HEADERS}: every row must have two columns"
    ids = [row[0] for row in body]
    if len(set(ids)) != len(ids):
        return f"{IDS}: duplicate ids"
    if set(ids) != set(live_ids):
        return f"{IDS}: the ids must be the live ids of the current round, each once"
    values = [_number(row[1]) for row in body]
    if any(math.isnan(value) for value in values):
        return f"{VALUES}: predictions must not be NaN"
    if any(not 0 <= value <= 1 for value in values):
        return f"{VALUES}: predictions must be between 0 and 1, exclusive"
    if len(set(values)) == 1:
        return f"{VALUES}: the standard deviation of the predictions must not be 0"
    return None


def with_ids_of(data: bytes, live_ids: Sequence[str]) -> bytes:
    """The same predictions under other ids, in order; begun again where they are fewer than the ids.

    >>> with_ids_of(b"id,prediction\\na,0.25\\nb,0.75\\n", ["x", "y", "z"])
    b'id,prediction\\nx,0.25\\ny,0.75\\nz,0.25\\n'
    """
    values = [row[1] for row in (_rows(data) or [])[1:]]
    lines = [f"{one},{values[i % len(values)]}" for i, one in enumerate(live_ids)]
    return "\n".join(["id,prediction", *lines, ""]).encode()


def _rows(data: bytes) -> list[list[str]] | None:
    try:
        return [row for row in csv.reader(io.StringIO(data.decode("utf-8"), newline="")) if row]
    except (UnicodeDecodeError, csv.Error):
        return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
