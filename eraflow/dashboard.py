"""What the dashboard answers: a sentence and a page of Markdown for each question that a user has. No Prefect here.

    week              is this week safe?
    data              what do the files hold, and what changed?
    model-<recipe>    how good is the model, and the last one?
    scores            how did past rounds score?

Read `week_begins` and `week_ends` first. The sentence stands on the card in the list of artifacts, whose room is
some forty characters: what matters comes first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo

from eraflow.comparison import Pair, compared, last_model
from eraflow.errors import NO_ROUND, EraflowError
from eraflow.files import Files
from eraflow.inventory import Inventory, change_text, take
from eraflow.known import remember
from eraflow.markdown import Markup, code, escaped, picture, table
from eraflow.measure import Cost
from eraflow.pictures import CHECK, DASH, TIMES, figure_text
from eraflow.receipt import Receipt
from eraflow.report import FIGURES, training_png, validation_png, week_png
from eraflow.request import Request
from eraflow.result import ModelReport, RoundResult
from eraflow.rounds import Round
from eraflow.store import Store, utc_text
from eraflow.trained import Trained, load
from eraflow.verdict import Kind, counted_text, is_verified, utc_moment, verdict
from eraflow.week_picture import kind_of, status_text, verified_text

SIGNS: dict[Kind, str] = {"safe": CHECK, "late": "!", "unsafe": TIMES, "nothing": DASH}
# Of a slot that has yet to be sent, by `status.receipt_of`.
NOTHING_SENT = "nothing-sent"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one question."""

    key: str
    """Stable: a-z, 0-9 and dashes."""
    sentence: str
    """The answer in words, without Markdown."""
    markdown: str


# Is this week safe?


def week_begins(opened: Round, receipts: Sequence[Receipt]) -> Answer | None:
    """The week while a run is at work on it, by what is known already; None if all of it is safe."""
    verified = sum(map(is_verified, receipts))
    if verified == len(receipts):
        return None
    claim = f"Round {opened.number} is not safe yet"
    detail = f"{verified} of {counted_text(len(receipts), 'slot')} verified, a run is at work"
    parts = [f"## {claim}", detail, _times(opened.opens_at_utc, opened.closes_at_utc), *_receipts(receipts)]
    return Answer(key="week", sentence=f"{claim}: {detail}", markdown="\n\n".join(parts))


def week_ends(request: Request, result: RoundResult, now_utc: datetime) -> Answer | None:
    """The week when a run is over; None if it has nothing to say of it, and what was said before stays.

    A run that could not reach the tournament knows less than the ledger: then that tells which round is open, and
    which of its slots are safe.
    """
    if not request.submit or not request.config.slots:
        return None
    if result.round is not None:
        return week_answer(result)
    if result.error and result.error["code"] in NO_ROUND and not request.wait_s:
        return None  # nobody waited for one
    try:
        known = remember(request, now_utc)
    except EraflowError:
        known = None
    if known is None:
        return week_answer(result)
    if not known.missing(request):
        return None
    opened, now = known.round, {receipt.slot: receipt for receipt in result.receipts}
    return week_answer(
        replace(
            result,
            round=opened.number,
            opens_at_utc=utc_text(opened.opens_at_utc),
            closes_at_utc=utc_text(opened.closes_at_utc),
            receipts=tuple(one if is_verified(one) else now.get(slot, one) for slot, one in known.receipts.items()),
        )
    )


def is_repetition(result: RoundResult) -> bool:
    """Whether the run found everything done, so that the one that did it has said all there is to say."""
    return verdict(result).kind in ("safe", "late") and all(r.status == "already-submitted" for r in result.receipts)


def week_answer(result: RoundResult) -> Answer:
    """The verdict, the picture, the times and the receipts."""
    found = verdict(result)
    opens, closes = utc_moment(result.opens_at_utc), utc_moment(result.closes_at_utc)
    parts = [
        f"## {SIGNS[found.kind]} {escaped(found.claim)}",
        f"**{escaped(found.reason)}**" if found.reason else "",
        picture("the week", lambda: week_png(result)),
        _times(opens, closes) if opens and closes else "",
        *_receipts(result.receipts, told=found.reason),
        _costs(result),
    ]
    return Answer(key="week", sentence=found.sentence, markdown="\n\n".join(filter(None, parts)))


def _times(opens: datetime, closes: datetime, zone: tzinfo | None = None) -> str:
    """Opening and deadline in UTC and on this machine's clock (in `zone`, if one is given)."""
    here = closes.astimezone(zone)
    rows = [
        [name, _moment(moment.astimezone(UTC)), _moment(moment.astimezone(zone))]
        for name, moment in (("opened", opens), ("on-time deadline", closes))
    ]
    return table(["", "UTC", f"this machine ({here:%Z})"], rows)


def _moment(moment: datetime) -> str:
    return f"{moment:%a} {moment.day} {moment:%b %Y, %H:%M}"


def _receipts(receipts: Sequence[Receipt], told: str | None = None) -> list[str]:
    """Two tables, because one would be too wide for the page, and what else there is to say of a slot."""
    if not receipts:
        return []
    rows = [_receipt_row(receipt) for receipt in receipts]
    parts = [table(["slot", "recipe", "source", "status", "verified", "sent (UTC)"], rows)]
    if sent := [receipt for receipt in receipts if receipt.submission_id]:
        codes = [[r.slot, code(r.submission_id or ""), code((r.sha256 or "unknown")[:12])] for r in sent]
        parts.append(table(["slot", "submission", "sha256"], codes))
    said = [(r.slot, text) for r in receipts for text in _said(r) if text != told]
    if said:
        parts.append("\n".join(f"- {escaped(slot)}: {escaped(text)}" for slot, text in said))
    return parts


def _receipt_row(receipt: Receipt) -> list[object]:
    sent = utc_moment(receipt.sent_at_utc)
    waits = receipt.error_code == NOTHING_SENT
    return [
        Markup(f"{DASH if waits else SIGNS[kind_of(receipt)]} {escaped(receipt.slot)}"),
        receipt.recipe,
        (receipt.source or DASH).replace("-", " "),
        "not sent yet" if waits else status_text(receipt),
        verified_text(receipt),
        f"{sent:%a %H:%M:%S}" if sent else DASH,
    ]


def _costs(result: RoundResult) -> str:
    """Where the time and the memory of the run went; nothing where it did nothing."""
    if not result.costs or result.wall_s is None:
        return ""
    rows = [
        [stage, f"{cost.seconds:,.1f}", "█" * round(12 * result.share_of_time(stage)), *_sizes(cost)]
        for stage, cost in result.costs.items()
    ]
    rows += [
        ["between the stages", f"{result.between_stages_s:,.1f}", "", "", ""],
        ["all", f"{result.wall_s:,.1f}", "", *_sizes(result)],
    ]
    return "### Time and memory\n\n" + table(["stage", "seconds", "", "memory at most", "of its own"], rows)


def _sizes(of: Cost | RoundResult) -> list[str]:
    """The most of all memory, and without maps of files."""
    sizes = (of.peak_rss_bytes, of.peak_anonymous_bytes)
    return [DASH if size is None else f"{size / 2**20:,.0f} MiB" for size in sizes]


def _said(receipt: Receipt) -> list[str]:
    """What went wrong, and why something other than a fresh model predicted."""
    waits = receipt.error_code == NOTHING_SENT
    return [text for text in (None if waits else receipt.error_message, receipt.note) if text]


# What do the files hold?


def data(files: Files, store: Store) -> Answer:
    """What the files of the round hold, and what changed since the last one."""
    found, last = take(files, store)
    return data_answer(found, last)


def data_answer(found: Inventory, last: Inventory | None) -> Answer:
    """The same of what was found."""
    where = f"round {found.round}" if found.round is not None else "local files"
    changes = {held.name: change_text(held, last.find(held.name) if last else None) for held in found.held}
    since = f"since round {last.round}" if last else "since the last round"
    rows = [
        [
            held.name,
            DASH if held.rows is None else f"{held.rows:,}",
            DASH if held.eras is None else f"{held.eras:,}",
            held.newest_era or DASH,
            f"{held.columns:,}",
            changes[held.name],
        ]
        for held in found.held
    ]
    headings = ["file", "rows", "eras", "newest era", "columns", since]
    codes = [[held.name, f"{held.size_bytes / 1e6:,.1f} MB", code(held.sha256[:12])] for held in found.held]
    new = sum(change != "unchanged" for change in changes.values())
    told = (
        f"{new} of {len(changes)} files are new"
        if last
        else f"{counted_text(len(changes), 'file')}, nothing to compare with yet"
    )
    parts = [f"### The files of {where}", table(headings, rows), table(["file", "size", "sha256"], codes)]
    return Answer(key="data", sentence=f"{where.capitalize()}: {told}", markdown="\n\n".join(parts))


# How good is the model?


def model(report: ModelReport) -> Answer:
    """A model with its pictures, against the last one of its recipe. Raises `StorageError` if its folder has gone."""
    made = load(report.folder)
    last = last_model(made)
    mean = figure_text(made.validation.spearman_mean)
    beside = f"last {figure_text(last.validation.spearman_mean)}" if last else "first model of its recipe"
    parts = [
        f"### {escaped(report.recipe)}",
        _trained_text(report),
        picture("the training curve", lambda: training_png(report)),
        picture("Spearman by era", lambda: validation_png(report)),
        _figures(made, last),
        "\n".join(f"- {escaped(note)}" for note in report.notes),
    ]
    return Answer(
        key=f"model-{re.sub('[^a-z0-9]+', '-', report.recipe.lower()).strip('-')}",
        sentence=f"Mean era Spearman {mean}, {beside}",
        markdown="\n\n".join(filter(None, parts)),
    )


def _trained_text(report: ModelReport) -> str:
    fitted = "; fitted again on all labelled eras" if report.refit else ""
    cut = "; **its training was cut to be in time**" if report.cut else ""
    speed = f"; {escaped(report.speed_text)}" if report.speed_text else ""
    return (
        f"Model {code(report.model_id)}: {report.rows:,} rows, {report.features:,} features, target"
        f" {escaped(report.target)}, on {escaped(report.device)}{speed}{fitted}{cut}"
    )


def _figures(made: Trained, last: Trained | None) -> str:
    """The figures on the hold-out, beside those of the last model if there is one."""
    rows: list[list[object]] = [
        ["made", _day(made), _day(last), ""],
        *(_pair_row(pair) for pair in compared(made, last, FIGURES)),
        ["eras scored", made.validation.eras, last.validation.eras if last else DASH, ""],
        ["eras undefined", made.validation.undefined, last.validation.undefined if last else DASH, ""],
    ]
    headings = ["on its hold-out", "this model", "last model", "change"]
    return table(headings, rows) if last else table(headings[:2], [row[:2] for row in rows])


def _day(made: Trained | None) -> str:
    moment = utc_moment(made.made_at_utc) if made else None
    return f"{moment:%Y-%m-%d}" if moment else DASH


def _pair_row(pair: Pair) -> list[object]:
    change = pair.change
    told = "" if change is None else f"{'+' if change >= 0 else ''}{figure_text(change)}"
    return [pair.name, figure_text(pair.now), figure_text(pair.last), told]


# How did past rounds score?


def scores(sentence: str, markdown_table: str, png: bytes | None) -> Answer:
    """What past rounds scored, as a chart and a table."""
    drawn = picture("scores by round", lambda: png) if png else ""
    parts = ["### Scores of past rounds", drawn, markdown_table]
    return Answer(key="scores", sentence=sentence, markdown="\n\n".join(filter(None, parts)))
