"""What is known of one slot's submission for a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eraflow.checks import Check

Status = Literal["submitted", "already-submitted", "late", "skipped", "failed"]
Source = Literal["fresh", "older-model", "benchmark"]
"""What predicted: a model trained for this round, an older one, or the tournament's own benchmark."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is known of the submission of one slot for one round."""

    round: int | None
    slot: str
    recipe: str
    source: Source | None
    status: Status
    submission_id: str | None = None
    sha256: str | None = None
    """Of the bytes that were sent; for a foreign submission of those that were read back, where that is allowed."""
    verified: Literal["bytes", "listed", False] = False
    origin: Literal["own", "foreign"] | None = None
    sent_at_utc: str | None = None
    left_s: float | None = None
    """Seconds between the sending and the on-time deadline; negative when late."""
    error_code: str | None = None
    error_message: str | None = None
    exit_code: int = 0
    model_id: str | None = None
    """The model that predicted; None for a benchmark, a foreign submission and what was never sent."""
    note: str | None = None
    """Why something other than a fresh model predicted."""
    checks: tuple[Check, ...] = ()
    """What the predictions were judged by before they were sent; empty where nothing was sent now."""
