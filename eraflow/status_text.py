"""The status in words and as JSON. Asks and reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from eraflow import result
from eraflow.receipt import Receipt
from eraflow.result import RoundResult
from eraflow.rounds import duration_text
from eraflow.status import ModelInUse, Status
from eraflow.store import utc_text
from eraflow.verdict import is_late, is_verified, utc_moment, verdict


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Is this week safe?"""

    safe: bool | None
    """None where nothing has to be safe, or where that is not known."""
    sentence: str


def answer(status: Status) -> Answer:
    """The verdict in words, with who says so where it is not the tournament."""
    if status.round is None:
        if status.trouble:
            return Answer(safe=None, sentence=f"Nothing is known of any round: {status.trouble}")
        return Answer(safe=None, sentence="No round is open, and the ledger knows of none")
    judged = verdict(_as_result(status), status.now_utc)
    here = judged.sentence if status.receipts else f"Round {status.round.number} has no slots to submit for"
    safe = judged.kind == "safe" if status.receipts else None
    if status.known_from == "tournament":
        return Answer(safe=safe, sentence=here)
    if status.known_from is None:
        return Answer(safe=safe, sentence=f"No round is open; the last one that was seen: {here}")
    if status.is_open:
        return Answer(safe=safe, sentence=f"{here}; so says the ledger, the tournament could not be asked")
    return Answer(
        safe=None,
        sentence=f"It is not known whether a round is open: {status.trouble}; the last one that was seen: {here}",
    )


def text(status: Status, zone: tzinfo | None = None) -> str:
    """All of it for people; the deadline also in `zone`, by default the machine's."""
    lines = [answer(status).sentence, "", *_round_lines(status, zone)]
    lines += _table("slots", [[r.recipe, r.slot, _state(r, status.now_utc)] for r in status.receipts])
    lines += _table("models", [[m.recipe, *_model_words(m, status.now_utc)] for m in status.models])
    lines += _table(
        "past rounds",
        [[str(p.number), "; ".join(f"{r.slot} {_short(r)}" for r in p.receipts)] for p in status.past],
    )
    lines += _table(
        "next", [[d.deployment, _moment(d.at_utc, zone), _in(d.at_utc, status.now_utc)] for d in status.due]
    )
    lines += ["", _up_line(status)]
    lines += _table("alarms", [[_when(a.at_utc, zone), a.title, _told(a.told)] for a in status.alarms])
    lines += [""] * bool(status.warnings) + [f"warning: {warning}" for warning in status.warnings]
    return "\n".join(lines)


def json_object(status: Status) -> dict[str, Any]:
    """The same with stable keys; `submissions` is as in the JSON of `weekly`."""
    judged, at = answer(status), status.round
    return {
        "safe": judged.safe,
        "verdict": judged.sentence,
        "now_utc": utc_text(status.now_utc),
        "round": at.number if at else None,
        "is_open": status.is_open,
        "opens_at_utc": utc_text(at.opens_at_utc) if at else None,
        "closes_at_utc": utc_text(at.closes_at_utc) if at else None,
        "left_s": round(at.left_s(status.now_utc), 1) if at else None,
        "known_from": status.known_from,
        "trouble": status.trouble,
        "at_work": status.at_work,
        "submissions": _submissions(status.receipts),
        "models": [
            {
                "recipe": m.recipe,
                "model_id": m.model_id,
                "made_at_utc": utc_text(m.made_at_utc),
                "spearman_mean": m.spearman_mean,
                "against": m.against,
            }
            for m in status.models
        ],
        "past": [{"round": p.number, "submissions": _submissions(p.receipts)} for p in status.past],
        "next": [{"deployment": d.deployment, "at_utc": utc_text(d.at_utc)} for d in status.due],
        "up": {"pid": status.up.pid, "url": status.up.url, "answers": status.up.answers} if status.up else None,
        "alarms": [
            {"round": a.round, "kind": a.kind, "title": a.title, "told": a.told, "at_utc": a.at_utc}
            for a in status.alarms
        ],
        "warnings": list(status.warnings),
    }


def _as_result(status: Status) -> RoundResult:
    at = status.round
    return RoundResult(
        round=at.number if at else None,
        closes_at_utc=utc_text(at.closes_at_utc) if at else None,
        receipts=status.receipts,
    )


def _submissions(receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result.json_object(RoundResult(round=None, receipts=tuple(receipts)))["submissions"]
    return found


def _round_lines(status: Status, zone: tzinfo | None) -> list[str]:
    at = status.round
    if at is None:
        return ["round      none"]
    opened = "opened" if at.opens_at_utc <= status.now_utc else "opens"
    work = "; a run is at work on it" if status.at_work else ""
    left_s = at.left_s(status.now_utc)
    left = f"in {duration_text(left_s)}" if left_s > 0 else f"{duration_text(left_s)} ago"
    return [
        f"round      {at.number}, {opened} {_moment(at.opens_at_utc, zone)}{work}",
        f"deadline   {_moment(at.closes_at_utc, zone)}, {left}",
    ]


def _state(receipt: Receipt, now_utc: datetime) -> str:
    if not is_verified(receipt):
        return f"NOT SAFE: {receipt.error_message}"
    sent_at_utc = utc_moment(receipt.sent_at_utc)
    sent = f", sent {_in(sent_at_utc, now_utc)}" if sent_at_utc else ""
    against = ""
    if receipt.left_s is not None:
        against = f", {duration_text(receipt.left_s)} {'AFTER' if is_late(receipt) else 'before'} the deadline"
    source = {"older-model": ", by an older model", "benchmark": ", the benchmark"}.get(receipt.source or "", "")
    return f"verified by {receipt.verified}{sent}{against}{source}"


def _short(receipt: Receipt) -> str:
    if not is_verified(receipt):
        return "not verified" if receipt.submission_id else "not sent"
    source = f" ({receipt.source})" if receipt.source not in (None, "fresh") else ""
    return f"{'late, ' if is_late(receipt) else ''}verified by {receipt.verified}{source}"


def _model_words(model: ModelInUse, now_utc: datetime) -> list[str]:
    score = "undefined" if model.spearman_mean is None else f"{model.spearman_mean:.4f}"
    age_s = (now_utc - model.made_at_utc).total_seconds()
    against = f"; could not stand in: it {model.against}" if model.against else ""
    return [model.model_id, f"{duration_text(age_s)} old, hold-out Spearman {score}{against}"]


def _up_line(status: Status) -> str:
    if status.up is None:
        return "up         does not run for this home: nothing is started by itself, except by a timer of the system"
    if status.up.answers:
        return f"up         runs (process {status.up.pid}), dashboard at {status.up.url}"
    return f"up         runs (process {status.up.pid}), however its server at {status.up.url} does not answer"


def _told(told: int) -> str:
    return f"told to {told}" if told else "TOLD TO NOBODY"


def _when(at_utc: str, zone: tzinfo | None) -> str:
    moment = utc_moment(at_utc)
    return _moment(moment, zone) if moment else at_utc


def _moment(moment: datetime, zone: tzinfo | None) -> str:
    """`Sun 2026-11-22 14:00 UTC (15:00 CET)`; the day too where it is another."""
    in_utc, local = moment.astimezone(UTC), moment.astimezone(zone)
    shown = f"{in_utc:%a %Y-%m-%d %H:%M} UTC"
    if local.utcoffset() == in_utc.utcoffset():
        return shown
    day = f"{local:%a} " if local.date() != in_utc.date() else ""
    return f"{shown} ({day}{local:%H:%M} {local.tzname()})"


def _in(moment: datetime, now_utc: datetime) -> str:
    seconds = (moment - now_utc).total_seconds()
    return f"in {duration_text(seconds)}" if seconds > 0 else f"{duration_text(seconds)} ago"


def _table(name: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines below a heading, all cells but the last of one width; nothing for no rows."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    shown = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return ["", name, *(f"  {line}" for line in shown)]
