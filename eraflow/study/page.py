"""A study as one HTML page that needs no network: the verdict first, then what it stands on.

Read `study_page`: a section each, in the order in which a reader asks. Everything is drawn from what `run.Found` holds;
metrics that are not there are left out, and a value that is not defined is an en dash. The same study gives the same
bytes but for the time that its units took. The charts are in `charts` and `row_charts`, what was compared in
`study.compared`, the lines to submit in `study.weekly_lines`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eraflow.charts import Line
from eraflow.html import (
    Markup,
    Number,
    document,
    escaped,
    figure,
    joined,
    listed,
    numeric,
    paragraph,
    section,
    table,
)
from eraflow.metric_texts import (
    difference_cell,
    figure_cells,
    heading_of,
    headings,
    mean_cell,
    reasons,
    share_text,
    text_of,
    titled,
    verdict_word,
)
from eraflow.recipes import Recipe
from eraflow.row_charts import Estimate, forest, grouped_bars, matrix
from eraflow.score_figures import learning, over_eras
from eraflow.store import write_atomically
from eraflow.study.compared import (
    candidates_section,
    data_section,
    folds_section,
    names_of,
    time_section,
    weekly_section,
)
from eraflow.study.run import Found
from eraflow.study.verdict import Verdict
from eraflow.svg import Svg, colour_of, signed
from eraflow.uncertainty import MODELS, RECIPES, Difference, Interval, SeedNoise
from eraflow.verdict import counted_text

PAGE = "report.html"
NOTHING = "No candidate was finished on all folds."
EXPOSURES = ("exposure_max", "exposure_rms")
BENCHMARK = "benchmark_corr"
ESTIMATED = {
    MODELS: "The intervals are about these trained models on other eras like these: another seed may do better or"
    " worse.",
    RECIPES: "The intervals are about the recipes, trained anew with other seeds and scored on other eras like these.",
}
F64 = npt.NDArray[np.float64]


def write_page(found: Found) -> Path:
    """Write the page into the study's folder, whole or not at all. Raises `StorageError` if it cannot be written."""
    path = found.study.folder / PAGE
    write_atomically(path, study_page(found).encode())
    return path


def study_page(found: Found) -> str:
    """The whole page."""
    verdict, study = found.verdict, found.study
    parts: list[Markup | None] = [_header(found)]
    if verdict is not None:
        decides = heading_of(verdict.metric)
        parts += [
            section(f"{decides} decides: {text_of(verdict.metric).explanation}", _deciding(found, verdict)),
            section("The other metrics", _others(found, verdict)),
            section(f"{decides} over the eras", _over_eras(found, verdict)),
            section("Exposures to features", _exposures(verdict)),
            section("Learning curves", _learning(found)),
            section("Correlation of the predictions", _correlation(found, verdict)),
        ]
    parts += [
        section("What was compared", joined([candidates_section(study), folds_section(study)])),
        section("Data", data_section(found)),
        section("Time", time_section(found)),
    ]
    if verdict is not None:
        parts.append(section("Lines for weekly.toml", weekly_section(study, verdict)))
    return document(sentence_of(found), parts)


def sentence_of(found: Found) -> str:
    """The verdict in one sentence."""
    return NOTHING if found.verdict is None else found.verdict.sentence


def estimated_text(verdict: Verdict) -> str:
    """What the intervals are about, how many comparisons were made, and how the verdicts account for them."""
    compared = list(verdict.comparisons[verdict.metric].values())
    rows = verdict.rows[verdict.metric].values()
    kinds = dict.fromkeys(one.estimated for one in compared) or {
        RECIPES if any(row.noise.seeds > 1 for row in rows) else MODELS: None
    }
    told = " ".join(ESTIMATED.get(kind, kind) for kind in kinds)
    if not compared:
        return f"{told} There is nothing to compare with."
    counted = counted_text(len(compared), "comparison")
    if len(compared) < 2:
        return f"{told} {counted} with {verdict.against}."
    corrected = "verdicts are corrected for their number by Holm's method, and so is what is said to be above 0"
    return f"{told} {counted} with {verdict.against}; {corrected}."


def series(found: Found, metric: str) -> list[Line]:
    """The mean over seeds of each finished candidate by era; a candidate keeps its index whatever is finished."""
    places = {name: index for index, name in enumerate(names_of(found.study))}
    order_E = np.argsort(found.scores.era_E, kind="stable")
    return [
        Line(name=name, index=places[name], era_E=found.scores.era_E[order_E], value_E=score_SE.mean(0)[order_E])
        for name, score_SE in found.scores.by_metric[metric].items()
    ]


def means_forest(verdict: Verdict) -> Svg:
    """Each candidate's mean of the deciding metric with its interval."""
    told = text_of(verdict.metric)
    rows = [_estimate(name, row.interval) for name, row in verdict.rows[verdict.metric].items()]
    return forest(f"{told.label}: means with 95 % intervals", rows, unit=told.label, decimals=told.decimals)


def differences_forest(verdict: Verdict) -> Svg:
    """Each candidate less the baseline in the deciding metric; the intervals are of each comparison alone."""
    told = text_of(verdict.metric)
    colours = {"better": colour_of(2), "worse": colour_of(1)}
    rows = []
    for name, difference in verdict.comparisons[verdict.metric].items():
        word = verdict_word(verdict.metric, difference)
        rows.append(_estimate(name, difference.interval, colour=colours.get(word, "ki"), told=word))
    title = f"{told.label}: differences from {verdict.against} with 95 % intervals"
    return forest(title, rows, unit=f"{told.label} less that of {verdict.against}", decimals=told.decimals)


def _header(found: Found) -> Markup:
    verdict, study = found.verdict, found.study
    said = verdict is not None and any(
        difference.interval.defined for difference in verdict.comparisons[verdict.metric].values()
    )
    kind = "" if said or (verdict is not None and not verdict.comparisons[verdict.metric]) else ' class="nothing"'
    lines = [f"<h1{kind}>{escaped(sentence_of(found))}</h1>"]
    if verdict is not None:
        lines.append(paragraph(estimated_text(verdict)))
        lacking = reasons([row.interval for row in verdict.rows[verdict.metric].values()])
        lines += [paragraph(f"No interval: {why}.", "unsafe") for why in lacking]
    if missing := found.scores.unfinished:
        total = counted_text(len(names_of(study)), "candidate")
        lines.append(paragraph(f"{len(missing)} of {total} not finished, and in no table:", "unsafe"))
        lines.append(listed(f"{name}: {why}" for name, why in missing.items()))
    eras = counted_text(len(found.scores.era_E), "era")
    folds = counted_text(len(study.folds), "fold")
    head = f"{counted_text(len(names_of(study)), 'candidate')}, {folds}, {eras} validated, target {study.target}."
    lines.append(paragraph(head, "muted"))
    if study.config.reserve:
        lines.append(paragraph("These eras are the reserve: whatever is changed after this was not judged on them."))
    return Markup("<header>\n" + "\n".join(lines) + "\n</header>")


def _deciding(found: Found, verdict: Verdict) -> Markup | None:
    label = text_of(verdict.metric).label
    parts: list[Markup | None] = [
        _scores(found, verdict, verdict.metric),
        figure(f"Mean {label} of each candidate", means_forest(verdict), "with 95 % intervals"),
    ]
    if verdict.comparisons[verdict.metric]:
        note = "each interval is of its comparison alone; the verdict also counts how many there are"
        parts.append(figure(f"Difference from {verdict.against}", differences_forest(verdict), note))
    return joined([*parts, _noise(verdict)])


def _eras_text(found: Found, verdict: Verdict, metric: str) -> str:
    """How many eras have that score, where it is not all."""
    eras = max(row.interval.eras for row in verdict.rows[metric].values())
    return f"; {counted_text(eras, 'era')} alone" if eras < len(found.scores.era_E) else ""


def _scores(found: Found, verdict: Verdict, metric: str, **look: str) -> Markup:
    """The table of one score: a row for each candidate."""
    shares, compared = found.shares.get(metric, {}), verdict.comparisons[metric]
    head: list[object] = ["candidate", *headings()]
    head += [Markup("of the best<br> reachable")] if shares else []
    head += [f"against {verdict.against}"] if compared else []
    rows = [
        [
            name,
            *figure_cells(metric, row.interval, row.summary, row.positive),
            *([_share_cell(shares.get(name))] if shares else []),
            *([_against(metric, compared.get(name))] if compared else []),
        ]
        for name, row in verdict.rows[metric].items()
    ]
    return table(head, rows, **look)


def _share_cell(share: Interval | None) -> Markup | None:
    if share is None or not math.isfinite(share.mean):
        return None
    bounds = f"({share_text(share.low)} to {share_text(share.high)})" if share.defined else ""
    return Markup(f'<span class="still">{share_text(share.mean)}</span> <span class="still muted">{bounds}</span>')


def _noise(verdict: Verdict) -> Markup | None:
    """How much of the scatter is of seeds, and how much of eras."""
    decimals = text_of(verdict.metric).decimals
    rows = [
        [name, numeric(str(row.noise.seeds)), *_deviations(row.noise, decimals)]
        for name, row in verdict.rows[verdict.metric].items()
        if row.noise.seeds > 1
    ]
    if not rows:
        return None
    caption = "What varies, as standard deviations: of a model's mean over a fold between seeds, of scores between eras"
    names = ("seeds", "between seeds", "between eras", "the rest", "standard error of one model")
    return table(["candidate", *map(numeric, names)], rows, caption=f"{caption}.", kind="close")


def _deviations(noise: SeedNoise, decimals: int) -> list[Number]:
    told = (noise.seed_sd, noise.era_sd, noise.rest_sd, noise.model_standard_error)
    return [numeric(signed(value, decimals)) for value in told]


def _others(found: Found, verdict: Verdict) -> Markup | None:
    """A compact table for each score that does not decide, and one for all that only describe a candidate."""
    others = [metric for metric in verdict.rows if metric != verdict.metric]
    scores = [
        _scores(found, verdict, metric, caption=f"{titled(metric)}{_eras_text(found, verdict, metric)}", kind="close")
        for metric in others
        if text_of(metric).sums
    ]
    return joined([*scores, _describing(verdict, [metric for metric in others if not text_of(metric).sums])])


def _describing(verdict: Verdict, metrics: Sequence[str]) -> Markup | None:
    if not metrics:
        return None
    rows = [
        [name, *(mean_cell(metric, verdict.rows[metric][name].interval) for metric in metrics)]
        for name in verdict.rows[metrics[0]]
    ]
    head = ["candidate", *(numeric(heading_of(metric)) for metric in metrics)]
    return table(head, rows, caption="What describes a candidate: means over eras with 95 % intervals", kind="close")


def _against(metric: str, difference: Difference | None) -> Markup | None:
    return None if difference is None else difference_cell(metric, difference)


def _over_eras(found: Found, verdict: Verdict) -> Markup | None:
    starts = [int(fold.validation_E[0]) for fold in found.study.folds]
    return over_eras(
        text_of(verdict.metric).label,
        series(found, verdict.metric),
        horizon_eras=found.study.horizon_eras,
        starts=starts,
    )


def _exposures(verdict: Verdict) -> Markup | None:
    """Grouped bars of whatever exposures there are."""
    kinds = [metric for metric in EXPOSURES if metric in verdict.rows]
    if not kinds:
        return None
    names = list(verdict.rows[kinds[0]])
    groups = {
        name: {
            text_of(kind).label: verdict.rows[kind][name].interval.mean for kind in kinds if name in verdict.rows[kind]
        }
        for name in names
    }
    title = "Exposure of each candidate to the features, mean over eras"
    told = "; ".join(f"{text_of(kind).label}: {text_of(kind).explanation}" for kind in kinds)
    return joined([figure("Mean over eras", grouped_bars(title, groups, unit="correlation, without its sign"), told)])


def _learning(found: Found) -> Markup | None:
    return joined(
        learning(
            one.name,
            [
                history
                for unit in found.study.units
                if unit.candidate.name == one.name
                for history in _of(found, unit.key)
            ],
            by_steps=isinstance(one, Recipe) and one.training.epochs is None,
        )
        for one in found.study.candidates
    )


def _of(found: Found, key: str) -> Iterable[list[Mapping[str, object]]]:
    return [list(history) for history in found.done[key].histories] if key in found.done else []


def _correlation(found: Found, verdict: Verdict) -> Markup | None:
    """Between candidates, and with the benchmark where that is known."""
    names = list(verdict.rows[verdict.metric])
    value = dict(found.scores.correlation)
    columns = list(names)
    if BENCHMARK in verdict.rows:
        columns.append("benchmark")
        value |= {(name, "benchmark"): row.interval.mean for name, row in verdict.rows[BENCHMARK].items()}
    if len(columns) < 2:
        return None
    title = "Correlation of the predictions of two candidates, mean over eras"
    return figure("Mean over eras", matrix(title, names, columns, value), "of the first seeds; columns by their number")


def _estimate(name: str, interval: Interval, *, colour: str = "ki", told: str = "") -> Estimate:
    return Estimate(name=name, mean=interval.mean, low=interval.low, high=interval.high, colour=colour, told=told)
