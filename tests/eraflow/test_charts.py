"""Charts are whole, legible without their colours, the same each time, and never draw what is no number."""

from __future__ import annotations

import math
import re
from itertools import combinations, pairwise
from typing import Any
from xml.parsers import expat

import numpy as np
import pytest

from eraflow import svg
from eraflow.charts import Line, by_era, cumulative, drawdown, era_lines, fall, learning_curves, rolling_mean
from eraflow.row_charts import Estimate, Spans, forest, grouped_bars, matrix, timeline
from eraflow.svg import Svg, colour_of, dash_of, spread, standalone, tick_texts, ticks

NAN = math.nan
MARK = '<b>&"x'
ERA_E = np.arange(1, 9)
SCORE_E = np.array([0.1, -0.2, NAN, 0.3, 0.1, 0.1, -0.1, 0.2])
HISTORY = [{"epoch": e, "step": 5 * e, "train_loss": 1 / e, "validation_loss": None, "spearman_mean": 0.1 * e}
           for e in (1, 2, 3)]  # fmt: skip


def line(name: str = "one", index: int = 0, value_E: Any = SCORE_E) -> Line:
    return Line(name=name, index=index, era_E=np.arange(1, len(value_E) + 1), value_E=np.asarray(value_E))


def estimate(name: str = "one", mean: float = 0.1, low: float = 0.05, high: float = 0.15) -> Estimate:
    return Estimate(name=name, mean=mean, low=low, high=high, told="tie")


def drawn(name: str) -> dict[str, Svg]:
    """Each chart with a series of that name."""
    return {
        "lines": era_lines(name, [cumulative(line(name)), cumulative(line("other", 1))], starts=[1, 5]),
        "by era": by_era(name, line(name), window=2, reach=(-0.2, 0.3), starts=[1, 5]),
        "fall": fall(name, drawdown(line(name)), reach=(-0.2, 0.0)),
        "learning": learning_curves(name, [HISTORY, HISTORY]),
        "forest": forest(name, [estimate(name), estimate("other", NAN, NAN, NAN)], unit=name),
        "bars": grouped_bars(name, {name: {name: 0.2, "rms": NAN}}, unit=name),
        "matrix": matrix(name, [name, "b"], [name, "b", "benchmark"], {(name, name): 1.0, (name, "b"): -0.5}),
        "timeline": timeline(name, [Spans(name=name, parts={"train": (1, 4), "validated": (6, 8)}, told=name)]),
    }


def elements(chart: bytes) -> list[tuple[str, dict[str, str]]]:
    """Every element of a file with its attributes; fails if it is not well-formed."""
    found: list[tuple[str, dict[str, str]]] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: found.append((name, attributes))
    parser.Parse(chart, True)
    return found


@pytest.mark.parametrize("kind", drawn("x"))
def test_a_chart_is_well_formed_says_what_it_is_and_names_no_address(kind: str) -> None:
    chart = drawn(MARK)[kind]
    tags = elements(standalone(chart))
    assert {name for name, _ in tags} <= {"svg", "style", "rect", "title", "path", "text", "circle"}
    assert chart.startswith('<svg class="chart"')
    assert 'role="img" aria-label="&lt;b&gt;&amp;&quot;x"><title>&lt;b&gt;&amp;&quot;x</title>' in chart
    assert MARK not in chart
    assert "http" not in chart
    assert not re.search(r"(?i)nan|inf\b", re.sub(r"<title>.*?</title>|aria-label=\".*?\"|<text.*?</text>", "", chart))


@pytest.mark.parametrize("kind", drawn("x"))
def test_the_same_series_give_the_same_bytes(kind: str) -> None:
    assert drawn("x")[kind] == drawn("x")[kind]


def test_a_control_character_in_a_name_cannot_break_the_file() -> None:
    assert elements(standalone(forest("a\x00\x1b", [estimate("b\x07")], unit="u")))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [svg.LIGHT, svg.DARK, svg.PRINT], ids=["light", "dark", "print"])
def test_every_colour_that_names_something_stands_out_from_the_sheet_as_text_must(theme: dict[str, str]) -> None:
    """4.5 to 1 for text, by WCAG 2.2; the names at the ends of lines have their colours."""
    for name in ("ink", "muted", *(f"c{i}" for i in range(svg.COLOURS))):
        assert contrast(theme[name], theme["sheet"]) >= 4.5, name


def test_thirty_series_differ_in_colour_or_dashes_and_neighbours_in_both() -> None:
    looks = [(colour_of(i), dash_of(i)) for i in range(30)]
    assert len(set(looks)) == 30
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(looks))


def test_every_line_is_named_at_its_end_and_no_two_names_touch() -> None:
    names = [f"recipe {i}" for i in range(12)]
    chart = era_lines("x", [line(name, i, [0.1, 0.1]) for i, name in enumerate(names)])
    places = {told: float(y) for y, told in re.findall(r'y="([\d.]+)" class="key k\d">(recipe \d+) ', chart)}
    assert list(places) == names
    assert min(abs(a - b) for a, b in combinations(places.values(), 2)) >= 16


def test_a_line_breaks_where_an_era_has_no_value() -> None:
    chart = era_lines("x", [line(value_E=[0.1, 0.2, NAN, 0.3, 0.4])])
    (d,) = re.findall(r'class="line k0 d0" d="(M[^h]+)"', chart)
    assert d.count("M") == 2
    assert d.count("L") == 2


def test_a_series_without_any_number_is_drawn_as_nothing() -> None:
    chart = era_lines("x", [line("gone", value_E=[NAN, NAN])])
    assert "gone" not in chart
    assert elements(standalone(chart))
    assert elements(standalone(fall("x", line("gone", value_E=[NAN, NAN]), reach=(-1.0, 0.0))))


def test_a_line_is_named_with_its_last_value_or_its_lowest() -> None:
    one = line(value_E=[0.0, -0.5, -0.25])
    assert ">one −0.25</text>" in era_lines("x", [one])  # noqa: RUF001 - a true minus sign
    assert ">one −0.50</text>" in era_lines("x", [one], lowest=True)  # noqa: RUF001


def test_the_sum_begins_with_the_first_score_and_the_drawdown_is_never_above_zero() -> None:
    sums = cumulative(line(value_E=[NAN, 0.2, NAN, -0.3, 0.4])).value_E
    assert np.isnan(sums[0])
    assert np.allclose(sums[1:], [0.2, 0.2, -0.1, 0.3])
    assert np.allclose(drawdown(line(value_E=[NAN, 0.2, NAN, -0.3, 0.4])).value_E[1:], [0.0, 0.0, -0.3, 0.0])


def test_bars_by_era_stand_above_and_below_zero_and_what_is_undefined_has_a_cross() -> None:
    chart = by_era("x", line(), window=3, reach=(-0.2, 0.3))
    above, below = (re.findall(rf'class="bars {k}"[^>]* d="([^"]+)"', chart)[0] for k in ("k0", "k1"))
    assert above.count("M") == 5
    assert below.count("M") == 2
    assert chart.count(">×</text>") == 1  # noqa: RUF001 - the mark of an undefined era
    assert "line: mean of 3 eras" in chart


def test_a_rolling_mean_is_that_of_the_last_eras_that_have_a_score() -> None:
    found = rolling_mean(SCORE_E, 3)
    expected = [np.nanmean(SCORE_E[i - 2 : i + 1]) for i in range(2, 8)]
    assert np.isnan(found[:2]).all()
    assert np.allclose(found[2:], expected)


def test_650_eras_take_a_few_thousand_bytes_a_line() -> None:
    value_E = np.random.default_rng(0).normal(size=650)
    one, two = (len(era_lines("x", [line(f"l{i}", i, value_E) for i in range(n)])) for n in (1, 2))
    assert two - one < 10_000
    assert len(by_era("x", line(value_E=value_E), window=12, reach=(-3, 3))) < 25_000


def test_learning_curves_have_a_thin_line_a_network_and_a_strong_one_for_their_mean() -> None:
    chart = learning_curves("x", [HISTORY, HISTORY, HISTORY])
    assert chart.count('class="line k0 thin"') == 3
    assert chart.count('class="line k0"') == 1
    assert chart.count('class="line k2 thin"') == 3
    assert ">epoch</text>" in chart
    assert ">step</text>" in learning_curves("x", [HISTORY], by_steps=True)
    assert "thin" not in learning_curves("x", [HISTORY])


def test_learning_curves_of_one_epoch_are_dots_and_undefined_ones_are_said() -> None:
    short = [[HISTORY[0] | {"validation_loss": 0.5, "spearman_mean": None}]]
    chart = learning_curves("x", short)
    assert chart.count("<circle") == 2
    assert 'class="hollow k1"' in chart, "the two losses must differ in more than their colour"
    assert "undefined after every epoch" in chart


def test_a_forest_plot_tells_its_figures_and_a_mean_without_an_interval_is_hollow() -> None:
    rows = [estimate("sure"), estimate("unsure", -0.1, NAN, NAN), estimate("nothing", NAN, NAN, NAN)]
    chart = forest("x", rows, unit="CORR", decimals=2)
    assert "0.10 (0.05 to 0.15) tie" in chart
    assert "−0.10, no interval tie" in chart  # noqa: RUF001
    assert ">– tie</text>" in chart  # noqa: RUF001
    assert chart.count('class="hollow') == 1
    assert chart.count('class="mark') == 1
    assert 'class="zero"' in chart


def test_a_matrix_says_every_number_and_how_large_it_is_by_its_tint() -> None:
    chart = matrix("x", ["a", "b"], ["a", "b", "benchmark"], {("a", "a"): 1.0, ("a", "b"): -0.5, ("b", "b"): 0.25})
    assert re.findall(r'text-anchor="middle">([^<]+)</text>', chart)[-6:] == [
        "1.00", "−0.50", "–", "–", "0.25", "–"]  # fmt: skip # noqa: RUF001
    tints = [float(tint) for tint in re.findall(r'fill-opacity="([\d.]+)"', chart)]
    assert tints[0] == 0.45
    assert tints[1] == pytest.approx(0.225, abs=0.01)
    assert 'class="mark k1" fill-opacity="0.2' in chart, "what is negative has another colour beside its sign"
    assert ">benchmark</text>" in chart


def test_exposures_are_bars_with_their_figures() -> None:
    chart = grouped_bars("x", {"a": {"max": 0.4, "rms": 0.1}, "b": {"max": 0.2, "rms": NAN}}, unit="u", decimals=2)
    widths = [float(width) for width in re.findall(r'<rect class="mark[^>]* width="([\d.]+)"', chart)]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
    assert widths[3] == 0
    assert [told in chart for told in (">max 0.40<", ">rms 0.10<", ">rms –<")] == [True] * 3  # noqa: RUF001


def test_a_time_line_ends_its_purge_where_the_validation_begins() -> None:
    parts = {"train": (1, 10), "purged": (11, 14), "validated": (15, 20)}
    chart = timeline("x", [Spans(name="fold 1", parts=parts)])
    spans = [
        (float(x), float(width)) for x, width in re.findall(r'<rect[^>]* x="([\d.]+)"[^>]* width="([\d.]+)"', chart)
    ]
    train, purged, validated = spans[3:]
    assert sum(train) == pytest.approx(purged[0], abs=0.2)
    assert sum(purged) == pytest.approx(validated[0], abs=0.2)


@pytest.mark.parametrize(("low", "high"), [(-0.013, 0.052), (0, 1234), (-1, 1), (0.5, 0.50001), (-300, -299)])
def test_ticks_are_round_few_and_within(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert 1 <= len(found) <= 5
    assert all(low <= value <= high for value in found)
    told = tick_texts(found)
    assert len(set(told)) == len(told)


def test_ticks_of_one_value_are_that_value() -> None:
    assert ticks(0.0, 0.0, 5) == [0.0]
    assert tick_texts([0.0]) == ["0"]


def test_places_are_spread_within_their_bounds() -> None:
    found = spread([95.0, 96.0, 97.0, 10.0], 10.0, 0.0, 100.0)
    assert found == [80.0, 90.0, 100.0, 10.0]
