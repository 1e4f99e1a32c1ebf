"""Had every slot of every round exactly one submission in time? Asked of the tournament first, then of the ledger.

Read `judge`. The other scripts here play the rounds: `ten_rounds` on schedules of seconds, `fifty_weeks` by the
pinned ones on a clock that is moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from eraflow.ledger import Attempt, Ledger
from eraflow.rehearsal import LocalTournament, Submission


class Window(Protocol):
    """A round, and between which moments a submission to it counts."""

    @property
    def number(self) -> int: ...
    @property
    def opens_at_utc(self) -> datetime: ...
    @property
    def closes_at_utc(self) -> datetime: ...


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of one slot in one round."""

    round: int
    slot: str
    opens_at_utc: datetime
    closes_at_utc: datetime
    after_s: float | None
    """From the opening to the submission, by the tournament's clock [s]; None if there is none."""
    source: str
    """Of the receipt: fresh, older-model or benchmark; `-` without one."""
    attempts: int
    """That the ledger knows of."""
    wrong: str | None
    """What is not as it must be, or None."""

    @property
    def left_s(self) -> float | None:
        """From the submission to the deadline [s]."""
        if self.after_s is None:
            return None
        return (self.closes_at_utc - self.opens_at_utc).total_seconds() - self.after_s


def judge(rounds: Iterable[Window], local: LocalTournament, ledger: Ledger, slots: Sequence[str]) -> list[Judged]:
    """Every slot of every round, whether somebody was there or not."""
    return [_judged(one, slot, local, ledger) for one in rounds for slot in slots]


def table(judged: Sequence[Judged]) -> str:
    """A line for each slot of each round."""
    lines = [
        f"{'round':>5} {'slot':16} {'opened':8} {'deadline':8} {'after s':>8} {'left s':>8} {'source':12} attempts"
    ]
    for one in judged:
        after, left = (f"{value:8.0f}" if value is not None else f"{'-':>8}" for value in (one.after_s, one.left_s))
        lines.append(
            f"{one.round:5} {one.slot:16} {one.opens_at_utc:%H:%M:%S} {one.closes_at_utc:%H:%M:%S} {after} {left}"
            f" {one.source:12} {one.attempts:8}{'  WRONG: ' + one.wrong if one.wrong else ''}"
        )
    return "\n".join(lines)


def summary(judged: Sequence[Judged]) -> str:
    """One sentence, and one for each thing that is wrong."""
    wrong = [one for one in judged if one.wrong]
    sources = {source: sum(one.source == source for one in judged) for source in sorted({o.source for o in judged})}
    after_s = [one.after_s for one in judged if one.after_s is not None]
    left_s = [one.left_s for one in judged if one.left_s is not None]
    lines = [
        f"{len(judged) - len(wrong)} of {len(judged)} slots of {len({one.round for one in judged})} rounds have exactly"
        f" one verified submission in time ({', '.join(f'{count} {source}' for source, count in sources.items())});"
        + (f" latest {max(after_s):.0f} s after the opening, least left {min(left_s):.0f} s" if after_s else "")
    ]
    return "\n".join([*lines, *(f"round {one.round}, {one.slot}: {one.wrong}" for one in wrong)])


def _judged(opened: Window, slot: str, local: LocalTournament, ledger: Ledger) -> Judged:
    created = [one for one in local.submissions(opened.number) if one.slot == slot and not one.carried_over]
    counting = [one for one in created if one.valid and not one.late and one.selected]
    attempts = ledger.attempts(opened.number, slot)
    receipts = [one for one in attempts if one.state == "verified"]
    sent_utc = datetime.fromisoformat(counting[0].inserted_at_utc) if counting else None
    return Judged(
        round=opened.number,
        slot=slot,
        opens_at_utc=opened.opens_at_utc,
        closes_at_utc=opened.closes_at_utc,
        after_s=(sent_utc - opened.opens_at_utc).total_seconds() if sent_utc else None,
        source=receipts[0].source if receipts else "-",
        attempts=len(attempts),
        wrong=_wrong(opened, created, counting, receipts),
    )


def _wrong(
    opened: Window, created: Sequence[Submission], counting: Sequence[Submission], receipts: Sequence[Attempt]
) -> str | None:
    if len(created) != 1 or len(counting) != 1:
        return f"{len(created)} submissions, of which {len(counting)} count"
    sent_utc = datetime.fromisoformat(counting[0].inserted_at_utc)
    # The tournament's stamps have whole seconds.
    if not opened.opens_at_utc.replace(microsecond=0) <= sent_utc < opened.closes_at_utc:
        return f"sent at {sent_utc:%H:%M:%S}, outside the window"
    if len(receipts) != 1:
        return f"{len(receipts)} verified receipts in the ledger"
    if (receipts[0].sha256, receipts[0].submission_id) != (counting[0].sha256, counting[0].id):
        return "the receipt is of other bytes than those that count"
    return None
