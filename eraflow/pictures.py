"""Pictures of one trained model: its training curve, and how it did on the hold-out, era by era.

`Card` is the sheet that every picture of eraflow is drawn on, laid out in pixels. matplotlib is used through its
objects alone: no pyplot, no global setting is read for what matters or changed. The same input gives the same bytes.

Colours are Okabe and Ito's, which stay apart for the colour-blind; blue and orange also differ in grey.
"""

from __future__ import annotations

import bisect
import io
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from eraflow.result import ModelReport
from eraflow.trained import EraScore, Trained, load
from eraflow.verdict import counted_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.font_manager import FontProperties

INK, MUTED, FAINT, RULE, PAPER = "#18212b", "#56616d", "#c3cad2", "#e4e8ec", "#fcfcfd"
BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#e69f00", "#00795c", "#b84a00"
MINUS, TIMES, DASH, CHECK = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}", "\N{CHECK MARK}"
SANS, MONO = "DejaVu Sans", "DejaVu Sans Mono"  # matplotlib brings both, so a picture is the same everywhere
WIDTH = 1200
PAD = 56
# More bars than this have no room for gaps or soft edges between them.
FEW_ERAS = 150
FEW_EPOCHS = 12


class Card:
    """An opaque light sheet with round corners, readable on white and on dark pages. Units are pixels, y goes down."""

    def __init__(self, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyBboxPatch

        self.height = round(height)
        self.figure = Figure(figsize=(WIDTH / 100, self.height / 100), dpi=100, facecolor="none")
        self.figure.set_layout_engine("none")
        self.canvas: Any = FigureCanvasAgg(self.figure)  # matplotlib leaves its methods untyped
        self.sheet = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(self.height, 0))
        self.sheet.set_axis_off()
        box = FancyBboxPatch(
            (2, 2), WIDTH - 4, self.height - 4, boxstyle="round,pad=0,rounding_size=18", fc=PAPER, ec=FAINT, lw=1
        )
        self.sheet.add_patch(box)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 18,
        color: str = INK,
        bold: bool = False,
        mono: bool = False,
        align: Literal["left", "center", "right"] = "left",
        room: float | None = None,
    ) -> None:
        """Write `text` with its base line at `y`, shortened to `room` [px] where it is given."""
        font = _font(size, bold=bold, mono=mono)
        shown = plain(text, mono=mono) if room is None else self.shortened(text, room, size=size, bold=bold, mono=mono)
        self.sheet.text(
            x, y, shown, fontproperties=font, color=color, ha=align, va="baseline", parse_math=False, usetex=False
        )

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with their upper left corner at (x, y), without what a reader doesn't need."""
        rectangle = (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(rectangle, facecolor="none")
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set(color=FAINT, linewidth=1)
        axes.tick_params(length=0, pad=7, labelsize=points(16), labelcolor=MUTED, labelfontfamily=SANS)
        axes.tick_params(which="minor", length=0)
        axes.grid(axis="y", color=RULE, linewidth=1, linestyle="-")
        axes.set_axisbelow(True)
        return axes

    def width_of(self, text: str, *, size: float, bold: bool = False, mono: bool = False) -> float:
        """Width of the text [px]."""
        return self._width(plain(text, mono=mono), _font(size, bold=bold, mono=mono))

    def shortened(self, text: str, room: float, *, size: float, bold: bool = False, mono: bool = False) -> str:
        """As much of `text` as `room` [px] holds, with an ellipsis where something is left out."""
        font = _font(size, bold=bold, mono=mono)
        text = plain(text[:400], mono=mono)
        if self._width(text, font) <= room:
            return text
        fits = bisect.bisect_right(range(len(text)), room, key=lambda n: self._width(f"{text[:n]}…", font)) - 1
        return f"{text[: max(fits, 0)].rstrip()}…"

    def lines(self, text: str, room: float, *, size: float, most: int) -> list[str]:
        """`text` broken into at most `most` lines of `room` [px]; the last one may be shortened by `text`."""
        found = [""]
        for word in plain(text[:1000]).split():
            longer = f"{found[-1]} {word}".strip()
            if not found[-1] or len(found) == most or self.width_of(longer, size=size) <= room:
                found[-1] = longer
            else:
                found.append(word)
        return found

    def png(self) -> bytes:
        """The picture, without any word of when and by what it was made."""
        from PIL import Image  # matplotlib needs Pillow itself

        self.canvas.draw()
        picture = Image.frombytes("RGBA", (WIDTH, self.height), bytes(self.canvas.buffer_rgba()))
        # A palette takes the picture of a week from 80 kB to 23 kB, and no difference can be seen.
        palette = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        file = io.BytesIO()
        palette.save(file, "png", optimize=True)
        return file.getvalue()

    def _width(self, text: str, font: FontProperties) -> float:
        return float(self.canvas.get_renderer().get_text_width_height_descent(text, font, False)[0])


def training_png(model: ModelReport) -> bytes:
    """The hold-out fit as a PNG: losses by epoch (or step), and the mean era Spearman; a thin line a member.

    It says where the curves are of a sample of the hold-out. Raises `StorageError` if the model's folder is not whole.
    """
    made = load(model.folder)
    card = Card(546 if sample_text(made) else 520)
    card.text(PAD, 72, f"Training of {made.recipe.name}", size=26, bold=True, room=700)
    card.text(WIDTH - PAD, 72, _length_text(made), size=17, color=MUTED, align="right")
    losses, scores = card.axes(PAD + 66, 158, 440, 260), card.axes(PAD + 642, 158, 352, 260)
    _title(card, PAD, 122, f"Loss ({made.recipe.training.loss})", [("training", BLUE), ("hold-out", VERMILION)])
    _title(card, PAD + 576, 122, "Mean era Spearman", [("hold-out", VERMILION)])
    _whole_numbers(losses)
    _whole_numbers(scores)
    for key, color in (("train_loss", BLUE), ("validation_loss", VERMILION)):
        _curves(losses, made, key, color)
    if not _curves(scores, made, "spearman_mean", VERMILION):
        _say(scores, "undefined after every epoch")
        scores.set_xticks([])
    for x in (PAD + 66 + 220, PAD + 642 + 176):
        card.text(x, 474, "epoch" if made.recipe.training.epochs else "step", size=16, color=MUTED, align="center")
    marks = [("untrained", made.untrained_spearman, MUTED)]
    if len(made.histories) > 1:
        marks.append(("ensemble", made.validation.spearman_mean, INK))
    _levels(scores, [mark for mark in marks if mark[1] is not None])
    if told := sample_text(made):
        card.text(PAD, 516, told, size=16, color=MUTED)
    return card.png()


def validation_png(model: ModelReport) -> bytes:
    """Spearman by era as a PNG: bars with their mean, and beneath them the cumulative sum.

    An era that defines no score is marked, and the title says how many there are. Raises `StorageError` if the
    model's folder is not whole.
    """
    made = load(model.folder)
    found = made.validation
    card = Card(652)
    card.text(PAD, 72, f"Validation of {made.recipe.name}", size=26, bold=True, room=700)
    told = f"Sharpe {figure_text(found.sharpe)}, largest drawdown {figure_text(found.max_drawdown)}"
    card.text(WIDTH - PAD, 72, told, size=17, color=MUTED, align="right")
    card.text(PAD, 122, f"Spearman by era: {eras_text(found.per_era)}", size=18, color=INK)
    bars, sums = card.axes(PAD + 66, 146, 910, 230), card.axes(PAD + 66, 468, 910, 102)
    draw_eras(bars, found.per_era, found.spearman_mean)
    card.text(PAD, 444, "Cumulative sum", size=18, color=INK)
    _draw_sum(sums, found.per_era)
    card.text(PAD + 66 + 455, 624, "era", size=16, color=MUTED, align="center")
    return card.png()


def draw_eras(axes: Axes, eras: Sequence[EraScore], mean: float | None) -> None:
    """Bars of Spearman by era, blue above zero and orange below, a cross where there is none, and the mean."""
    from matplotlib.collections import PolyCollection

    half = 0.38 * _spacing(eras) if len(eras) <= FEW_ERAS else 0.5 * _spacing(eras)
    scored = [(e.era, e.spearman) for e in eras if e.spearman is not None]
    corners = [[(x - half, 0), (x - half, y), (x + half, y), (x + half, 0)] for x, y in scored]
    colors = [BLUE if y >= 0 else ORANGE for _, y in scored]
    soft = len(eras) <= FEW_ERAS
    axes.add_collection(PolyCollection(corners, facecolors=colors, linewidths=0, antialiaseds=soft, zorder=2))
    missing = [e.era for e in eras if e.spearman is None]
    axes.plot(missing, [0] * len(missing), "x", color=INK, markersize=7, markeredgewidth=1.6, zorder=4)
    values = [y for _, y in scored] or [0.1, -0.1]
    reach = max(max(values), 0) - min(min(values), 0) or 0.1
    axes.set_ylim(min(min(values), 0) - 0.06 * reach, max(max(values), 0) + 0.06 * reach)
    _era_axis(axes, eras)
    if not scored:
        _say(axes, "no era defines a score")
    if mean is not None:
        axes.axhline(mean, color=INK, linewidth=1.4, linestyle=(0, (5, 3)), zorder=3)
        _beside(axes, mean, f"mean\n{mean:.4f}", INK)


def eras_text(eras: Sequence[EraScore]) -> str:
    """`10 eras scored, 2 undefined`, with the sign that marks those."""
    undefined = sum(e.spearman is None for e in eras)
    return f"{counted_text(len(eras) - undefined, 'era')} scored" + (
        f", {undefined} undefined ({TIMES})" if undefined else ""
    )


def sample_text(made: Trained) -> str:
    """What the hold-out's curves and figures are taken on, where that is not all of it; otherwise nothing."""
    examined = max((entry.get("eras") or 0 for history in made.histories for entry in history), default=0)
    eras = len(made.validation.per_era)
    if made.sampled:
        return f"Of the hold-out sampled eras alone: curves on {examined}, figures in the end on {eras}."
    told = [f"curves on {examined}"] if 0 < examined < eras else []
    if made.untrained_eras and made.untrained_eras < eras:
        told.append(f"untrained on {made.untrained_eras}")
    return f"Of {eras} hold-out eras sampled ones: {', '.join(told)}; figures in the end on all." if told else ""


def figure_text(value: float | None) -> str:
    """A score with four decimals; one that is not defined is said to be."""
    return "undefined" if value is None or math.isnan(value) else f"{value:.4f}".replace("-", MINUS)


def plain(text: str, *, mono: bool = False) -> str:
    """`text` with a question mark for each character that the fonts may lack, so that nothing warns or moves."""
    last = 0x7F if mono else 0x250
    return "".join(
        c if (ord(c) < last and c.isprintable()) or c in f"…{MINUS}{TIMES}{DASH}{CHECK}" else "?" for c in text
    )


def points(size_px: float) -> float:
    """A font's size in points at 100 dots an inch."""
    return size_px * 0.72


def _font(size: float, *, bold: bool, mono: bool) -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=MONO if mono else SANS, size=points(size), weight="bold" if bold else "normal")


def _title(card: Card, x: float, y: float, text: str, keys: Sequence[tuple[str, str]]) -> None:
    """A panel's title with its legend as coloured words after it."""
    card.text(x, y, text, size=18)
    x += card.width_of(text, size=18) + 22
    for name, color in keys:
        card.sheet.plot([x, x + 22], [y - 6, y - 6], color=color, linewidth=2.5, solid_capstyle="round")
        card.text(x + 30, y, name, size=17, color=MUTED)
        x += 30 + card.width_of(name, size=17) + 22


def _curves(axes: Axes, made: Trained, key: str, color: str) -> bool:
    """Draw a line a member; whether there was anything to draw."""
    drawn = False
    several = len(made.histories) > 1
    for history in made.histories:
        x = [entry["step" if made.recipe.training.epochs is None else "epoch"] for entry in history]
        y = [math.nan if entry.get(key) is None else float(entry[key]) for entry in history]
        drawn |= any(map(math.isfinite, y))
        dot = "o" if len(history) <= FEW_EPOCHS else ""
        axes.plot(x, y, dot, linestyle="-", color=color, linewidth=1.4 if several else 2, markersize=4)
    return drawn


def _say(axes: Axes, text: str) -> None:
    """Words in place of a curve."""
    axes.set_yticks([])
    axes.text(0.5, 0.62, text, transform=axes.transAxes, ha="center", color=MUTED, fontsize=points(17), fontfamily=SANS)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.03, y=0.08)


def _levels(axes: Axes, marks: Sequence[tuple[str, Any, str]]) -> None:
    """Dashed lines at one or two values, named at their right end; names that would touch are moved apart."""
    for _, value, color in marks:
        axes.axhline(value, color=color, linewidth=1.2, linestyle=(0, (5, 3)))
    low, high = axes.get_ylim()
    ordered = sorted(marks, key=lambda mark: mark[1])
    apart = max(0.0, 0.19 * (high - low) - (ordered[-1][1] - ordered[0][1])) / 2 if len(ordered) == 2 else 0.0
    for (name, value, color), moved in zip(ordered, (-apart, apart), strict=False):
        _beside(axes, value + moved, f"{name}\n{figure_text(value)}", color)


def _beside(axes: Axes, y: float, text: str, color: str) -> None:
    axes.annotate(
        text, (1, y), xycoords=("axes fraction", "data"), xytext=(7, 0), textcoords="offset points", va="center",
        color=color, fontsize=points(16), fontfamily=SANS, parse_math=False, annotation_clip=False, linespacing=1.15,
    )  # fmt: skip


def _draw_sum(axes: Axes, eras: Sequence[EraScore]) -> None:
    total, sums = 0.0, []
    for era in eras:
        total += era.spearman or 0.0
        sums.append(total)
    axes.plot([e.era for e in eras], sums, color=INK, linewidth=2, solid_joinstyle="round")
    axes.margins(y=0.1)
    _era_axis(axes, eras, ticks=3)
    if all(era.spearman is None for era in eras):
        axes.set_yticks([])
    else:
        _beside(axes, sums[-1], figure_text(sums[-1]), INK)


def _era_axis(axes: Axes, eras: Sequence[EraScore], ticks: int = 5) -> None:
    from matplotlib.ticker import MaxNLocator

    if eras:
        axes.set_xlim(eras[0].era - 0.6 * _spacing(eras), eras[-1].era + 0.6 * _spacing(eras))
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(ticks))
    axes.axhline(0, color=MUTED, linewidth=1, zorder=3)
    axes.spines["bottom"].set_visible(False)


def _spacing(eras: Sequence[EraScore]) -> float:
    """Eras from one to the next."""
    return float(min((b.era - a.era for a, b in pairwise(eras)), default=1)) or 1.0


def _length_text(made: Trained) -> str:
    training, members = made.recipe.training, len(made.histories)
    length = counted_text(training.epochs, "epoch") if training.epochs else counted_text(made.steps, "step")
    return f"{length}, {counted_text(members, 'member')}, {made.rows:,} rows, {made.device}"
