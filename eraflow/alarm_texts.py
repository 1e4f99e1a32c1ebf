"""What alarms say: the round, the time left, what happened, what it means, what to do. Sends nothing.

Read `alarms_of`, which judges a finished round, and `missed`, for a round that nobody finished; `was_told` keeps what
was told from being told again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from eraflow.errors import NO_ROUND
from eraflow.ledger import AlarmNote
from eraflow.receipt import Receipt
from eraflow.result import RoundResult
from eraflow.rounds import Round, duration_text
from eraflow.untold import without_secrets
from eraflow.verdict import is_verified, utc_moment, verdict
from eraflow.weekly_config import AlarmConfig

Kind = Literal["failure", "fallback", "missed", "receipt", "foreign", "test"]

SHOWN = 6
# What belongs to no round has the same title each week, and is told again after this long.
QUIET = timedelta(hours=6)


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What somebody is told."""

    kind: Kind
    round: int | None
    title: str
    """One line: the round, what is the matter, and the time left."""
    body: str
    """What happened, what it means, what to do now; without secrets."""


def alarms_of(result: RoundResult, config: AlarmConfig, now_utc: datetime, *, train: bool = True) -> list[Alarm]:
    """What a finished round has to tell, one alarm a kind; nothing where no round was open.

    With `train` False an older model was the plan, not a fallback. The title of a fallback, a foreign submission and
    a receipt stays the same from attempt to attempt, so that a caller can leave out what was told before.
    """
    found = [_failure(result, now_utc), _fallback(result, train), _foreign(result)]
    if config.receipts:
        found.append(_receipts(result))
    return [alarm for alarm in found if alarm is not None]


def missed(opened: Round, slots: Iterable[str], now_utc: datetime, what: str) -> Alarm:
    """The alarm for slots that have no verified receipt although an attempt should have made one.

    `what` is a sentence: how that was found and what is being done about it.
    """
    return Alarm(
        kind="missed",
        round=opened.number,
        title=_title(f"round {opened.number} has no verified submission yet", opened.closes_at_utc, now_utc),
        body=_body(
            [f"{_named(list(slots))}: no verified submission for round {opened.number}", what],
            means=_at_stake(opened.number, opened.closes_at_utc, now_utc),
            do=_rescue(opened.closes_at_utc, now_utc),
        ),
    )


def was_told(alarm: Alarm, notes: Iterable[AlarmNote], now_utc: datetime) -> bool:
    """Whether somebody was told the same already, of the same round; of no round, a short while ago."""
    same = [note for note in notes if note.told and (note.round, note.title) == (alarm.round, alarm.title)]
    return any(alarm.round is not None or now_utc - datetime.fromisoformat(note.at_utc) < QUIET for note in same)


def _failure(result: RoundResult, now_utc: datetime) -> Alarm | None:
    wrong = [receipt for receipt in result.receipts if receipt.exit_code and not _waits(receipt)]
    error = result.error if result.error and not (result.round is None and result.error["code"] in NO_ROUND) else None
    judged = verdict(result, now_utc)
    if not wrong and not error and judged.kind != "late":
        return None
    closes = utc_moment(result.closes_at_utc)
    told = [str(error["message"])] if error else []
    told += _by_text(wrong, lambda receipt: f"{receipt.status}: {receipt.error_message}")
    if not told:
        told = [judged.sentence]
    here = f"round {result.round}" if result.round is not None else "a run"
    state = "was sent late" if judged.kind == "late" else "is not safe" if result.round is not None else "stopped"
    return Alarm(
        kind="failure",
        round=result.round,
        title=_title(f"{here} {state}", closes, now_utc),
        body=_body(told, means=_at_stake(result.round, closes, now_utc), do=_rescue(closes, now_utc)),
    )


def _waits(receipt: Receipt) -> bool:
    """Left out because no round was open: there was nothing to miss."""
    return receipt.status == "skipped" and receipt.round is None and receipt.error_code in NO_ROUND


def _fallback(result: RoundResult, train: bool) -> Alarm | None:
    expected = {"fresh"} if train else {"fresh", "older-model"}
    found = [r for r in result.receipts if r.submission_id and r.source and r.source not in expected]
    if not found:
        return None
    return Alarm(
        kind="fallback",
        round=result.round,
        title=_title(f"round {result.round} was sent with a fallback"),
        body=_body(
            _by_text(found, _stand_in),
            means="A submission stands, from something older than this week's model.",
            do="Look at `eraflow status` for what kept the fresh model from being ready; `eraflow weekly --resubmit`"
            " before the deadline replaces it.",
        ),
    )


def _stand_in(receipt: Receipt) -> str:
    model = f" ({receipt.model_id})" if receipt.model_id else ""
    what = "the benchmark predictions" if receipt.source == "benchmark" else f"an older model{model}"
    why = f": {receipt.note}" if receipt.note else ""
    return f"sent with {what} instead of a fresh model{why}"


def _foreign(result: RoundResult) -> Alarm | None:
    found = [r for r in result.receipts if r.status == "already-submitted" and r.origin == "foreign"]
    if not found:
        return None
    return Alarm(
        kind="foreign",
        round=result.round,
        title=_title(f"round {result.round} has a submission that eraflow did not make"),
        body=_body(
            [f"{_named([r.slot for r in found])}: a submission stands that this machine's ledger does not know"],
            means="It was uploaded by hand, by another machine, or by this one before its ledger was lost. Nothing was"
            " sent over it.",
            do="If you know it, nothing. If it should be eraflow's, run `eraflow weekly --resubmit` before the"
            " deadline. If nobody of yours made it, replace the account's keys.",
        ),
    )


def _receipts(result: RoundResult) -> Alarm | None:
    found = [receipt for receipt in result.receipts if is_verified(receipt)]
    if not found:
        return None
    return Alarm(
        kind="receipt",
        round=result.round,
        title=_title(f"round {result.round}: {len(found)} of {len(result.receipts)} slots verified"),
        body=_body(
            [f"slot {r.slot}: {r.status}, verified by {r.verified}, submission {r.submission_id}" for r in found],
            means="The tournament holds these submissions.",
            do="Nothing.",
        ),
    )


def _title(claim: str, closes_at_utc: datetime | None = None, now_utc: datetime | None = None) -> str:
    title = f"eraflow: {claim}"
    if closes_at_utc is None or now_utc is None:
        return title
    left_s = (closes_at_utc - now_utc).total_seconds()
    text = duration_text(left_s)
    return f"{title}, {text} left" if left_s > 0 else f"{title}, the deadline passed {text} ago"


def _at_stake(number: int | None, closes_at_utc: datetime | None, now_utc: datetime) -> str:
    if number is None:
        return "If a round is open, it has no submission from this run."
    if closes_at_utc is None:
        return f"Slots without a verified submission earn nothing in round {number}."
    deadline = f"{closes_at_utc:%A %Y-%m-%d %H:%M} UTC"
    if closes_at_utc > now_utc:
        return f"Slots that have no verified submission by {deadline} earn nothing in round {number}."
    return f"The deadline was {deadline}: what was not verified before it earns nothing in round {number}."


def _rescue(closes_at_utc: datetime | None, now_utc: datetime) -> str:
    if closes_at_utc is not None and closes_at_utc <= now_utc:
        return "This round can't be saved. Run `eraflow doctor` and `eraflow status`, so that the next one is."
    return (
        "Look at `eraflow status`; run `eraflow weekly` if no attempt is at work. `eraflow doctor` tells what is wrong"
        " with this machine or the keys."
    )


def _by_text(receipts: Sequence[Receipt], text: Callable[[Receipt], str]) -> list[str]:
    """One line for all slots that met the same."""
    slots: dict[str, list[str]] = {}
    for receipt in receipts:
        slots.setdefault(text(receipt), []).append(receipt.slot)
    return [f"{_named(names)}: {what}" for what, names in slots.items()]


def _named(slots: Sequence[str]) -> str:
    more = f" and {len(slots) - SHOWN} more" if len(slots) > SHOWN else ""
    return f"slot{'' if len(slots) == 1 else 's'} {', '.join(name[:60] for name in slots[:SHOWN])}{more}"


def _body(happened: Sequence[str], *, means: str, do: str) -> str:
    more = [f"and {len(happened) - SHOWN} more"] if len(happened) > SHOWN else []
    lines = [f"- {without_secrets(line)}" for line in [*happened[:SHOWN], *more]]
    return "\n".join(["What happened:", *lines, f"What it means: {means}", f"What to do now: {do}"])
