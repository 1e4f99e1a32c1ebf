"""Charts with a row for each name: intervals, grouped bars, a matrix of numbers, and spans of eras.

Each function gives the text of an `<svg>` element (`svg.Svg`); charts over eras and epochs are in `charts`. A value
that is no number is an en dash. A row's mark also differs by its shape and its words, never by its colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eraflow.svg import (
    DASH,
    Panel,
    Svg,
    chart,
    colour_of,
    number,
    shortened,
    signed,
    ticks,
    words,
    x_axis,
)

NAME_ROOM, TOLD_ROOM = 190.0, 276.0
ROW = 26.0
MOST_NAME = 24
# The strongest tint behind a number that can still be read.
MOST_TINT = 0.45
SPANS = (("train", "k0"), ("purged", "k5"), ("validated", "k1"))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One row of a forest plot."""

    name: str
    mean: float
    low: float
    """NaN, as `high`, where there is no interval."""
    high: float
    colour: str = "ki"
    """A `k` class."""
    told: str = ""
    """Words after the figures."""


def forest(title: str, rows: Sequence[Estimate], *, unit: str, decimals: int = 4) -> Svg:
    """Means with their intervals, a row each, and the zero line; without an interval the mean is a hollow dot."""
    values = [x for row in rows for x in (row.mean, row.low, row.high) if math.isfinite(x)]
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.06 * (high - low) or 0.01
    panel = Panel(
        left=NAME_ROOM, top=8, width=900 - NAME_ROOM - TOLD_ROOM, height=ROW * len(rows), x=(low - room, high + room),
        y=(0, 1),
    )  # fmt: skip
    parts = [*_upright_rules(panel), *x_axis(panel, unit, 6, whole=False)]
    for i, row in enumerate(rows):
        y = panel.top + ROW * (i + 0.5)
        parts.append(words(panel.left - 14, y + 4, shortened(row.name, MOST_NAME), align="end"))
        parts += _interval(panel, row, y)
        parts.append(words(panel.right + 14, y + 4, _figures(row, decimals)))
    return chart(title, panel.bottom + 46, parts)


def grouped_bars(title: str, groups: Mapping[str, Mapping[str, float]], *, unit: str, decimals: int = 3) -> Svg:
    """For each name a bar for each of its figures, which are 0 or more: name -> figure -> value."""
    kinds = list(dict.fromkeys(kind for group in groups.values() for kind in group))
    values = [x for group in groups.values() for x in group.values() if math.isfinite(x)]
    each, thick = ROW * 0.8, 13.0
    height = sum(len(group) * each + 10 for group in groups.values())
    panel = Panel(
        left=NAME_ROOM, top=8, width=900 - NAME_ROOM - TOLD_ROOM, height=height,
        x=(0, max(values, default=1.0) * 1.04 or 1.0), y=(0, 1),
    )  # fmt: skip
    parts = [*_upright_rules(panel), *x_axis(panel, unit, 6, whole=False)]
    y = panel.top + 5
    for name, group in groups.items():
        parts.append(words(panel.left - 14, y + each / 2 + 4, shortened(name, MOST_NAME), align="end"))
        for kind, value in group.items():
            colour = colour_of(kinds.index(kind))
            told = f"{value:.{decimals}f}" if math.isfinite(value) else DASH
            width = number(max(0.0, panel.px(value) - panel.left)) if math.isfinite(value) else "0"
            parts.append(
                f'<rect class="mark {colour}" x="{number(panel.left)}" y="{number(y + (each - thick) / 2)}"'
                f' width="{width}" height="{thick}"/>'
            )
            parts.append(words(panel.right + 14, y + each / 2 + 4, f"{kind} {told}", colour=colour))
            y += each
        y += 10
    return chart(title, panel.bottom + 46, parts)


def matrix(
    title: str,
    names: Sequence[str],
    columns: Sequence[str],
    value: Mapping[tuple[str, str], float],
    *,
    decimals: int = 2,
) -> Svg:
    """Numbers from -1 to 1 for pairs of a row and a column; the tint tells their size. Columns are named by numbers."""
    width = min(72.0, (900 - NAME_ROOM - 40) / max(1, len(columns)))
    parts = [
        words(NAME_ROOM + width * (c + 0.5), 20, _place(names, column), align="middle", quiet=True)
        for c, column in enumerate(columns)
    ]
    for r, row in enumerate(names):
        y = 30 + ROW * r
        parts.append(words(NAME_ROOM - 14, y + 17, f"{shortened(row, MOST_NAME - 4)}  {r + 1}", align="end"))
        for c, column in enumerate(columns):
            parts += _cell(NAME_ROOM + width * c, y, width, value.get((row, column), math.nan), decimals)
    return chart(title, 30 + ROW * len(names) + 8, parts)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """One row of a time line: the first and last era of each part, None where it has none."""

    name: str
    parts: Mapping[str, tuple[int, int] | None]
    """By the names in `SPANS`."""
    told: str = ""


def timeline(title: str, rows: Sequence[Spans]) -> Svg:
    """Spans of eras, a row each: what trains, what is left out, what is validated."""
    eras = [era for row in rows for span in row.parts.values() if span is not None for era in span]
    panel = Panel(
        left=90, top=30, width=900 - 90 - TOLD_ROOM, height=ROW * len(rows),
        x=(min(eras, default=0) - 0.5, max(eras, default=1) + 0.5), y=(0, 1),
    )  # fmt: skip
    parts, x = x_axis(panel, "era"), panel.left
    for kind, colour in SPANS:
        parts.append(_span_rect(x, 8, 14, colour, kind))
        parts.append(words(x + 20, 19, kind, quiet=True))
        x += 110
    for i, row in enumerate(rows):
        y = panel.top + ROW * i
        parts.append(words(panel.left - 12, y + 17, row.name, align="end"))
        for kind, colour in SPANS:
            if span := row.parts.get(kind):
                left = panel.px(span[0] - 0.5)
                parts.append(_span_rect(left, y + 5, panel.px(span[1] + 0.5) - left, colour, kind))
        parts.append(words(panel.right + 14, y + 17, row.told, quiet=True))
    return chart(title, panel.bottom + 46, parts)


def _upright_rules(panel: Panel) -> list[str]:
    return [
        f'<path class="{"zero" if value == 0 else "grid"}" d="M{number(panel.px(value))} {panel.top}v{panel.height}"/>'
        for value in ticks(*panel.x, 6)
    ]


def _interval(panel: Panel, row: Estimate, y: float) -> list[str]:
    if not math.isfinite(row.mean):
        return []
    x = number(panel.px(row.mean))
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return [f'<circle class="hollow {row.colour}" cx="{x}" cy="{number(y)}" r="5"/>']
    low, high = number(panel.px(row.low)), number(panel.px(row.high))
    ends = "".join(f"M{at} {number(y - 5)}v10" for at in (low, high))
    return [
        f'<path class="line {row.colour}" d="M{low} {number(y)}H{high}{ends}"/>',
        f'<circle class="mark {row.colour}" cx="{x}" cy="{number(y)}" r="5"/>',
    ]


def _figures(row: Estimate, decimals: int) -> str:
    if not math.isfinite(row.mean):
        return f"{DASH} {row.told}".strip()
    mean = signed(row.mean, decimals)
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return f"{mean}, no interval {row.told}".strip()
    return f"{mean} ({signed(row.low, decimals)} to {signed(row.high, decimals)}) {row.told}".strip()


def _place(names: Sequence[str], column: str) -> str:
    """The number of a row's name; a column that is no row has its own name."""
    return str(names.index(column) + 1) if column in names else shortened(column, 11)


def _cell(x: float, y: float, width: float, value: float, decimals: int) -> list[str]:
    known = math.isfinite(value)
    tint = f"{MOST_TINT * min(1.0, abs(value)):.2f}" if known else "0"
    colour = "k0" if not known or value >= 0 else "k1"
    return [
        f'<rect class="mark {colour}" fill-opacity="{tint}" x="{number(x + 1)}" y="{number(y + 1)}"'
        f' width="{number(width - 2)}" height="{number(ROW - 2)}"/>',
        words(x + width / 2, y + 17, signed(value, decimals), align="middle"),
    ]


def _span_rect(x: float, y: float, width: float, colour: str, kind: str) -> str:
    # What is purged is lower and pale: it is told apart without its colour.
    top, height, pale = (y + 5, 6, " tint") if kind == "purged" else (y, 16, "")
    return (
        f'<rect class="mark {colour}{pale}" x="{number(x)}" y="{number(top)}" width="{number(width)}"'
        f' height="{height}"/>'
    )
