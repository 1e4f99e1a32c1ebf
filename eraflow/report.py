"""The round as one HTML page that needs no network, and `week.png`, its picture for a glance.

Read `write_report`, then `page`: a section each for the verdict, the round, the receipts, the checks, each model
(`model_section`), and what it cost. The shell and its parts are `html`'s. Every text is escaped, no script runs, and a
chart that can't be drawn is said and costs no more than itself. The same result gives the same bytes; no key, address
or path of a file is on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eraflow.html import (
    Markup,
    bar,
    code,
    document,
    escaped,
    numeric,
    pairs,
    section,
    table,
)
from eraflow.model_section import FIGURES, model_section
from eraflow.pictures import CHECK, DASH, TIMES, training_png, validation_png
from eraflow.receipt import Receipt
from eraflow.result import STAGES, RoundResult
from eraflow.rounds import duration_text
from eraflow.store import write_atomically
from eraflow.verdict import Verdict, is_late, proof_text, utc_moment, verdict
from eraflow.week_picture import LOOKS, kind_of, status_text, verified_text, week_png

__all__ = ["FIGURES", "page", "training_png", "validation_png", "week_png", "write_report"]

PAGE = "report.html"


def write_report(result: RoundResult, folder: Path) -> Path:
    """Write `folder/week.png` and `folder/report.html`, each whole or not at all; returns the page's path.

    Raises `StorageError` if the folder cannot be written.
    """
    write_atomically(folder / "week.png", week_png(result))
    path = folder / PAGE
    write_atomically(path, page(result).encode())
    return path


def page(result: RoundResult) -> str:
    """The whole page."""
    found = verdict(result)
    parts = [
        _header(result, found),
        section("Round and deadline", _round(result)),
        section("Receipts", _receipts(result.receipts)),
        section("Checks before sending", _checks(result.receipts)),
        *(section(f"Model {model.recipe}", model_section(model)) for model in result.models),
        section("Time and memory", _cost(result)),
    ]
    return document(found.claim, parts)


def _header(result: RoundResult, found: Verdict) -> Markup:
    sign = LOOKS[found.kind][2]
    lines = [f'<h1><span class="{found.kind}" aria-hidden="true">{sign}</span> {escaped(found.claim)}</h1>']
    if found.detail:
        lines.append(f"<p>{escaped(found.detail)}</p>")
    if found.reason:
        lines.append(f'<p class="unsafe">{escaped(found.reason)}</p>')
    if proof := proof_text(result.receipts):
        lines.append(f'<p class="muted">{escaped(proof)}</p>')
    return Markup("<header>\n" + "\n".join(lines) + "\n</header>")


def _round(result: RoundResult) -> Markup:
    if result.round is None and result.opens_at_utc is None:
        return Markup("<p>No round of the tournament: local files were used, or none was open.</p>")
    opens, closes = utc_moment(result.opens_at_utc), utc_moment(result.closes_at_utc)
    window = duration_text((closes - opens).total_seconds()) if opens and closes else None
    return pairs(
        [
            ("round", result.round),
            ("opened", _moment(result.opens_at_utc)),
            ("on-time deadline", _moment(result.closes_at_utc)),
            ("open for", window),
        ]
    )


def _receipts(receipts: Sequence[Receipt]) -> Markup:
    if not receipts:
        return Markup("<p>No slot was named, so nothing was submitted.</p>")
    headings = ("slot", "recipe", "status", "verified", "sent (UTC)", "to the deadline")
    rows: list[Sequence[object]] = []
    for receipt in receipts:
        rows += [_receipt_row(receipt), *_receipt_details(receipt, len(headings))]
    return table(headings, rows)


def _receipt_row(receipt: Receipt) -> list[object]:
    kind = kind_of(receipt)
    slot = Markup(f'<span class="{kind}" aria-hidden="true">{LOOKS[kind][2]}</span> {escaped(receipt.slot)}')
    source = f" ({receipt.source})" if receipt.source not in (None, "fresh") else ""
    left = None
    if receipt.left_s is not None:
        left = f"{duration_text(receipt.left_s)} {'late' if is_late(receipt) else 'to spare'}"
    sent = _moment(receipt.sent_at_utc).removesuffix(" UTC")
    return [slot, receipt.recipe + source, status_text(receipt), verified_text(receipt), sent, left]


def _receipt_details(receipt: Receipt, columns: int) -> list[Markup]:
    """What is too long for a column, each as a row of its own across the table."""
    lines = []
    if receipt.submission_id:
        codes = f"submission {code(receipt.submission_id)}<br>sha256 {code(receipt.sha256 or 'unknown')}"
        lines.append(f'<span class="muted">{codes}</span>')
    if receipt.error_message:
        lines.append(f'<span class="{kind_of(receipt)}">{escaped(_error_text(receipt))}</span>')
    return [Markup(f'<tr class="more"><td colspan="{columns}">{line}</td></tr>') for line in lines]


def _error_text(receipt: Receipt) -> str:
    code = f"{receipt.error_code}: " if receipt.error_code else ""
    return f"{code}{receipt.error_message}"


def _checks(receipts: Sequence[Receipt]) -> Markup | None:
    """A table a slot; None where nothing was sent, so nothing was judged."""
    tables = [
        table(
            ("check", "must be", "found", "passed"),
            [[c.name, c.must, c.found, _passed(c.passed)] for c in receipt.checks],
            caption=f"Slot {receipt.slot}",
        )
        for receipt in receipts
        if receipt.checks
    ]
    return Markup("\n".join(tables)) if tables else None


def _passed(passed: bool) -> Markup:
    kind, text = ("safe", f"{CHECK} yes") if passed else ("unsafe", f"{TIMES} no")
    return Markup(f'<span class="{kind}">{text}</span>')


def _cost(result: RoundResult) -> Markup:
    """Where the time and the memory went: a row a stage, with its share of the time and of the largest memory."""
    largest, between_s = result.peak_rss_bytes, result.between_stages_s
    whole_s = sum(cost.seconds for cost in result.costs.values()) if result.wall_s is None else result.wall_s
    rows = [
        [
            _stage(stage, STAGES.get(stage, "")),
            numeric(f"{cost.seconds:,.1f}"),
            bar(result.share_of_time(stage)),
            numeric(DASH if cost.peak_rss_bytes is None else _size(cost.peak_rss_bytes)),
            bar(cost.peak_rss_bytes / largest if cost.peak_rss_bytes and largest else 0.0),
            numeric(DASH if cost.peak_anonymous_bytes is None else _size(cost.peak_anonymous_bytes)),
        ]
        for stage, cost in result.costs.items()
    ]
    if between_s is not None:
        rows.append([_stage("between", "the stages"), numeric(f"{between_s:,.1f}"), *[Markup()] * 4])
    sizes = [numeric(_size(size)) for size in (largest, result.peak_anonymous_bytes)]
    told = _stage("all", "until this page was drawn")
    rows.append([told, numeric(f"{whole_s:,.1f}"), Markup(), sizes[0], Markup(), sizes[1]])
    headings = ("stage", numeric("seconds"), "", numeric("memory"), "", numeric("of its own"))
    caption = "Memory is the most that was held at once, maps of files included; of its own is without those."
    return table(headings, rows, caption=caption)


def _stage(name: str, what: str) -> Markup:
    return Markup(f'{escaped(name)} <span class="muted">{escaped(what)}</span>')


def _moment(text: str | None) -> str:
    moment = utc_moment(text)
    return DASH if moment is None else f"{moment:%a %Y-%m-%d %H:%M:%S} UTC"


def _size(size_bytes: int | None) -> str:
    return "not told by this system" if size_bytes is None else f"{size_bytes / 2**20:,.0f} MiB"
