"""The round as one HTML page that needs no network, and `week.png`, its picture for a glance.

Read `write_report`, then `page`: a section each for the verdict, the round, the receipts, the checks, each model,
and what it cost. Every text is escaped, no script runs, and a picture that can't be drawn is said and costs no
more than itself. The same result gives the same bytes; no key, address or path of a file is on it.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from eraflow.errors import EraflowError
from eraflow.pictures import CHECK, DASH, TIMES, figure_text, training_png, validation_png
from eraflow.receipt import Receipt
from eraflow.result import STAGES, ModelReport, RoundResult
from eraflow.rounds import duration_text
from eraflow.store import write_atomically
from eraflow.verdict import Verdict, is_late, proof_text, utc_moment, verdict
from eraflow.week_picture import LOOKS, kind_of, status_text, verified_text, week_png

__all__ = ["page", "training_png", "validation_png", "week_png", "write_report"]

FIGURES = {
    "spearman_mean": "mean era Spearman",
    "spearman_std": "standard deviation over eras",
    "sharpe": "Sharpe",
    "max_drawdown": "largest drawdown",
    "numerai_corr_mean": "mean Numerai CORR",
}
# A browser that follows it fetches nothing, whatever a text holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --page: #f5f7f9; --sheet: #fff; --ink: #18212b; --muted: #56616d; --rule: #dfe4e9;
  --safe: #00795c; --unsafe: #b84a00; --bar: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --page: #11161c; --sheet: #1a2129; --ink: #e8ecf0; --muted: #9aa6b2;
  --rule: #2f3944; --safe: #4cc9a5; --unsafe: #ff9d5c; --bar: #56b4e9; } }
@media print { :root { color-scheme: light; --page: #fff; --sheet: #fff; --ink: #000; --muted: #444; --rule: #bbb;
  --safe: #00513d; --unsafe: #8a3600; --bar: #0072b2; }
  section { break-inside: avoid; } body { max-width: none !important; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
section, header { background: var(--sheet); border: 1px solid var(--rule); border-radius: 12px; padding: 1.25rem 1.5rem;
  margin: 0 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; } p { margin: .4rem 0; } .muted { color: var(--muted); }
.safe { color: var(--safe); } .unsafe, .late { color: var(--unsafe); } .nothing { color: var(--muted); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: 0 0 .4rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem 1.25rem .4rem 0; border-top: 1px solid var(--rule); }
thead th { border-top: 0; color: var(--muted); font-weight: 400; white-space: nowrap; } tbody th { font-weight: 600; }
.number { text-align: right; white-space: nowrap; } table.pairs { width: auto; }
tbody th .muted { font-weight: 400; } .bar { display: block; width: 6rem; margin-top: .42rem; }
.bar span { display: block; height: .7rem; border-radius: 2px; background: var(--bar); print-color-adjust: exact; }
@media (max-width: 40rem) { .bar, tbody th .muted { display: none; } }
table.pairs th { font-weight: 400; color: var(--muted); }
tr.more td { border-top: 0; padding-top: 0; } tbody:first-child tr:first-child > * { border-top: 0; }
tbody th { overflow-wrap: anywhere; min-width: 9rem; } .wide + .wide { margin-top: 1.25rem; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .875em; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; margin: .75rem 0; }
"""

PAGE = "report.html"


class Markup(str):
    """Text that is HTML already; everything else is escaped."""

    __slots__ = ()


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
        _section("Round and deadline", _round(result)),
        _section("Receipts", _receipts(result.receipts)),
        _section("Checks before sending", _checks(result.receipts)),
        *(_section(f"Model {model.recipe}", _model(model)) for model in result.models),
        _section("Time and memory", _cost(result)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{_escaped(found.claim)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _header(result: RoundResult, found: Verdict) -> Markup:
    sign = LOOKS[found.kind][2]
    lines = [f'<h1><span class="{found.kind}" aria-hidden="true">{sign}</span> {_escaped(found.claim)}</h1>']
    if found.detail:
        lines.append(f"<p>{_escaped(found.detail)}</p>")
    if found.reason:
        lines.append(f'<p class="unsafe">{_escaped(found.reason)}</p>')
    if proof := proof_text(result.receipts):
        lines.append(f'<p class="muted">{_escaped(proof)}</p>')
    return Markup("<header>\n" + "\n".join(lines) + "\n</header>")


def _round(result: RoundResult) -> Markup:
    if result.round is None and result.opens_at_utc is None:
        return Markup("<p>No round of the tournament: local files were used, or none was open.</p>")
    opens, closes = utc_moment(result.opens_at_utc), utc_moment(result.closes_at_utc)
    window = duration_text((closes - opens).total_seconds()) if opens and closes else None
    return _pairs(
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
    return _table(headings, rows)


def _receipt_row(receipt: Receipt) -> list[object]:
    kind = kind_of(receipt)
    slot = Markup(f'<span class="{kind}" aria-hidden="true">{LOOKS[kind][2]}</span> {_escaped(receipt.slot)}')
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
        codes = f"submission {_code(receipt.submission_id)}<br>sha256 {_code(receipt.sha256 or 'unknown')}"
        lines.append(f'<span class="muted">{codes}</span>')
    if receipt.error_message:
        lines.append(f'<span class="{kind_of(receipt)}">{_escaped(_error_text(receipt))}</span>')
    return [Markup(f'<tr class="more"><td colspan="{columns}">{line}</td></tr>') for line in lines]


def _error_text(receipt: Receipt) -> str:
    code = f"{receipt.error_code}: " if receipt.error_code else ""
    return f"{code}{receipt.error_message}"


def _checks(receipts: Sequence[Receipt]) -> Markup | None:
    """A table a slot; None where nothing was sent, so nothing was judged."""
    tables = [
        _table(
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


def _model(model: ModelReport) -> Markup:
    found = model.validation
    facts: list[tuple[str, object]] = [
        ("model", _code(model.model_id)),
        ("trained on", f"{model.rows:,} rows {TIMES} {model.features:,} features"),
        ("target", model.target),
        ("length", f"{model.epochs} epochs" if model.epochs else "by steps"),
        ("device", model.device),
        ("reported on", "a hold-out" + ("; then fitted again on all labelled eras" if model.refit else "")),
        ("eras scored", found.get("eras")),
        ("eras undefined", found.get("undefined")),
        *((name, figure_text(found.get(key))) for key, name in FIGURES.items()),
        ("untrained mean era Spearman", figure_text(model.untrained_spearman) + _sample_text(model)),
    ]
    if model.speed_text:
        facts.append(("speed of its training", model.speed_text))
    parts = [_pairs(facts)]
    parts += [_picture(f"Training curve of {model.recipe}", training_png, model)]
    parts += [_picture(f"Spearman by era of {model.recipe}", validation_png, model)]
    if model.notes:
        notes = "\n".join(f"<li>{_escaped(note)}</li>" for note in model.notes)
        parts.append(Markup(f"<h3>Notes</h3>\n<ul>\n{notes}\n</ul>"))
    return Markup("\n".join(parts))


def _sample_text(model: ModelReport) -> str:
    """What the untrained network was judged on, where that is less than the model was."""
    eras = model.untrained_eras
    judged = model.validation.get("eras", 0) + model.validation.get("undefined", 0)
    return f", on {eras} of its eras, evenly spread" if eras and eras < judged else ""


def _picture(text: str, draw: Callable[[ModelReport], bytes], model: ModelReport) -> Markup:
    try:
        data = base64.b64encode(draw(model)).decode()
    except EraflowError as error:
        return Markup(f'<p class="muted">{_escaped(text)} cannot be drawn ({_escaped(error.code)}).</p>')
    return Markup(f'<img alt="{_escaped(text)}" src="data:image/png;base64,{data}">')


def _cost(result: RoundResult) -> Markup:
    """Where the time and the memory went: a row a stage, with its share of the time and of the largest memory."""
    largest, between_s = result.peak_rss_bytes, result.between_stages_s
    whole_s = sum(cost.seconds for cost in result.costs.values()) if result.wall_s is None else result.wall_s
    rows = [
        [
            _stage(stage, STAGES.get(stage, "")),
            _number(f"{cost.seconds:,.1f}"),
            _bar(result.share_of_time(stage)),
            _number(DASH if cost.peak_rss_bytes is None else _size(cost.peak_rss_bytes)),
            _bar(cost.peak_rss_bytes / largest if cost.peak_rss_bytes and largest else 0.0),
            _number(DASH if cost.peak_anonymous_bytes is None else _size(cost.peak_anonymous_bytes)),
        ]
        for stage, cost in result.costs.items()
    ]
    if between_s is not None:
        rows.append([_stage("between", "the stages"), _number(f"{between_s:,.1f}"), *[Markup()] * 4])
    sizes = [_number(_size(size)) for size in (largest, result.peak_anonymous_bytes)]
    told = _stage("all", "until this page was drawn")
    rows.append([told, _number(f"{whole_s:,.1f}"), Markup(), sizes[0], Markup(), sizes[1]])
    headings = ("stage", _number("seconds"), "", _number("memory"), "", _number("of its own"))
    caption = "Memory is the most that was held at once, maps of files included; of its own is without those."
    return _table(headings, rows, caption=caption)


def _stage(name: str, what: str) -> Markup:
    return Markup(f'{_escaped(name)} <span class="muted">{_escaped(what)}</span>')


def _bar(share: float) -> Markup:
    return Markup(f'<span class="bar" aria-hidden="true"><span style="width: {min(share, 1.0):.1%}"></span></span>')


def _section(title: str, body: Markup | None) -> Markup | None:
    return None if body is None else Markup(f"<section>\n<h2>{_escaped(title)}</h2>\n{body}\n</section>")


def _pairs(pairs: Iterable[tuple[str, object]]) -> Markup:
    rows = "\n".join(f'<tr><th scope="row">{_escaped(name)}</th><td>{_cell(value)}</td></tr>' for name, value in pairs)
    return Markup(f'<div class="wide"><table class="pairs"><tbody>\n{rows}\n</tbody></table></div>')


def _table(
    headings: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str | None = None, kind: str = ""
) -> Markup:
    """A table whose first column names the row; a row that is `Markup` is put in as it is."""
    head = "".join(_data_cell(heading, "th scope=col") for heading in headings)
    body = "\n".join(row if isinstance(row, Markup) else _row(row) for row in rows)
    told = f"<caption>{_escaped(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="wide"><table class="{kind}">{told}<thead><tr>{head}</tr></thead><tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def _row(row: Sequence[object]) -> str:
    return f'<tr><th scope="row">{_cell(row[0])}</th>{"".join(_data_cell(value) for value in row[1:])}</tr>'


class _Number(Markup):
    """A cell that stands on the right."""

    __slots__ = ()


def _number(text: str) -> _Number:
    return _Number(_escaped(text))


def _data_cell(value: object, tag: str = "td") -> str:
    return f"<{tag}{' class=number' if isinstance(value, _Number) else ''}>{_cell(value)}</{tag[:2]}>"


def _cell(value: object) -> str:
    if isinstance(value, Markup):
        return value
    return DASH if value is None else _escaped(str(value))


def _code(text: str | None) -> Markup:
    return Markup(f"<code>{_escaped(text or DASH)}</code>")


def _moment(text: str | None) -> str:
    moment = utc_moment(text)
    return DASH if moment is None else f"{moment:%a %Y-%m-%d %H:%M:%S} UTC"


def _size(size_bytes: int | None) -> str:
    return "not told by this system" if size_bytes is None else f"{size_bytes / 2**20:,.0f} MiB"


def _escaped(text: str) -> str:
    return html.escape(str(text), quote=True)
