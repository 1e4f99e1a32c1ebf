"""What the metrics are called, how their figures are written, and what an interval or a comparison says in words.

The pages of a round and of a study share it. A metric that is not in `METRICS` goes by its own name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eraflow.html import Markup, Number, escaped, numeric
from eraflow.metrics import Summary
from eraflow.svg import signed
from eraflow.uncertainty import Difference, Interval


@dataclass(frozen=True, kw_only=True)
class MetricText:
    """One metric for people."""

    label: str
    explanation: str
    decimals: int = 4
    better: Literal["higher", "lower", ""] = "higher"
    """Empty where neither is better in itself."""
    sums: bool = True
    """A sum over eras means something: it is a score, and has a Sharpe and a drawdown."""


METRICS: Mapping[str, MetricText] = {
    "spearman": MetricText(label="Spearman", explanation="rank correlation with the target"),
    "numerai_corr": MetricText(label="CORR", explanation="the tournament's correlation with the target"),
    "fnc": MetricText(label="FNC", explanation="CORR of what is not linear in the features"),
    "mmc": MetricText(label="MMC", explanation="what the prediction adds to the meta model"),
    "bmc": MetricText(label="BMC", explanation="what the prediction adds to the benchmark model"),
    "payout": MetricText(label="payout", explanation="what a unit of stake is paid in an era", decimals=3),
    "exposure_max": MetricText(
        label="largest exposure", explanation="the largest correlation with any feature, without its sign",
        decimals=3, better="lower", sums=False,
    ),
    "exposure_rms": MetricText(
        label="RMS exposure", explanation="root mean square of the correlations with all features", decimals=3,
        better="lower", sums=False,
    ),
    "benchmark_corr": MetricText(
        label="correlation with the benchmark", explanation="of the predictions, by era", decimals=3, better="",
        sums=False,
    ),
}  # fmt: skip
FIGURE_HEADINGS = ("mean", "95 % interval", "Sharpe", "drawdown", "eras above 0")


def text_of(metric: str) -> MetricText:
    """Of a metric that nobody described its own name."""
    return METRICS.get(metric, MetricText(label=metric, explanation=""))


def heading_of(metric: str) -> str:
    """The label as a heading begins with it.

    >>> heading_of("payout"), heading_of("mmc")
    ('Payout', 'MMC')
    """
    label = text_of(metric).label
    return label[:1].upper() + label[1:]


def titled(metric: str) -> str:
    """The label and what it means: `CORR, the tournament's correlation with the target`."""
    told = text_of(metric).explanation
    return f"{heading_of(metric)}, {told}" if told else heading_of(metric)


def titled_cell(metric: str) -> Markup:
    """The same as a row's name."""
    told = text_of(metric)
    return Markup(f'{escaped(told.label)} <span class="muted">{escaped(told.explanation)}</span>')


def span_text(interval: Interval, decimals: int = 4) -> str:
    """The bounds, an en dash where there are none.

    >>> from eraflow.uncertainty import interval
    >>> span_text(interval([0.5, 0.25, 0.75], [1, 2, 3], horizon_eras=1), 2), span_text(
    ...     interval([0.5], [1], horizon_eras=4))
    ('−0.12 to 1.12', '–')
    """
    if not interval.defined:
        return signed(math.nan)
    return f"{signed(interval.low, decimals)} to {signed(interval.high, decimals)}"


def share_text(share: float) -> str:
    """A share in per cent, an en dash for one that is not defined.

    >>> share_text(0.574), share_text(float("nan"))
    ('57 %', '–')
    """
    return f"{signed(100 * share, 0)} %" if math.isfinite(share) else signed(math.nan)


def headings() -> list[object]:
    """What `figure_cells` are called."""
    return [numeric(name) for name in FIGURE_HEADINGS]


def figure_cells(metric: str, interval: Interval, summary: Summary, positive: float) -> list[object]:
    """The cells of a score beneath `headings`."""
    decimals = text_of(metric).decimals
    figures = (
        signed(interval.mean, decimals),
        span_text(interval, decimals),
        signed(summary.sharpe, 2),
        signed(summary.max_drawdown, decimals),
        share_text(positive),
    )
    return [numeric(figure) for figure in figures]


def mean_cell(metric: str, interval: Interval) -> Number:
    """A mean with its interval in one cell."""
    decimals = text_of(metric).decimals
    span = f" ({span_text(interval, decimals)})" if interval.defined else ""
    return numeric(f"{signed(interval.mean, decimals)}{span}")


def verdict_word(metric: str, difference: Difference) -> str:
    """What a comparison came to: `better`, `worse`, `tie`, `undefined`; `higher`, `lower` where neither is better."""
    verdict, better = difference.verdict, text_of(metric).better
    if verdict in ("tie", "undefined") or better == "higher":
        return verdict
    higher = verdict == "better"
    if better == "lower":
        return "worse" if higher else "better"
    return "higher" if higher else "lower"


def difference_cell(metric: str, difference: Difference) -> Markup:
    """The verdict in a word with its p value, and beneath it the difference with its interval."""
    word, decimals = verdict_word(metric, difference), text_of(metric).decimals
    kind = {"better": "safe", "worse": "unsafe"}.get(word, "nothing")
    found = difference.interval
    if not found.defined:
        return Markup(f'<span class="nothing">{escaped("nothing can be said")}</span>')
    mean, bounds = escaped(signed(found.mean, decimals)), escaped(f"({span_text(found, decimals)})")
    head = escaped(f"{word}, {p_text(difference)}")
    told = f'<span class="muted still">{mean}</span> <span class="muted still">{bounds}</span>'
    return Markup(f'<span class="{kind}">{head}</span><br>{told}')


def p_text(difference: Difference) -> str:
    """The p value after the correction for the number of comparisons."""
    p = difference.adjusted_p_value
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def reasons(intervals: Sequence[Interval]) -> list[str]:
    """Why there is no interval, each reason once."""
    return list(dict.fromkeys(one.lacking for one in intervals if not one.defined))
