"""Is this week safe? The answer in words, for the report and its picture. Draws and reads nothing.

A round is safe when every slot's submission was verified at the tournament and sent before the on-time deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from eraflow.receipt import Receipt
from eraflow.result import RoundResult
from eraflow.rounds import duration_text

Kind = Literal["safe", "late", "unsafe", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The round in words."""

    kind: Kind
    """"nothing" is a round that went well and was not meant to submit, or had nothing to submit."""
    claim: str
    """A few words: `Round 1432 is safe`."""
    detail: str
    """What the claim stands on: `2 of 2 slots verified, 23 h 41 min before the deadline`."""
    reason: str | None = None
    """The error that stands in the way, as it was reported; None where several slots have several."""

    @property
    def sentence(self) -> str:
        return f"{self.claim}: {self.detail}" if self.detail else self.claim


def verdict(result: RoundResult, now_utc: datetime | None = None) -> Verdict:
    """Judge a round; with `now_utc` (UTC-aware), what is not safe says how much time is left."""
    here = f"Round {result.round}" if result.round is not None else "This run"
    verified = [receipt for receipt in result.receipts if is_verified(receipt)]
    counted = f"{len(verified)} of {counted_text(len(result.receipts), 'slot')} verified"
    wrong = [receipt.error_message for receipt in result.receipts if receipt.exit_code]
    if result.error and not result.receipts:
        return Verdict(kind="unsafe", claim=f"{here} stopped", detail="", reason=str(result.error["message"]))
    if result.error or wrong or 0 < len(verified) < len(result.receipts):
        reason = str(result.error["message"]) if result.error else wrong[0] if len(set(wrong)) == 1 else None
        left = _left_text(result, now_utc)
        return Verdict(kind="unsafe", claim=f"{here} is not safe", detail=counted + left, reason=reason)
    if not verified:
        claim = "Nothing was submitted" + (f" for round {result.round}" if result.round is not None else "")
        counts = [(len(result.models), "model", "ready"), (len(result.receipts), "slot", "skipped")]
        told = [f"{counted_text(n, noun)} {what}" for n, noun, what in counts if n]
        return Verdict(kind="nothing", claim=claim, detail=", ".join(told))
    late = [receipt for receipt in verified if is_late(receipt)]
    left_s = [receipt.left_s for receipt in (late or verified) if receipt.left_s is not None]
    if late:
        after = f" {duration_text(min(left_s))} after the deadline" if left_s else ""
        detail = f"{counted}, {len(late)} of them sent late{',' if after else ''}{after}"
        return Verdict(kind="late", claim=f"{here} was sent late", detail=detail)
    before = f", {duration_text(min(left_s))} before the deadline" if left_s else ""
    return Verdict(kind="safe", claim=f"{here} is safe", detail=counted + before)


def is_verified(receipt: Receipt) -> bool:
    """The tournament has been seen to hold this slot's submission."""
    return bool(receipt.verified) and not receipt.exit_code


def is_late(receipt: Receipt) -> bool:
    """Sent after the on-time deadline, by this run or an earlier one."""
    return receipt.status == "late" or (receipt.left_s is not None and receipt.left_s <= 0)


def proof_text(receipts: Sequence[Receipt]) -> str:
    """How the verified ones were verified: `2 read back byte for byte`."""
    kinds = {
        "read back byte for byte": [r for r in receipts if is_verified(r) and r.verified == "bytes"],
        "listed by the tournament": [r for r in receipts if is_verified(r) and r.verified == "listed"],
        "made by somebody else": [r for r in receipts if is_verified(r) and r.origin == "foreign"],
    }
    return ", ".join(f"{len(found)} {text}" for text, found in kinds.items() if found)


def counted_text(count: int, noun: str) -> str:
    """
    >>> counted_text(1, "slot"), counted_text(12, "slot")
    ('1 slot', '12 slots')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def utc_moment(text: str | None) -> datetime | None:
    """The moment that an ISO 8601 text tells; None for none, for no date and for one without a zone."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and moment.tzinfo else None


def _left_text(result: RoundResult, now_utc: datetime | None) -> str:
    closes = utc_moment(result.closes_at_utc)
    if closes is None or now_utc is None:
        return ""
    left_s = (closes - now_utc).total_seconds()
    return f", {duration_text(left_s)} left" if left_s > 0 else f", and the deadline passed {duration_text(left_s)} ago"
