"""A submission judged by a table of small named checks, before anything is sent.

Each check returns what must hold and what was found; all are shown, and one failed check stops the submission.
The rules are those of the tournament's own validator (`invalid_submission_headers`, `_ids`, `_values`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from eraflow.errors import ClosedError, DataError, EraflowError, InputError
from eraflow.rounds import Round, duration_text
from eraflow.tournament import Slot

HEADER = "id,prediction"
# The validator's `np.isclose(0, std)`; equal values alone give about 1e-17, which is rounding.
SMALLEST_SPREAD = 1e-8


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    name: str
    must: str
    found: str
    passed: bool


def check_bytes(data: bytes, live_ids: Sequence[str]) -> list[Check]:
    """Judge the CSV bytes that would be sent against the live ids of this round."""
    lines = io.StringIO(data.decode("utf-8", errors="replace"), newline="\n").read().split("\n")
    rows = [line.split(",") for line in lines[1:] if line]
    ids = [row[0] for row in rows]
    values = np.array([_number(row[1]) if len(row) == 2 else np.nan for row in rows], np.float64)
    finite = values[np.isfinite(values)]
    expected = set(live_ids)
    missing, unknown = expected - set(ids), set(ids) - expected
    with np.errstate(over="ignore"):  # a value of 1e300 fails the range; it needs no warning here
        spread = float(finite.std()) if finite.size else 0.0
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    whole = len(rows) == len(expected) > 0
    return [
        _check("headers", f"the columns are {HEADER}", lines[0][:80], lines[0] == HEADER),
        _check("rows", f"one for each of the {len(expected):,} live ids", f"{len(rows):,}", whole),
        _check("ids", "exactly the live ids of this round", _ids_text(missing, unknown), not missing and not unknown),
        _check("duplicates", "no id twice", f"{len(ids) - len(set(ids)):,}", len(ids) == len(set(ids))),
        _check("missing values", "none", f"{values.size - finite.size:,}", values.size == finite.size),
        _check("range", "every value inside (0, 1)", f"{low:.6f} to {high:.6f}", low > 0 and high < 1),
        _check("spread", "a standard deviation above 0", f"{spread:.4f}", spread > SMALLEST_SPREAD),
    ]  # fmt: skip


def check_slot(slot: Slot) -> Check:
    """The slot is one that the API may submit for."""
    found = {True: "a hosted model submits for it", False: "free", None: "the tournament does not tell"}[slot.hosted]
    return _check(f"slot {slot.name}", "free of a hosted model", found, slot.hosted is not True)


def check_deadline(opened: Round, now_utc: datetime, late: str) -> Check:
    """On time, or late and the user wants late submissions sent."""
    left_s = opened.left_s(now_utc)
    if left_s > 0:
        return _check(
            "deadline", f"before {opened.closes_at_utc:%Y-%m-%d %H:%M} UTC", f"{duration_text(left_s)} left", True
        )
    must = "any time (late = submit)" if late == "submit" else f"before {opened.closes_at_utc:%Y-%m-%d %H:%M} UTC"
    return _check("deadline", must, f"{duration_text(left_s)} late", late == "submit")


def require(checks: Sequence[Check], what: str) -> None:
    """Raise for the first failed check: `ClosedError` for the deadline, `InputError` for a slot, else `DataError`."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    text = "; ".join(f"{check.name}: must be {check.must}, however found {check.found}" for check in failed)
    kind: type[EraflowError] = DataError
    if failed[0].name == "deadline":
        kind = ClosedError
    elif failed[0].name.startswith("slot "):
        kind = InputError
    raise kind(f"nothing was sent for {what}: {text}")


def _check(name: str, must: str, found: str, passed: bool) -> Check:
    return Check(name=name, must=must, found=found, passed=bool(passed))


def _ids_text(missing: set[str], unknown: set[str]) -> str:
    if not missing and not unknown:
        return "exactly those"
    return f"{len(missing):,} missing, {len(unknown):,} that are not of this round"


def _number(text: str) -> float:
    # `float` also takes spaces, line breaks, underscores and digits of other scripts, which other readers refuse.
    try:
        return float(text) if re.fullmatch(r"[0-9.eE+-]+", text) else float("nan")
    except ValueError:
        return float("nan")
