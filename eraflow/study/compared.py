"""What a study compared, on what data, and how long it took: the sections of its page beneath the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eraflow.config import to_table
from eraflow.html import Markup, bar, code, escaped, figure, joined, numeric, pairs, paragraph, preformatted, table
from eraflow.recipes import Recipe
from eraflow.rounds import duration_text
from eraflow.row_charts import Spans, timeline
from eraflow.splits import Eras
from eraflow.study.candidates import Candidate
from eraflow.study.plan import Study
from eraflow.study.run import Found
from eraflow.study.verdict import Verdict
from eraflow.study.weekly_lines import SLOT, advice
from eraflow.svg import DASH
from eraflow.verdict import counted_text


def names_of(study: Study) -> list[str]:
    """All that is compared, in the order in which it is told: the candidates, then the ensembles of them."""
    return [*(one.name for one in study.candidates), *study.config.ensembles]


def candidates_section(study: Study) -> Markup:
    """Each candidate with what it is and the values that differ from the baseline's."""
    rows: list[list[object]] = [[one.name, _kind(one), _values_text(one, study)] for one in study.candidates]
    rows += [
        [name, "ensemble", f"the mean rank of {', '.join(members)}"] for name, members in study.config.ensembles.items()
    ]
    return table(["candidate", "kind", "values"], rows)


def folds_section(study: Study) -> Markup | None:
    """A time line of the folds."""
    rows = [
        Spans(
            name=f"fold {fold.number}" if fold.number else "reserve",
            parts={
                "train": _span(fold.train_E),
                "purged": _span(fold.purged_E),
                "validated": _span(fold.validation_E),
            },
            told=f"{len(fold.train_E):,} / {len(fold.purged_E):,} / {len(fold.validation_E):,} eras",
        )
        for fold in study.folds
    ]
    lines = "; ".join(f"{row.name}: {row.told} train / purged / validated" for row in rows)
    return figure("Folds", timeline(f"The folds over eras. {lines}", rows), "eras that train / purged / validated")


def data_section(found: Found) -> Markup:
    """Files with their hashes, and what of them was used."""
    study = found.study
    rows = [
        [
            one.source.name,
            numeric(f"{one.rows:,}"),
            numeric(f"{len(np.unique(one.era_N)):,}"),
            numeric(f"{int((~np.isnan(one.column(study.target))).sum()):,}"),
            code(one.sha256),
        ]
        for one in study.stored
    ]
    headings = ["file", *map(numeric, ("rows", "eras", "with the target")), "sha256"]
    horizon, purge = study.horizon_eras, study.config.folds.purge_eras
    equals = f", which equals {study.horizon_target}" if study.horizon_target != study.target else ""
    purged = max((len(fold.purged_E) for fold in study.folds), default=0)
    sets = dict.fromkeys(one.data.feature_set for one in study.candidates)
    facts: list[tuple[str, object]] = [
        ("target", study.target + equals),
        ("horizon", f"{horizon} eras: neighbouring eras share days of their targets, and intervals count that"),
        ("purge", f"{counted_text(purged, 'era')} before each validation" + (", as asked for" if purge else "")),
        ("features", ", ".join(f"{name}: {len(study.sets.columns(name)):,}" for name in sets)),
        ("eras validated", f"{len(found.scores.era_E):,}" if len(found.scores.era_E) else DASH),
        ("seeds", f"{study.config.seeds} of each candidate that has chance in it"),
    ]
    return Markup(f"{table(headings, rows, kind='files')}\n{pairs(facts)}")


def time_section(found: Found) -> Markup:
    """Units and seconds by candidate."""
    spent = {one.name: _spent(found, one.name) for one in found.study.candidates}
    whole_s = sum(seconds for _, _, seconds in spent.values()) or 1.0
    rows = [
        [
            name,
            numeric(f"{done} of {units}"),
            numeric(duration_text(seconds) if seconds >= 1 else f"{seconds:.1f} s"),
            bar(seconds / whole_s),
            numeric(f"{seconds / done:,.1f} s" if done else DASH),
            numeric(_most_rows(found, name)),
        ]
        for name, (units, done, seconds) in spent.items()
    ]
    headings = ["candidate", *map(numeric, ("units", "time")), "", *map(numeric, ("a unit", "training rows"))]
    caption = "A unit is a candidate fitted on a fold with a seed, and its prediction of the fold. Rows of the largest."
    return table(headings, rows, caption=caption)


def weekly_section(study: Study, verdict: Verdict) -> Markup | None:
    """Which candidate to submit, and the lines that do it."""
    found = advice(study, verdict)
    parts = [paragraph(sentence) for sentence in found.sentences]
    if found.lines is not None:
        parts.append(paragraph(f"In place of {SLOT} the name of your model in the tournament.", "muted"))
        parts.append(preformatted(found.lines))
    return joined(parts)


def _kind(candidate: Candidate) -> str:
    if isinstance(candidate, Recipe):
        return "network"
    return "ridge regression" if candidate.ridge is not None else "boosted trees"


def _values_text(candidate: Candidate, study: Study) -> Markup:
    """Against the baseline, or where that is of another kind against the first candidate of its own."""
    others = [one for one in study.candidates if _kind(one) == _kind(candidate)]
    base = next((one for one in others if one.name == study.config.against), others[0])
    values = _flat(to_table(candidate))
    if candidate.name == base.name:
        told = [(key, value, None) for key, value in values.items()]
        head = "the baseline: " if candidate.name == study.config.against else "all values: "
    else:
        known = _flat(to_table(base))
        paths = dict.fromkeys([*values, *known])
        told = [(key, values.get(key), known.get(key)) for key in paths if values.get(key) != known.get(key)]
        head = f"as {base.name}, but " if told else f"as {base.name} in every value"
    shown = ", ".join(code(_value_text(*one)) for one in told)
    return Markup(f'<span class="muted">{escaped(head)}</span>{shown}')


def _value_text(path: str, value: Any, instead: Any) -> str:
    before = "" if instead is None else f" ({_plain(instead)})"
    return f"{path} = {_plain(value)}{before}"


def _plain(value: Any) -> str:
    if value is None or value == "":
        return DASH if value is None else '""'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value, without the name."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": part for inner, part in _flat(value).items()}
        elif key != "name":
            found[key] = value
    return found


def _span(era_E: Eras) -> tuple[int, int] | None:
    return (int(era_E[0]), int(era_E[-1])) if len(era_E) else None


def _spent(found: Found, name: str) -> tuple[int, int, float]:
    """Units, units done, and their seconds."""
    units = [unit for unit in found.study.units if unit.candidate.name == name]
    done = _done(found, name)
    return len(units), len(done), sum(one.seconds for one in done)


def _most_rows(found: Found, name: str) -> str:
    done = _done(found, name)
    return f"{max(one.rows for one in done):,}" if done else DASH


def _done(found: Found, name: str) -> Sequence[Any]:
    return [
        found.done[unit.key] for unit in found.study.units if unit.candidate.name == name and unit.key in found.done
    ]
