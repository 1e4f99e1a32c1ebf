"""Charts over eras and over epochs: cumulative scores and drawdowns, scores by era, learning curves.

Each function gives the text of an `<svg>` element (`svg.Svg`); charts with a row for each name are in `row_charts`.
A series keeps its colour and its dashes by its `index`, whatever else is drawn. NaN breaks a line and is never drawn.

Shape letters: E eras.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.svg import (
    Panel,
    Svg,
    chart,
    colour_of,
    dash_of,
    number,
    path,
    shortened,
    signed,
    spread,
    words,
    x_axis,
    y_axis,
)

F64 = npt.NDArray[np.float64]
Eras = npt.NDArray[np.int64]
LEFT, RIGHT_ROOM = 64.0, 190.0
PLOT = 900 - LEFT - RIGHT_ROOM
LABEL_APART = 17.0
# More bars than this have no room for gaps between them.
FEW_ERAS = 150
MOST_NAME = 20


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series over eras."""

    name: str
    index: int
    """Decides its colour and dashes."""
    era_E: Eras
    value_E: F64
    """NaN where an era defines none."""


def cumulative(line: Line) -> Line:
    """The running sum of a series of scores from the first that is defined; an era without one adds nothing.

    >>> era_E, score_E = np.array([1, 2, 3]), np.array([0.25, np.nan, 0.5])
    >>> cumulative(Line(name="a", index=0, era_E=era_E, value_E=score_E)).value_E.tolist()
    [0.25, 0.25, 0.75]
    """
    begun_E = np.maximum.accumulate(np.isfinite(line.value_E))
    return replace(line, value_E=np.where(begun_E, np.cumsum(np.nan_to_num(line.value_E)), np.nan))


def drawdown(line: Line) -> Line:
    """How far the running sum of a series of scores lies beneath its highest so far: 0 or less.

    >>> era_E, score_E = np.array([1, 2, 3]), np.array([0.5, -0.25, 0.5])
    >>> drawdown(Line(name="a", index=0, era_E=era_E, value_E=score_E)).value_E.tolist()
    [0.0, -0.25, 0.0]
    """
    sum_E = cumulative(line).value_E
    return replace(line, value_E=sum_E - np.fmax.accumulate(sum_E))


def rolling_mean(value_E: F64, window: int) -> F64:
    """Mean of the last `window` values by their place, of those that are numbers; NaN until the window is full.

    >>> rolling_mean(np.array([1.0, 3.0, np.nan, 5.0]), 2).tolist()
    [nan, 2.0, 3.0, 5.0]
    """
    known_E = np.isfinite(value_E)
    total_E = np.cumsum(np.where(known_E, value_E, 0.0))
    count_E = np.cumsum(known_E)
    total_E[window:], count_E[window:] = total_E[window:] - total_E[:-window], count_E[window:] - count_E[:-window]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_E = np.where(count_E > 0, total_E / count_E, np.nan)
    mean_E[: window - 1] = np.nan
    return np.asarray(mean_E)


def reach_of(values: Sequence[F64]) -> tuple[float, float]:
    """The lowest and highest of all series, and 0."""
    known = [x for value in values for x in value[np.isfinite(value)].tolist()]
    return min([0.0, *known]), max([0.0, *known])


def era_lines(title: str, lines: Sequence[Line], *, starts: Sequence[int] = (), lowest: bool = False) -> Svg:
    """Several series over eras, each named at its end with its last value, or its lowest.

    `starts` are the eras at which folds begin.
    """
    height = max(250.0, LABEL_APART * len(lines))
    panel = _over_eras(lines, 12.0, height, reach_of([line.value_E for line in lines]))
    parts = [*y_axis(panel), *_folds(panel, starts), *x_axis(panel, "era")]
    for line in lines:
        d = _path(panel, line.era_E.tolist(), line.value_E.tolist())
        parts.append(f'<path class="line {colour_of(line.index)} {dash_of(line.index)}" d="{d}"/>')
    parts += _end_labels(panel, lines, lowest)
    return chart(title, panel.bottom + 46, parts)


def by_era(title: str, line: Line, *, window: int, reach: tuple[float, float], starts: Sequence[int] = ()) -> Svg:
    """A series as bars, blue above zero and orange below, with its mean over `window` eras as a line.

    An era without a value has a cross. `reach` is the lowest and highest value of all charts that are compared.
    """
    panel = _over_eras([line], 8.0, 110.0, reach)
    known_E = np.isfinite(line.value_E)
    width = 0.8 * PLOT / max(1.0, _span(line.era_E)) if known_E.sum() <= FEW_ERAS else PLOT / max(1.0, len(known_E))
    parts = [*y_axis(panel, 4), *_folds(panel, starts)]
    zero = number(panel.py(0))
    for colour, chosen_E in (("k0", line.value_E >= 0), ("k1", line.value_E < 0)):
        bars = zip(line.era_E[chosen_E].tolist(), line.value_E[chosen_E].tolist(), strict=True)
        d = "".join(f"M{number(panel.px(era))} {zero}V{number(panel.py(value))}" for era, value in bars)
        if d:
            parts.append(f'<path class="bars {colour}" stroke-width="{number(min(width, 14.0))}" d="{d}"/>')
    mean_E = rolling_mean(line.value_E, window)
    parts.append(f'<path class="line ki" d="{_path(panel, line.era_E.tolist(), mean_E.tolist())}"/>')
    parts += [
        words(panel.px(float(era)), panel.py(0) + 4, "×", align="middle")  # noqa: RUF001 - the mark of an undefined era
        for era in line.era_E[~known_E]
    ]
    parts += [
        words(panel.right + 14, panel.top + 16, shortened(line.name, MOST_NAME), bold=True),
        words(panel.right + 14, panel.top + 34, f"line: mean of {window} eras", quiet=True),
    ]
    return chart(title, panel.bottom + 26, [*parts, *x_axis(panel, "")])


def fall(title: str, line: Line, *, reach: tuple[float, float], starts: Sequence[int] = ()) -> Svg:
    """A drawdown by itself, filled from zero down; `reach` as in `by_era`."""
    panel = _over_eras([line], 8.0, 64.0, reach)
    colour, era_E = colour_of(line.index), line.era_E.tolist()
    deepest = f"deepest {signed(float(np.nanmin(line.value_E)), 2)}" if np.isfinite(line.value_E).any() else ""
    known = [(panel.px(era), panel.py(y)) for era, y in zip(era_E, line.value_E.tolist(), strict=True) if y == y]
    zero = panel.py(0)
    filled = path([(known[0][0], zero), *known, (known[-1][0], zero)]) if known else ""
    parts = [
        *y_axis(panel, 3),
        *_folds(panel, starts),
        f'<path class="mark tint {colour}" d="{filled}"/>',
        f'<path class="line {colour}" d="{path(known)}"/>',
        words(panel.right + 14, panel.top + 16, shortened(line.name, MOST_NAME), bold=True),
        words(panel.right + 14, panel.top + 34, deepest, quiet=True),
        *x_axis(panel, ""),
    ]
    return chart(title, panel.bottom + 26, parts)


def learning_curves(title: str, histories: Sequence[Sequence[Mapping[str, Any]]], *, by_steps: bool = False) -> Svg:
    """Losses and mean era Spearman after each epoch: a thin line a network, a strong one for their mean.

    `histories` has for each network an entry an epoch (`training.Fitted`); the axis counts epochs, or steps.
    """
    place = "step" if by_steps else "epoch"
    losses = _curves(histories, place, {"train_loss": ("training", 0), "validation_loss": ("validation", 1)})
    scores = _curves(histories, place, {"spearman_mean": ("validation", 2)})
    left = Panel(left=LEFT, top=34, width=276, height=150, x=_range(losses), y=_padded(losses, zero=False))
    right = Panel(left=546, top=34, width=246, height=150, x=_range(scores), y=_padded(scores, zero=True))
    parts = [words(LEFT, 18, "loss", bold=True), words(546, 18, "mean era Spearman", bold=True)]
    for panel, curves in ((left, losses), (right, scores)):
        parts += [*y_axis(panel), *x_axis(panel, place, 6)]
        parts += _draw_curves(panel, curves)
    if not any(_known(curve.value) for curve in scores):
        parts.append(words(right.left + 12, right.top + 30, "undefined after every epoch", quiet=True))
    return chart(title, left.bottom + 46, parts)


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """What one key of all histories comes to."""

    name: str
    index: int
    place: list[list[float]]
    value: list[list[float]]


def _curves(
    histories: Sequence[Sequence[Mapping[str, Any]]], place: str, keys: Mapping[str, tuple[str, int]]
) -> list[_Curve]:
    return [
        _Curve(
            name=name,
            index=index,
            place=[[float(entry[place]) for entry in history] for history in histories],
            value=[[_value(entry.get(key)) for entry in history] for history in histories],
        )
        for key, (name, index) in keys.items()
    ]


def _draw_curves(panel: Panel, curves: Sequence[_Curve]) -> list[str]:
    parts, ends = list[str](), list[tuple[_Curve, float]]()
    for curve in curves:
        dashed = curve.name == "validation" and len(curves) > 1
        kind = f"line {colour_of(curve.index)}{' d1' if dashed else ''}"
        drawn = [_path(panel, x, y) for x, y in zip(curve.place, curve.value, strict=True)]
        thin = " thin" if len(drawn) > 1 else ""
        parts += [f'<path class="{kind}{thin}" d="{d}"/>' for d in drawn if d]
        x, y = _mean(curve.place), _mean(curve.value)
        if thin and x:
            parts.append(f'<path class="{kind}" d="{_path(panel, x, y)}"/>')
        if len(x) == 1:  # a line of one point cannot be seen
            parts += _dots(panel, curve, "hollow" if dashed else "mark")
        if known := [value for value in y if math.isfinite(value)]:
            ends.append((curve, panel.py(known[-1])))
    places = spread([y for _, y in ends], LABEL_APART, panel.top, panel.bottom)
    return parts + [
        words(panel.right + 10, place + 4, curve.name, colour=colour_of(curve.index))
        for (curve, _), place in zip(ends, places, strict=True)
    ]


def _path(panel: Panel, x: Sequence[float], y: Sequence[float]) -> str:
    return path(zip(map(panel.px, x), map(panel.py, y), strict=True))


def _dots(panel: Panel, curve: _Curve, kind: str) -> list[str]:
    return [
        f'<circle class="{kind} {colour_of(curve.index)}" cx="{number(panel.px(x[0]))}" cy="{number(panel.py(y[0]))}"'
        ' r="3.5"/>'
        for x, y in zip(curve.place, curve.value, strict=True)
        if math.isfinite(y[0])
    ]


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """Over networks at each epoch, as far as all of them got."""
    length = min(map(len, rows), default=0)
    return [float(np.mean([row[i] for row in rows])) for i in range(length)]


def _over_eras(lines: Sequence[Line], top: float, height: float, reach: tuple[float, float]) -> Panel:
    eras = [float(era) for line in lines for era in line.era_E[[0, -1]].tolist()] if lines else [0.0, 1.0]
    half = 0.5 * max((_step(line.era_E) for line in lines), default=1.0)
    return Panel(
        left=LEFT, top=top, width=PLOT, height=height, x=(min(eras) - half, max(eras) + half), y=_wider(*reach)
    )


def _end_labels(panel: Panel, lines: Sequence[Line], lowest: bool) -> list[str]:
    """Name and last or lowest value of each line beside its end, with a piece of the line itself."""
    ends = [(line, known_E) for line in lines if len(known_E := line.value_E[np.isfinite(line.value_E)])]
    places = spread([panel.py(known_E[-1]) for _, known_E in ends], LABEL_APART, panel.top, panel.bottom)
    parts = []
    for (line, known_E), place in zip(ends, places, strict=True):
        colour, end, y = colour_of(line.index), number(panel.py(known_E[-1])), number(place)
        value = float(known_E.min() if lowest else known_E[-1])
        parts += [
            f'<path class="lead {colour}" d="M{number(panel.right)} {end}L{panel.right + 12} {y}"/>',
            f'<path class="line {colour} {dash_of(line.index)}" d="M{panel.right + 12} {y}h22"/>',
            words(panel.right + 40, place + 4, f"{shortened(line.name, 15)} {signed(value, 2)}", colour=colour),
        ]
    return parts


def _folds(panel: Panel, starts: Sequence[int]) -> list[str]:
    inside = [start - 0.5 for start in starts if panel.x[0] < start - 0.5 < panel.x[1]]
    return [f'<path class="fold" d="M{number(panel.px(x))} {panel.top}v{panel.height}"/>' for x in inside]


def _wider(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or 0.01
    return low - (room if low < 0 else 0.0), high + (room if high > 0 or low == 0 else 0.0)


def _span(era_E: Eras) -> float:
    """Eras from the first to the last, in steps of the nearest two."""
    return float((era_E[-1] - era_E[0]) / _step(era_E) + 1)


def _step(era_E: Eras) -> float:
    return float(np.diff(era_E).min()) if len(era_E) > 1 else 1.0


def _value(told: Any) -> float:
    return math.nan if told is None else float(told)


def _known(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row if math.isfinite(value)]


def _range(curves: Sequence[_Curve]) -> tuple[float, float]:
    places = [x for curve in curves for x in _known(curve.place)] or [0.0, 1.0]
    low, high = min(places), max(places)
    room = 0.03 * (high - low) or 0.5
    return low - room, high + room


def _padded(curves: Sequence[_Curve], *, zero: bool) -> tuple[float, float]:
    values = [x for curve in curves for x in _known(curve.value)] or [0.0, 1.0]
    low, high = min([*values, 0.0] if zero else values), max([*values, 0.0] if zero else values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.01
    return low - room, high + room
