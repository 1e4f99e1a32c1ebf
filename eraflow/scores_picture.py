"""The chart of past scores: two of them by round, and summed up over the rounds, a line a slot.

Colour, marker and dashes each tell the slots apart alone; a hollow marker is not final. Units are pixels, y goes down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from eraflow.ledger import Score
from eraflow.pictures import BLUE, GREEN, INK, MUTED, ORANGE, PAD, PAPER, VERMILION, WIDTH, Card, figure_text
from eraflow.scores import NO_SCORES, rank
from eraflow.verdict import counted_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour, marker and dashes. Okabe and Ito's colours, as in `pictures`.
LINES = (
    (BLUE, "o", "-"),
    (VERMILION, "s", (0, (5, 2))),
    (GREEN, "^", (0, (2, 2))),
    (ORANGE, "D", (0, (7, 2, 2, 2))),
    ("#cc79a7", "v", (0, (1, 1.5))),
    ("#56b4e9", "P", (0, (10, 3))),
)
MOST_PANELS = 2


def draw(scores: Iterable[Score]) -> bytes:
    """The PNG of the newest score of each slot, round and name, the newest round first."""
    found = [score for score in scores if score.value is not None]
    slots = sorted({score.slot for score in found})
    shown = slots[: len(LINES)]
    card = Card(768)
    card.text(PAD, 72, "Scores of past rounds", size=26, bold=True)
    if not found:
        card.text(PAD, 122, NO_SCORES, size=18, color=MUTED)
        return card.png()
    hidden = f"without {counted_text(len(slots) - len(shown), 'more slot')}; " if len(slots) > len(shown) else ""
    card.text(WIDTH - PAD, 72, f"{hidden}hollow: not final yet", size=17, color=MUTED, align="right")
    _legend(card, shown)
    names = panel_names(found)
    room = (WIDTH - 2 * PAD) / len(names)
    for i, name in enumerate(names):
        lines = [[score for score in found if (score.slot, score.name) == (slot, name)][::-1] for slot in shown]
        _panels(card, PAD + i * room, room, name, lines)
    return card.png()


def panel_names(scores: Iterable[Score]) -> list[str]:
    """The scores that the chart shows: of each family the one with the longest horizon, the paid families first.

    >>> panel_names([Score(round=1, slot="a", name=n, value=0.1) for n in ("fnc", "mmc60", "corr20", "corr60")])
    ['corr60', 'mmc60']
    """
    by_family: dict[int, str] = {}
    for name in sorted({score.name for score in scores}, key=lambda name: (_horizon(name), name)):
        by_family[rank(name)[0]] = name
    return [by_family[family] for family in sorted(by_family)][:MOST_PANELS]


def _legend(card: Card, slots: Sequence[str]) -> None:
    room = (WIDTH - 2 * PAD) / max(3, len(slots))
    for i, (slot, (color, marker, dashes)) in enumerate(zip(slots, LINES, strict=False)):
        x = PAD + i * room
        card.sheet.plot([x, x + 36], [110, 110], color=color, linewidth=2, linestyle=dashes)
        card.sheet.plot([x + 18], [110], marker, color=color, markersize=8)
        card.text(x + 46, 116, slot, size=17, room=room - 58)


def _panels(card: Card, x: float, room: float, name: str, lines: Sequence[Sequence[Score]]) -> None:
    """One score: by round, and beneath it the sum over the rounds."""
    by_round, sums = card.axes(x + 74, 178, room - 100, 236), card.axes(x + 74, 506, room - 100, 176)
    count = len({score.round for line in lines for score in line})
    values = [score.value or 0.0 for line in lines for score in line]
    mean = f", mean {figure_text(sum(values) / len(values))}" if len(lines) == 1 else ""
    card.text(x, 156, f"{name} by round: {counted_text(count, 'round')}{mean}", size=18, room=room - 20)
    card.text(x, 484, f"Sum of {name}", size=18, room=room - 20)
    card.text(x + 74 + (room - 100) / 2, 738, "round", size=16, color=MUTED, align="center")
    _draw(by_round, lines, lambda values: values, marked=True)
    _draw(sums, lines, lambda values: list(accumulate(values)), marked=count == 1)


def _draw(
    axes: Axes, lines: Sequence[Sequence[Score]], shape: Callable[[list[float]], list[float]], *, marked: bool
) -> None:
    from matplotlib.ticker import MaxNLocator

    for line, (color, marker, dashes) in zip(lines, LINES, strict=False):
        x, y = [score.round for score in line], shape([score.value or 0.0 for score in line])
        axes.plot(x, y, color=color, linewidth=1 if marked else 2, linestyle=dashes, alpha=0.7 if marked else 1)
        for score, at in zip(line, y, strict=True) if marked else ():
            face = color if score.resolved else PAPER
            axes.plot([score.round], [at], marker, markersize=7, markerfacecolor=face, markeredgecolor=color, zorder=3)
    axes.axhline(0, color=INK, linewidth=1, zorder=1)
    axes.margins(x=0.04, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.spines["bottom"].set_visible(False)


def _horizon(name: str) -> int:
    """The first number in a name, as the 60 of `corr60`."""
    number = re.search(r"\d+", name)
    return int(number[0]) if number else 0
