"""One trained model on the page of a round: how good it is and how sure that is, in the parts that a study's page has.

Read `model_section`. Everything is taken from the model's folder as it lies there; nothing is predicted or scored. The
intervals are about this trained model, on other eras like those of its hold-out (docs/validation.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eraflow.charts import Line
from eraflow.errors import EraflowError
from eraflow.html import Markup, code, escaped, joined, listed, pairs, paragraph, table
from eraflow.metric_texts import figure_cells, headings, reasons, text_of, titled_cell
from eraflow.metrics import summary
from eraflow.pictures import TIMES, figure_text, sample_text
from eraflow.prepared import NUMERAI_CORR, SPEARMAN
from eraflow.result import ModelReport
from eraflow.score_figures import learning, over_eras
from eraflow.splits import horizon_eras
from eraflow.svg import MINUS
from eraflow.trained import Trained, load
from eraflow.uncertainty import Interval, interval

FIGURES = {
    "spearman_mean": "mean era Spearman",
    "spearman_std": "standard deviation over eras",
    "sharpe": "Sharpe",
    "max_drawdown": "largest drawdown",
    "numerai_corr_mean": "mean Numerai CORR",
}
ABOUT = "The intervals are about this trained model, on other eras like these: another seed may do better or worse."


def model_section(model: ModelReport) -> Markup | None:
    """Figures with intervals, charts, and what the model was made from; without its folder what the run knows of it."""
    try:
        made = load(model.folder)
    except EraflowError as error:
        why = f"Training curve of {model.recipe} cannot be drawn ({error.code}), nor its scores by era."
        known = [(name, figure_text(model.validation.get(key))) for key, name in FIGURES.items()]
        return joined([pairs([*_facts(model), *known]), paragraph(why, "muted"), _notes(model)])
    metric = _deciding(made)
    lines = [Line(name=made.recipe.name, index=0, era_E=_eras(made), value_E=_scores(made, metric))]
    spread = ("standard deviation of Spearman over eras", figure_text(made.validation.spearman_std))
    sampled = sample_text(made)
    return joined(
        [
            *_judged(made),
            pairs([*_facts(model), spread]),
            over_eras(text_of(metric).label, lines, horizon_eras=_horizon(made)),
            _learning(made),
            paragraph(sampled, "muted") if sampled else None,
            _notes(model),
        ]
    )


def sentence_of(found: Interval, label: str) -> str:
    """What one mean with its interval says of the sign of the true one."""
    if not found.defined:
        return f"Nothing can be said of {label}: {found.lacking}."
    told = str(found).replace("-", MINUS)
    if found.low > 0:
        return f"{label} is above 0 for certain: {told}."
    if found.high < 0:
        return f"{label} is below 0 for certain: {told}."
    return f"{label} cannot be told from 0: {told}."


def _judged(made: Trained) -> list[Markup | None]:
    """A sentence, the table of metrics, and why an interval is not there."""
    horizon, era_E = _horizon(made), _eras(made)
    found = {
        metric: interval(_scores(made, metric), era_E, horizon_eras=horizon) for metric in (NUMERAI_CORR, SPEARMAN)
    }
    rows = [
        [titled_cell(metric), *figure_cells(metric, one, summary(_scores(made, metric)), _positive(made, metric))]
        for metric, one in found.items()
    ]
    said = sentence_of(found[_deciding(made)], text_of(_deciding(made)).label)
    lacking = [why for why in reasons(list(found.values())) if why not in said]
    return [
        Markup(f"<p><strong>{escaped(said)}</strong></p>"),
        paragraph(f"No interval: {'; '.join(lacking)}.", "muted") if lacking else None,
        paragraph(ABOUT, "muted") if any(one.defined for one in found.values()) else None,
        table(["on its hold-out", *headings()], rows),
    ]


def _deciding(made: Trained) -> str:
    """The metric nearest to what is paid that the hold-out defines."""
    return NUMERAI_CORR if np.isfinite(_scores(made, NUMERAI_CORR)).any() else SPEARMAN


def _facts(model: ModelReport) -> list[tuple[str, object]]:
    found = model.validation
    facts: list[tuple[str, object]] = [
        ("model", code(model.model_id)),
        ("trained on", f"{model.rows:,} rows {TIMES} {model.features:,} features"),
        ("target", model.target),
        ("length", f"{model.epochs} epochs" if model.epochs else "by steps"),
        ("device", model.device),
        ("reported on", "a hold-out" + ("; then fitted again on all labelled eras" if model.refit else "")),
        ("eras scored", found.get("eras")),
        ("eras undefined", found.get("undefined")),
        ("untrained mean era Spearman", figure_text(model.untrained_spearman) + _untrained_text(model)),
    ]
    if model.best_reachable_spearman is not None:
        facts.append(("best reachable mean era Spearman", figure_text(model.best_reachable_spearman)))
    if model.speed_text:
        facts.append(("speed of its training", model.speed_text))
    return facts


def _untrained_text(model: ModelReport) -> str:
    """What the untrained network was judged on, where that is less than the model was."""
    eras = model.untrained_eras
    judged = model.validation.get("eras", 0) + model.validation.get("undefined", 0)
    return f", on {eras} of its eras, evenly spread" if eras and eras < judged else ""


def _learning(made: Trained) -> Markup | None:
    by_steps = made.recipe.training.epochs is None
    return learning(f"Learning curves of {made.recipe.name}", made.histories, by_steps=by_steps)


def _notes(model: ModelReport) -> Markup | None:
    return joined([Markup("<h3>Notes</h3>"), listed(model.notes)]) if model.notes else None


def _horizon(made: Trained) -> int:
    return horizon_eras(made.target_equals or made.recipe.data.target)


def _eras(made: Trained) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([one.era for one in made.validation.per_era], np.int64)


def _scores(made: Trained, metric: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values: Sequence[float | None] = [
        one.spearman if metric == SPEARMAN else one.numerai_corr for one in made.validation.per_era
    ]
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _positive(made: Trained, metric: str) -> float:
    score_E = _scores(made, metric)
    known_E = score_E[~np.isnan(score_E)]
    return float((known_E > 0).mean()) if len(known_E) else math.nan
