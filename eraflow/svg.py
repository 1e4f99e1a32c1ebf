"""What every chart of a page is drawn with: scales with round ticks, paths, texts, and colours by name.

A chart is the text of an `<svg>` element that a page holds as it is. Its colours are variables of the page's style
(`palette`), so that light, dark and print each have their own; `standalone` gives the same chart as a file. Read
`charts` and `row_charts` for what is drawn. Nothing here knows recipes or eras.

Colours are Okabe and Ito's, made darker on light paper and lighter on dark until each stands out by 3 to 1 at least.
Lines also differ by their dashes and are named at their ends. Units are pixels of a sheet of `WIDTH`, y goes down.
The same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 900
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
LIGHT = {
    "sheet": "#ffffff", "ink": "#18212b", "muted": "#56616d", "rule": "#dfe4e9",
    "c0": "#0072b2", "c1": "#b84a00", "c2": "#00795c", "c3": "#a8447f", "c4": "#8a6a00", "c5": "#4a5563",
}  # fmt: skip
DARK = {
    "sheet": "#1a2129", "ink": "#e8ecf0", "muted": "#9aa6b2", "rule": "#2f3944",
    "c0": "#56b4e9", "c1": "#ff9d5c", "c2": "#4cc9a5", "c3": "#e9a0c9", "c4": "#e8c547", "c5": "#c3cad2",
}  # fmt: skip
PRINT = LIGHT | {"ink": "#000000", "muted": "#444444", "rule": "#bbbbbb"}
COLOURS = 6
DASHES = ("none", "7 3", "2 3", "10 3 2 3", "4 2")
# Each `k` class names the colour that lines, marks and words within it take.
STYLE = """
.chart { display: block; width: 100%; height: auto; margin: .5rem 0; font: 13px system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; font-variant-numeric: tabular-nums; }
.chart text { fill: var(--ink); } .chart text.quiet { fill: var(--muted); } .chart text.key { fill: var(--k); }
.chart .grid { stroke: var(--rule); } .chart .zero { stroke: var(--muted); }
.chart .fold { stroke: var(--muted); stroke-dasharray: 1 4; }
.chart .line { fill: none; stroke: var(--k); stroke-width: 1.8; stroke-linejoin: round; }
.chart .thin { stroke-width: 1; stroke-opacity: .5; } .chart .lead { stroke: var(--k); stroke-width: .6; }
.chart .bars { fill: none; stroke: var(--k); } .chart .mark { fill: var(--k); }
.chart .hollow { fill: var(--sheet); stroke: var(--k); stroke-width: 1.6; } .chart .tint { fill-opacity: .3; }
""" + "\n".join(
    [
        " ".join(f".k{i} {{ --k: var(--c{i}); }}" for i in range(COLOURS)) + " .ki { --k: var(--ink); }",
        " ".join(f".chart .d{i} {{ stroke-dasharray: {dash}; }}" for i, dash in enumerate(DASHES)),
    ]
)


def palette(colours: dict[str, str]) -> str:
    """The colours as variables of a style.

    >>> palette({"ink": "#000", "c0": "#0072b2"})
    '--ink: #000; --c0: #0072b2;'
    """
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


class Svg(str):
    """The text of one `<svg>` element; whatever came from outside is escaped in it."""

    __slots__ = ()


def chart(title: str, height: float, parts: Iterable[str]) -> Svg:
    """A sheet with these parts, which says what it shows to those who cannot see it."""
    told = escaped(title)
    inner = "\n".join(parts)
    return Svg(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {number(height)}" role="img" aria-label="{told}">'
        f"<title>{told}</title>\n{inner}\n</svg>"
    )


def standalone(drawn: Svg) -> bytes:
    """The chart as a file of its own, on a light card that is readable on white and on dark pages."""
    head, _, rest = drawn.partition(">")
    box = head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    width, height = (float(side) for side in box)
    card = f'<rect x="-16" y="-12" width="{number(width + 32)}" height="{number(height + 24)}" rx="12" fill="#fff"/>'
    size = f'width="{number(width + 32)}" height="{number(height + 24)}"'
    view = f'viewBox="-16 -12 {number(width + 32)} {number(height + 24)}"'
    style = f"<style>svg {{ {palette(LIGHT)} }}{STYLE}\n.chart {{ margin: 0; }}</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {size} {view} role="img">{style}{card}{rest}'.encode()
    )


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A rectangle of a sheet with the values at its edges."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def px(self, value: float) -> float:
        """Where `value` stands from left to right."""
        return self.left + self.width * (value - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)

    def py(self, value: float) -> float:
        """Where `value` stands from above."""
        return self.bottom - self.height * (value - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round values from `low` to `high`, in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(-0.013, 0.052, 4)
    [0.0, 0.02, 0.04]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(k * step, decimals) + 0.0 for k in range(first, last + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """All with the decimals that the finest needs.

    >>> tick_texts([-0.5, 0.0, 0.5])
    ['−0.5', '0', '0.5']
    """
    step = min((abs(b - a) for a, b in pairwise(values)), default=abs(values[0]) or 1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return ["0" if value == 0 else f"{value:,.{decimals}f}".replace("-", MINUS) for value in values]


def y_axis(panel: Panel, most: int = 5) -> list[str]:
    """Rules across the panel with their values on its left; the one at zero is stronger."""
    values = ticks(*panel.y, most)
    found = []
    for value, told in zip(values, tick_texts(values), strict=True):
        y = number(panel.py(value))
        found.append(f'<path class="{"zero" if value == 0 else "grid"}" d="M{number(panel.left)} {y}h{panel.width}"/>')
        found.append(words(panel.left - 8, panel.py(value) + 4, told, align="end", quiet=True))
    return found


def x_axis(panel: Panel, title: str, most: int = 9, *, whole: bool = True) -> list[str]:
    """Values beneath the panel, and what they are unless that is said elsewhere."""
    values = ticks(*panel.x, most)
    # Eras and steps are counted, and have no commas.
    told = [f"{value:.0f}" if value == round(value) else "" for value in values] if whole else tick_texts(values)
    found = [
        words(panel.px(value), panel.bottom + 18, text, align="middle", quiet=True)
        for value, text in zip(values, told, strict=True)
        if text
    ]
    if not title:
        return found
    return [*found, words(panel.left + panel.width / 2, panel.bottom + 36, title, align="middle", quiet=True)]


def words(
    x: float, y: float, text: str, *, align: str = "start", quiet: bool = False, colour: str = "", bold: bool = False
) -> str:
    """A text with its base line at `y`; `colour` is a `k` class."""
    kind = f"key {colour}" if colour else "quiet" if quiet else ""
    of_kind = f' class="{kind}"' if kind else ""
    anchor = "" if align == "start" else f' text-anchor="{align}"'
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{number(x)}" y="{number(y)}"{of_kind}{anchor}{weight}>{escaped(text)}</text>'


def path(points: Iterable[tuple[float, float]]) -> str:
    """The `d` of a line through the points, broken where one is no number."""
    drawn, begun = [], False
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            begun = False
            continue
        drawn.append(f"{'L' if begun else 'M'}{number(x)} {number(y)}")
        begun = True
    return "".join(drawn)


def colour_of(index: int) -> str:
    """The class of a series' colour, by its place."""
    return f"k{index % COLOURS}"


def dash_of(index: int) -> str:
    """The class of a series' dashes: with the colours, thirty series are told apart."""
    return f"d{index % len(DASHES)}"


def shortened(text: str, most: int) -> str:
    """`text` with an ellipsis where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places near those wanted, at least `apart` from one another and within the bounds where there is room.

    >>> spread([10.0, 11.0, 40.0], 8.0, 0.0, 50.0)
    [10.0, 18.0, 40.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = [0.0] * len(wanted)
    above = low - apart
    for i in order:
        above = found[i] = max(wanted[i], above + apart)
    below = high + apart
    for i in reversed(order):  # those that were pushed out beneath push back
        below = found[i] = min(found[i], below - apart)
    return found


def signed(value: float, decimals: int = 4) -> str:
    """A figure with a true minus sign, an en dash for one that is no number.

    >>> signed(-0.25, 2), signed(-0.001, 2), signed(float("nan"))
    ('−0.25', '0.00', '–')
    """
    if not math.isfinite(value):
        return DASH
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", MINUS)


def number(value: float) -> str:
    """A length with one decimal at most.

    >>> number(12.0), number(3.14)
    ('12', '3.1')
    """
    return f"{value:.1f}".removesuffix(".0")


def escaped(text: str) -> str:
    """`text` as HTML and XML both take it; a character that XML forbids becomes a question mark."""
    return escape("".join(c if c.isprintable() else "?" for c in str(text)), quote=True)
