"""A study as the dashboard shows it: the verdict, the table, charts and the lines to submit, as Markdown.

The charts are SVG inside the text, on a light card, which Prefect's user interfaces show as a picture. Everything
else that a study has to say stands on its page (`study.page`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from eraflow.charts import cumulative, era_lines
from eraflow.dashboard import Answer
from eraflow.markdown import escaped, table
from eraflow.metric_texts import p_text, share_text, span_text, text_of, titled, verdict_word
from eraflow.study.page import (
    differences_forest,
    estimated_text,
    means_forest,
    sentence_of,
    series,
)
from eraflow.study.run import Found
from eraflow.study.verdict import Row, Verdict
from eraflow.study.weekly_lines import advice
from eraflow.svg import DASH, Svg, signed, standalone
from eraflow.uncertainty import Difference

KEY = "study"
# The dashboard's list of artifacts carries all of their data. What doesn't fit is left out and said.
MOST_BYTES = 290_000


def study_answer(found: Found) -> Answer:
    """The answer to "which of these is better?"; charts that would make its Markdown too large are left out."""
    verdict, sentence = found.verdict, sentence_of(found)
    head, foot = [f"## {escaped(sentence)}", *_missing(found)], list[str]()
    if verdict is not None:
        head += [escaped(estimated_text(verdict)), _table(found, verdict)]
        foot = _advice(found, verdict)
    left, drawn = MOST_BYTES - len("\n\n".join([*head, *foot]).encode()), list[str]()
    for title, chart in _charts(found):
        picture = _picture(title, chart)
        if len(picture) > left:
            picture = "Too large for the dashboard; the chart is on the study's page."
        drawn.append(f"**{escaped(title)}**\n\n{picture}")
        left -= len(drawn[-1].encode())
    return Answer(key=KEY, sentence=sentence, markdown="\n\n".join([*head, *drawn, *foot]))


def _missing(found: Found) -> list[str]:
    if not found.scores.unfinished:
        return []
    told = "\n".join(f"- {escaped(name)}: {escaped(why)}" for name, why in found.scores.unfinished.items())
    return [f"**Not finished, and in no table:**\n\n{told}"]


def _table(found: Found, verdict: Verdict) -> str:
    metric, shares = verdict.metric, found.shares.get(verdict.metric, {})
    headings = ["", "mean", "95 % interval", "Sharpe", "drawdown", "eras above 0"]
    headings += ["of the best reachable"] if shares else []
    rows = [
        [
            name,
            *_figures(metric, row),
            *([share_text(shares[name].mean) if name in shares else DASH] if shares else []),
            _against(metric, verdict.comparisons[metric].get(name)),
        ]
        for name, row in verdict.rows[metric].items()
    ]
    return f"### {escaped(titled(metric))}\n\n{table([*headings, f'against {verdict.against}'], rows)}"


def _figures(metric: str, row: Row) -> list[str]:
    decimals = text_of(metric).decimals
    return [
        signed(row.interval.mean, decimals),
        span_text(row.interval, decimals),
        signed(row.summary.sharpe, 2),
        signed(row.summary.max_drawdown, decimals),
        share_text(row.positive),
    ]


def _against(metric: str, difference: Difference | None) -> str:
    if difference is None:
        return DASH
    if not difference.interval.defined:
        return "nothing can be said"
    return f"{verdict_word(metric, difference)}, {p_text(difference)}"


def _advice(found: Found, verdict: Verdict) -> list[str]:
    told = advice(found.study, verdict)
    lines = [] if told.lines is None else ["\n".join(f"    {line}" for line in told.lines.splitlines())]
    return ["### Lines for weekly.toml", *map(escaped, told.sentences), *lines]


def _charts(found: Found) -> Iterator[tuple[str, Svg]]:
    verdict = found.verdict
    if verdict is None:
        return
    label, lines = text_of(verdict.metric).label, series(found, verdict.metric)
    yield f"Mean {label} of each candidate", means_forest(verdict)
    if verdict.comparisons[verdict.metric]:
        yield f"Difference from {verdict.against}", differences_forest(verdict)
    yield f"Cumulative {label}", era_lines(f"Cumulative {label} by era", [cumulative(line) for line in lines])


def _picture(title: str, drawn: Svg) -> str:
    data = base64.b64encode(standalone(drawn)).decode()
    return f"![{escaped(title)}](data:image/svg+xml;base64,{data})"
