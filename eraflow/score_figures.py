"""The figures over eras and epochs that a round's page and a study's page share.

Each function takes series that are there already; nothing is trained, predicted or scored here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eraflow.charts import Line, by_era, cumulative, drawdown, era_lines, fall, learning_curves, reach_of
from eraflow.html import Markup, figure, joined, paragraph
from eraflow.svg import Svg
from eraflow.verdict import counted_text

# Charts of single candidates beyond these would make a page that nobody reads to its end.
MOST_BY_ERA = 12
# Drawdowns cross one another all the time: with more points than these they cannot be told apart.
MOST_TOGETHER = 700


def over_eras(label: str, lines: Sequence[Line], *, horizon_eras: int, starts: Sequence[int] = ()) -> Markup | None:
    """Cumulative curves, scores by era and drawdowns of one metric; None where no era defines a score."""
    known = [line for line in lines if np.isfinite(line.value_E).any()]
    if not known:
        return None
    note = "dotted: a new fold begins" if len(starts) > 1 else ""
    sums = era_lines(f"Cumulative {label} by era", [cumulative(line) for line in known], starts=starts)
    return joined(
        [
            figure(f"Cumulative {label}", sums, note),
            *_by_era(label, known, horizon_eras, starts),
            *_drawdowns(label, [drawdown(line) for line in known], starts),
        ]
    )


def learning(name: str, histories: Sequence[Sequence[Mapping[str, Any]]], *, by_steps: bool) -> Markup | None:
    """How a candidate's networks learned; None where there is no history."""
    kept = [history for history in histories if history]
    if not kept:
        return None
    chart = learning_curves(f"{name}: loss and mean era Spearman of its networks", kept, by_steps=by_steps)
    return figure(name, chart, counted_text(len(kept), "network"))


def window_of(lines: Sequence[Line], horizon_eras: int) -> int:
    """Eras of the rolling mean: a twelfth of all, and no fewer than a target reaches over."""
    return max(horizon_eras, max((len(line.era_E) for line in lines), default=0) // 12)


def _by_era(label: str, lines: Sequence[Line], horizon_eras: int, starts: Sequence[int]) -> list[Markup]:
    window, reach = window_of(lines, horizon_eras), reach_of([line.value_E for line in lines])
    shown = lines[:MOST_BY_ERA]
    undefined = any(not np.isfinite(line.value_E).all() for line in shown)
    charts = [
        by_era(f"{label} of {line.name} by era", line, window=window, reach=reach, starts=starts) for line in shown
    ]
    note = "crosses: eras that define none" if undefined else ""
    found = _beneath(f"{label[:1].upper()}{label[1:]} by era", charts, note)
    return [*found, *_left_out(len(lines) - len(shown))]


def _drawdowns(label: str, lines: Sequence[Line], starts: Sequence[int]) -> list[Markup]:
    """In one chart where that can be read, otherwise each in its own."""
    title, note = f"Drawdown of cumulative {label}", "fall from the highest sum so far"
    if sum(len(line.era_E) for line in lines) <= MOST_TOGETHER:
        told = f"{note}; named with the deepest"
        return [figure(title, era_lines(f"{title} by era", lines, starts=starts, lowest=True), told)]
    shown, reach = lines[:MOST_BY_ERA], reach_of([line.value_E for line in lines])
    charts = [fall(f"{title} of {line.name} by era", line, reach=reach, starts=starts) for line in shown]
    return [*_beneath(title, charts, note), *_left_out(len(lines) - len(shown))]


def _beneath(title: str, charts: Sequence[Svg], note: str) -> list[Markup]:
    """Charts one beneath the other under one title."""
    return [figure("" if i else title, chart, "" if i else note) for i, chart in enumerate(charts)]


def _left_out(count: int) -> list[Markup]:
    return [paragraph(f"{counted_text(count, 'candidate')} more not drawn.", "muted")] if count else []
