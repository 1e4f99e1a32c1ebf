"""The round at a glance: the verdict, a time line from opening to deadline, a row a slot, and the validation.

Each part is a function that draws itself below `y` and returns where the next one begins; `week_png` stacks them
twice, first to learn the height. Units are pixels, y goes down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from eraflow.errors import StorageError
from eraflow.pictures import (
    BLUE,
    CHECK,
    DASH,
    FAINT,
    GREEN,
    INK,
    MUTED,
    PAD,
    PAPER,
    RULE,
    VERMILION,
    WIDTH,
    Card,
    draw_eras,
    eras_text,
    figure_text,
)
from eraflow.receipt import Receipt
from eraflow.result import RoundResult
from eraflow.rounds import duration_text
from eraflow.trained import Trained, load
from eraflow.verdict import Kind, Verdict, is_late, is_verified, proof_text, utc_moment, verdict

LEFT, RIGHT = PAD, WIDTH - PAD
# The picture is for a glance: what doesn't fit stands in the page.
MOST_SLOTS = 12
LABEL_ROOM = 290.0
LOOKS: dict[Kind, tuple[str, str, str]] = {
    "safe": (GREEN, "#d3ebe3", CHECK),
    "late": (VERMILION, "#fbe6d4", "!"),
    "unsafe": (VERMILION, "#fbe6d4", "!"),
    "nothing": (MUTED, RULE, DASH),
}
"""Colour, its tint, and a sign that says the same without colour."""
COLUMNS = (
    (LEFT, "slot", 270),
    (LEFT + 290, "recipe", 150),
    (LEFT + 460, "status", 170),
    (LEFT + 640, "verified", 150),
    (LEFT + 806, "submission", 130),
    (LEFT + 956, "sha256", 132),
)
"""Left edge, heading and room of each column."""


def week_png(result: RoundResult, now_utc: datetime | None = None) -> bytes:
    """The round as one PNG, 1200 px wide; with `now_utc` (UTC-aware) also how much time is left.

    Works for every round: without receipts, without models, failed, or local files without a round.
    """
    card = Card(_draw(Card(400), result, now_utc))
    _draw(card, result, now_utc)
    return card.png()


def _draw(card: Card, result: RoundResult, now_utc: datetime | None) -> float:
    """Everything from top to bottom; returns the height it takes."""
    found = verdict(result, now_utc)
    y = _draw_verdict(card, 0, found, proof_text(result.receipts))
    if span := _span_of(result, now_utc):
        y = _draw_time_line(card, y, span, result.receipts, found)
    if result.receipts:
        y = _draw_slots(card, y, result.receipts, found.reason)
    if made := _first_model(result):
        y = _draw_validation(card, y, made, len(result.models))
    return y + 28


def _draw_verdict(card: Card, y: float, found: Verdict, proof: str) -> float:
    color, _, sign = LOOKS[found.kind]
    _disc(card, LEFT + 31, y + 82, 31, color)
    card.text(LEFT + 31, y + 95, sign, size=36, color=PAPER, bold=True, align="center")
    x = LEFT + 86
    card.text(x, y + (78 if found.detail else 94), found.claim, size=34, bold=True, room=RIGHT - x)
    card.text(x, y + 112, found.detail, size=21, color=INK, room=RIGHT - x)
    y += 112 if found.detail else 104
    for line in card.lines(found.reason or proof, RIGHT - x, size=17, most=3):
        y += 28 if line else 0
        card.text(x, y, line, size=17, color=VERMILION if found.reason else MUTED, room=RIGHT - x)
    return y + 34


@dataclass(frozen=True)
class _Span:
    """The time line: moments and where they lie."""

    opens: datetime
    closes: datetime
    ends: datetime
    """The deadline, or the last thing after it that is shown."""
    now: datetime | None

    def x(self, moment: datetime) -> float:
        share = (moment - self.opens) / (self.ends - self.opens)
        return LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT)


def _span_of(result: RoundResult, now_utc: datetime | None) -> _Span | None:
    """None where the round has no times, or none that make a line."""
    opens, closes = utc_moment(result.opens_at_utc), utc_moment(result.closes_at_utc)
    if opens is None or closes is None or closes <= opens:
        return None
    last = max([closes, *(moment for _, moment in _sent(result.receipts))])
    # Late ones are shown, but a line that is mostly lateness would hide the round.
    ends = min(last + 0.08 * (closes - opens), closes + 0.5 * (closes - opens)) if last > closes else closes
    return _Span(opens, closes, ends, now_utc if now_utc and opens <= now_utc <= ends else None)


def _draw_time_line(card: Card, y: float, span: _Span, receipts: Sequence[Receipt], found: Verdict) -> float:
    sent = _sent(receipts)
    middle = y + (78 if sent else 46)
    closing = span.x(span.closes)
    _bar(card, LEFT, span.x(span.ends), middle, RULE)
    _draw_left(card, span, middle, [moment for _, moment in sent], found.kind)
    _draw_ticks(card, span, middle)
    card.sheet.plot([closing, closing], [middle - 26, middle + 26], color=INK, linewidth=2.5, zorder=3)
    _draw_sent(card, span, middle, sent)
    if span.now is not None:
        x = span.x(span.now)
        card.sheet.plot([x, x], [middle - 22, middle + 22], color=MUTED, linewidth=1.5, linestyle=(0, (2, 2)))
        card.text(x, middle + 43, "now", size=14, color=MUTED, align="center")
    card.text(LEFT, middle + 72, "opened", size=16, color=MUTED)
    card.text(LEFT, middle + 96, _moment_text(span.opens), size=17)
    card.text(closing, middle + 72, "on-time deadline", size=16, color=MUTED, align="right")
    card.text(closing, middle + 96, _moment_text(span.closes), size=17, align="right")
    return middle + 124


def _draw_left(card: Card, span: _Span, y: float, sent: Sequence[datetime], kind: Kind) -> None:
    """The time that a safe round had to spare after its last sending, or that one which is not has left."""
    since = max(sent, default=None) if kind == "safe" else span.now if kind == "unsafe" else None
    if since is None or since >= span.closes:
        return
    color, tint, _ = LOOKS[kind]
    start, end = span.x(since), span.x(span.closes)
    _bar(card, start, end, y, tint)
    what = "to spare" if kind == "safe" else "left"
    text = f"{duration_text((span.closes - since).total_seconds())} {what}"
    if end - start > card.width_of(text, size=17, bold=True) + 60:
        card.text((start + end) / 2, y + 6, text, size=17, color=color, bold=True, align="center")


def _draw_ticks(card: Card, span: _Span, y: float) -> None:
    """Whole hours (or quarters, or days) below the line, as many as fit with room between them."""
    lasts = span.ends - span.opens
    steps = [timedelta(minutes=m) for m in (5, 15, 30, 60, 180, 360, 720, 1440, 2880, 10080)]
    step = next((step for step in steps if lasts / step <= 8), steps[-1])
    midnight = span.opens.replace(hour=0, minute=0, second=0, microsecond=0)
    moment = midnight + step * int((span.opens - midnight) / step + 1)
    while moment < span.ends:
        x = span.x(moment)
        card.sheet.plot([x, x], [y + 19, y + 25], color=FAINT, linewidth=1)
        near_now = span.now is not None and abs(x - span.x(span.now)) < 60
        if not near_now and LEFT + 20 < x < RIGHT - 20:
            day = moment == moment.replace(hour=0, minute=0)
            card.text(
                x, y + 43, f"{moment:%a %H:%M}" if day else f"{moment:%H:%M}", size=14, color=MUTED, align="center"
            )
        moment += step


def _draw_sent(card: Card, span: _Span, y: float, sent: Sequence[tuple[Receipt, datetime]]) -> None:
    """A mark for each sending time, those that would hide each other in two lanes; neighbours share one label."""
    xs = [span.x(moment) for _, moment in sent]
    for i, (receipt, _) in enumerate(sent):
        crowded = any(abs(xs[i] - x) < 13 for j, x in enumerate(xs) if j != i)
        lane = (-8 if i % 2 == 0 else 8) if crowded else 0
        _dot(card, xs[i], y + lane, late=is_late(receipt), verified=is_verified(receipt), edge=0 if crowded else 1.5)
    labelled: list[list[tuple[Receipt, datetime]]] = []
    for entry in sent:
        if labelled and _clamped(span.x(entry[1])) - _clamped(span.x(labelled[-1][0][1])) < LABEL_ROOM:
            labelled[-1].append(entry)
        else:
            labelled.append([entry])
    for group in labelled:
        text = _sent_text(card, group)
        x = _clamped(span.x(group[0][1]), card.width_of(text, size=17))
        card.text(x, y - 36, text, size=17, align="center")


def _clamped(x: float, width: float = LABEL_ROOM) -> float:
    """The middle of a label of this width that is as near to `x` as the card lets it be."""
    return min(max(x, LEFT + width / 2), RIGHT - width / 2)


def _sent_text(card: Card, group: Sequence[tuple[Receipt, datetime]]) -> str:
    """`3 sent Sat 12:08 to 12:11 UTC`, or `main, Sat 12:08 UTC` of a single slot."""
    first, last = group[0][1], group[-1][1]
    if len(group) == 1:
        return f"{card.shortened(group[0][0].slot, 140, size=17)}, {first:%a %H:%M} UTC"
    until = f"{last:%H:%M}" if last.date() == first.date() else f"{last:%a %H:%M}"
    return f"{len(group)} sent {first:%a %H:%M}" + (f" to {until} UTC" if until != f"{first:%H:%M}" else " UTC")


def _draw_slots(card: Card, y: float, receipts: Sequence[Receipt], told: str | None) -> float:
    """A row a slot; an error that is already `told` above is not told again."""
    y += 26
    for x, name, _ in COLUMNS:
        card.text(x, y, name, size=16, color=MUTED)
    y += 14
    for receipt in receipts[:MOST_SLOTS]:
        card.sheet.plot([LEFT, RIGHT], [y, y], color=RULE, linewidth=1)
        y = _draw_slot(card, y, receipt, told)
    if len(receipts) > MOST_SLOTS:
        hidden = receipts[MOST_SLOTS:]
        text = f"and {len(hidden)} more, {sum(map(is_verified, hidden))} of them verified"
        card.text(LEFT + 34, y + 26, text, size=17, color=MUTED)
        y += 40
    return y + 10


def _draw_slot(card: Card, y: float, receipt: Receipt, told: str | None) -> float:
    color, _, sign = LOOKS[kind_of(receipt)]
    _disc(card, LEFT + 10, y + 23, 10, color)
    card.text(LEFT + 10, y + 28.5, sign, size=14, color=PAPER, bold=True, align="center")
    cells = (receipt.slot, receipt.recipe, status_text(receipt), verified_text(receipt))
    codes = (receipt.submission_id or DASH, (receipt.sha256 or DASH)[:12])
    for (x, _, room), text in zip(COLUMNS, (*cells, *codes), strict=True):
        inset = 34 if x == LEFT else 0
        mono = text in codes
        card.text(x + inset, y + 29, text, size=16 if mono else 18, mono=mono, room=room - inset, bold=x == LEFT)
    if receipt.error_message and receipt.error_message != told:
        card.text(LEFT + 34, y + 56, receipt.error_message, size=16, color=VERMILION, room=RIGHT - LEFT - 34)
        y += 26
    return y + 46


def kind_of(receipt: Receipt) -> Kind:
    """One slot judged like the round."""
    if is_verified(receipt):
        return "late" if is_late(receipt) else "safe"
    return "unsafe" if receipt.exit_code or receipt.submission_id else "nothing"


def status_text(receipt: Receipt) -> str:
    return receipt.status.replace("-", " ")


def verified_text(receipt: Receipt) -> str:
    """How the tournament was seen to hold it."""
    if not receipt.verified:
        return "no" if receipt.submission_id else DASH
    how = "byte for byte" if receipt.verified == "bytes" else "listed"
    return f"{how}, not ours" if receipt.origin == "foreign" else how


def _draw_validation(card: Card, y: float, made: Trained, models: int) -> float:
    found = made.validation
    y += 34
    which = f" (first of {models} models)" if models > 1 else ""
    card.text(LEFT, y, f"Validation of {made.recipe.name}{which}", size=18, bold=True, room=500)
    told = f"Spearman by era, {eras_text(found.per_era)}, Sharpe {figure_text(found.sharpe)}"
    card.text(RIGHT, y, told, size=16, color=MUTED, align="right")
    draw_eras(card.axes(LEFT + 66, y + 20, 910, 150), found.per_era, found.spearman_mean)
    return y + 198


def _first_model(result: RoundResult) -> Trained | None:
    """The first model as it lies on the disk; None if it has gone, which the picture can do without."""
    try:
        return load(result.models[0].folder) if result.models else None
    except StorageError:
        return None


def _sent(receipts: Sequence[Receipt]) -> list[tuple[Receipt, datetime]]:
    """The receipts whose sending time is known, in its order."""
    found = [(receipt, utc_moment(receipt.sent_at_utc)) for receipt in receipts]
    return sorted(((r, moment) for r, moment in found if moment is not None), key=lambda entry: entry[1])


def _moment_text(moment: datetime) -> str:
    return f"{moment:%a} {moment.day} {moment:%b %Y, %H:%M} UTC"


def _disc(card: Card, x: float, y: float, radius: float, color: str) -> None:
    from matplotlib.patches import Circle

    card.sheet.add_patch(Circle((x, y), radius, facecolor=color, edgecolor="none"))


def _bar(card: Card, start: float, end: float, y: float, color: str) -> None:
    from matplotlib.patches import Rectangle

    card.sheet.add_patch(Rectangle((start, y - 17), end - start, 34, facecolor=color, edgecolor="none"))


def _dot(card: Card, x: float, y: float, *, late: bool, verified: bool, edge: float) -> None:
    """On time a circle, late a diamond; filled where verified."""
    color = VERMILION if late else BLUE
    card.sheet.plot(
        [x], [y], "D" if late else "o", markersize=9 if late else 10, markerfacecolor=color if verified else PAPER,
        markeredgecolor=PAPER if verified else color, markeredgewidth=edge if verified else 2, zorder=5, clip_on=False,
    )  # fmt: skip
