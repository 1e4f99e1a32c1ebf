"""What a study came to, for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from eraflow.study.run import Found
from eraflow.study.scores import DESCRIBING
from eraflow.study.verdict import Row, Verdict
from eraflow.uncertainty import Difference, Interval


def text(found: Found) -> str:
    """The verdict in a sentence, then a table for the metric that decides and one line for each other."""
    folds, verdict = found.study.folds, found.verdict
    eras = len(found.scores.era_E)
    head = (
        f"{len(found.study.candidates)} recipes, {len(folds)} folds, {eras} eras validated, target"
        f" {found.study.target}, {purge_text(found)}"
    )
    if verdict is None:
        return f"No recipe was finished on all folds.\n{head}"
    return "\n".join([verdict.sentence, "", head, "", *_tables(verdict, found.shares)])


def json_object(found: Found) -> dict[str, Any]:
    """Everything that the text says, and every era's scores."""
    return {
        "folder": str(found.study.folder),
        "target": found.study.target,
        "folds": [str(fold) for fold in found.study.folds],
        "verdict": None if found.verdict is None else _told(found.verdict),
        "unfinished": dict(found.scores.unfinished),
        "eras": found.scores.era_E.tolist(),
        "scores": {
            metric: {name: [[_plain(x) for x in row] for row in score_SE.tolist()] for name, score_SE in table.items()}
            for metric, table in found.scores.by_metric.items()
        },
        "shares": {
            metric: {name: [_plain(x) for x in (one.mean, one.low, one.high)] for name, one in table.items()}
            for metric, table in found.shares.items()
        },
        "seconds": sum(done.seconds for done in found.done.values()),
    }


def purge_text(found: Found) -> str:
    """Which eras are left out before each fold, and what the intervals take the targets to reach over."""
    given, reach = found.study.config.folds.purge_eras, found.study.horizon_eras
    purge = f"purge by the horizon of {found.study.horizon_target}" if given is None else f"purge of {given} eras"
    return f"{purge}, intervals for targets over {reach} era{'s' if reach > 1 else ''}"


def _tables(verdict: Verdict, shares: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    lines = []
    width = max(len(name) for name in verdict.rows[verdict.metric])
    for metric, rows in verdict.rows.items():
        decides = ", which decides" if metric == verdict.metric else ""
        compared = f", against {verdict.against}" if verdict.comparisons[metric] else ""
        describes = metric in DESCRIBING
        sharpe = "" if describes else ", Sharpe"
        eras = max(row.interval.eras for row in rows.values())
        lines.append(f"{metric} of {eras} eras{decides}: mean with 95 % interval{sharpe}{compared}")
        for name, row in rows.items():
            said = [
                _row(row, sharpe=not describes),
                _against(verdict.comparisons[metric].get(name)),
                _share(shares.get(metric, {}).get(name)),
            ]
            lines.append(f"  {name:{width}}  {'  '.join(filter(None, said))}")
        lines.append("")
    return lines[:-1]


def _row(row: Row, *, sharpe: bool) -> str:
    interval = row.interval
    span = f"{interval.low:+.4f} to {interval.high:+.4f}" if interval.defined else "no interval"
    told = f"{interval.mean:+.4f} ({span})"
    return f"{told}  {row.summary.sharpe:+.2f}" if sharpe else told


def _against(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{difference.verdict} by {difference.interval.mean:+.4f}, p = {difference.adjusted_p_value:.2g}"


def _share(share: Interval | None) -> str:
    """Of the best that a model which is fitted once can reach."""
    if share is None or not share.defined:
        return ""
    return f"{share.mean:.0%} of the best ({share.low:.0%} to {share.high:.0%})"


def _told(verdict: Verdict) -> dict[str, Any]:
    return {
        "metric": verdict.metric,
        "against": verdict.against,
        "sentence": verdict.sentence,
        "metrics": {
            metric: {
                name: _figures(row)
                | ({"against": _compared(compared)} if (compared := verdict.comparisons[metric].get(name)) else {})
                for name, row in rows.items()
            }
            for metric, rows in verdict.rows.items()
        },
    }


def _figures(row: Row) -> dict[str, Any]:
    found = {name: _plain(value) for name, value in dataclasses.asdict(row.summary).items()}
    interval = row.interval
    return found | {
        "mean": _plain(interval.mean),
        "low": _plain(interval.low),
        "high": _plain(interval.high),
        "positive": _plain(row.positive),
        "seed_sd": _plain(row.noise.seed_sd),
        "lacking": interval.lacking,
    }


def _compared(difference: Difference) -> dict[str, Any]:
    interval = difference.interval
    return {
        "verdict": difference.verdict,
        "mean": _plain(interval.mean),
        "low": _plain(interval.low),
        "high": _plain(interval.high),
        "p": _plain(difference.adjusted_p_value),
        "comparisons": difference.comparisons,
    }


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
