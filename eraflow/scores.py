"""How past rounds scored: collected from the tournament into the ledger, and told as a table, a chart and JSON.

Read `collect`, then `newest`, which everything that is shown begins with. A score moves from day to day until its
round resolves, weeks later; what is not final yet is marked so everywhere. Neighbouring rounds share most of their
days, so their scores are no independent tries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from eraflow.entries import ScoreEntry
from eraflow.errors import InputError
from eraflow.ledger import Ledger, Score
from eraflow.markdown import table
from eraflow.store import Store
from eraflow.tournament import Tournament
from eraflow.verdict import counted_text

LAST_ROUNDS = 30
# Rounds of the current regime resolve 63 weekdays after they open, and five of them open a week: an older one that is
# not final by now never will be.
FOLLOWED_ROUNDS = 100
FAMILIES = ("corr", "mmc", "bmc", "fnc")
"""Beginnings of the scores' names, those that are paid first."""
NO_SCORES = "No scores are known yet: the first of a round come some days after it closes."
HEADINGS = ("round", "score", "value", "state", "percentile")


def collect(home: Path, slots: Iterable[str]) -> list[Score]:
    """Ask for the scores of each slot, keep them, and return all that are kept of these slots.

    Asking again replaces what it finds again. Raises `InputError` for a slot that the account does not have, after
    the others were collected, and what the tournament raises.
    """
    wanted = list(dict.fromkeys(slots))
    tournament = Tournament.from_environment()
    ledger = Ledger(Store.open(home).ledger_path, tournament.url)
    account = tournament.slots() if wanted else {}
    for slot in wanted:
        if slot in account:
            entries = _entries(tournament, account[slot].model_id, ledger.scores(slot))
            ledger.note_scores(Score(slot=slot, **asdict(entry)) for entry in entries)
    if unknown := [slot for slot in wanted if slot not in account]:
        raise InputError(
            f"a slot must be a model of the account, however {unknown[0]} is none; it has {', '.join(sorted(account))}"
        )
    return [score for score in ledger.scores() if score.slot in wanted]


def newest(scores: Iterable[Score]) -> list[Score]:
    """The newest value of each slot, round and score: by slot, the newest round first, paid scores first."""
    found: dict[tuple[str, int, str], Score] = {}
    for score in map(_without_nan, scores):
        key = (score.slot, score.round, score.name)
        if key not in found or _age(found[key]) < _age(score):
            found[key] = score
    return sorted(found.values(), key=lambda score: (score.slot, -score.round, *rank(score.name)))


def table_text(scores: Iterable[Score], rounds: int = 20) -> str:
    """A table for the terminal, a part for each slot with its last `rounds` rounds."""
    parts = []
    for slot, group in groupby(newest(scores), key=lambda score: score.slot):
        parts.append("\n".join(_slot_lines(slot, list(group), rounds)))
    return "\n\n".join(parts) or NO_SCORES


def table_markdown(scores: Iterable[Score], rounds: int = 20) -> str:
    """The same table in Markdown."""
    rows = [
        (score.slot, *cells)
        for _, group in groupby(newest(scores), key=lambda score: score.slot)
        for score, cells in _rows(list(group), rounds)
    ]
    return table(("slot", *HEADINGS), rows) if rows else NO_SCORES


def sentence(scores: Iterable[Score]) -> str:
    """What there is, in one line: `main: mean corr60 +0.0213 over 12 rounds, 3 of them final`."""
    told = []
    for slot, group in groupby(newest(scores), key=lambda score: score.slot):
        means = _means(list(group))
        told.append(f"{_plain(slot)}: {means[0] if means else 'no score has a value yet'}")
    return "; ".join(told) or NO_SCORES


def json_object(scores: Iterable[Score]) -> dict[str, Any]:
    """The newest values as plain ones, for `--json`."""
    return {"scores": [asdict(score) for score in newest(scores)]}


def scores_png(scores: Iterable[Score]) -> bytes:
    """The chart, less than 300 kB: see `scores_picture`, which takes a second to import."""
    from eraflow.scores_picture import draw

    return draw(newest(scores))


def rank(name: str) -> tuple[int, str]:
    """What orders the scores' names: the family, and within it the name."""
    family = next((i for i, start in enumerate(FAMILIES) if name.lower().startswith(start)), len(FAMILIES))
    return family, name


def _entries(tournament: Tournament, model_id: str, known: Sequence[Score]) -> list[ScoreEntry]:
    """The last rounds' scores, and those of older rounds that were not final when last seen."""
    found = tournament.scores(model_id, LAST_ROUNDS)
    fresh = {entry.round for entry in found}
    newest_round = max(fresh | {score.round for score in known}, default=0)
    final = {(score.round, score.name) for score in known if score.resolved}
    due = {
        score.name
        for score in known
        if score.round not in fresh
        and (score.round, score.name) not in final
        and score.round > newest_round - FOLLOWED_ROUNDS
    }
    # Name by name: all scores of a hundred rounds on each of their days would be more than one answer may hold.
    for name in sorted(due):
        found += tournament.scores(model_id, FOLLOWED_ROUNDS, name)
    return found


def _without_nan(score: Score) -> Score:
    """The same with None for what is no number: JSON has no NaN, and no mean should."""
    value, share = (x if x is not None and math.isfinite(x) else None for x in (score.value, score.percentile))
    return replace(score, value=value, percentile=share)


def _age(score: Score) -> tuple[bool, int, str]:
    """Orders the entries of one slot, round and score; one without a value counts only where there is no other."""
    return score.value is not None, score.day, score.version


def _slot_lines(slot: str, scores: Sequence[Score], rounds: int) -> list[str]:
    count = len({score.round for score in scores})
    lines = [f"{_plain(slot)}: {counted_text(count, 'round')}", *(f"  {line}" for line in _means(scores))]
    width = max(5, *(len(score.name) for score in scores))
    before = ""
    for number, name, value, state, share in (HEADINGS, *(cells for _, cells in _rows(scores, rounds))):
        shown = number if number != before else ""
        lines.append(f"  {shown:>6}  {_plain(name):<{width}}  {value:>8}  {state:>6}  {share:>10}")
        before = number
    if count > rounds:
        lines.append(f"  and {counted_text(count - rounds, 'earlier round')}")
    return lines


def _rows(scores: Sequence[Score], rounds: int) -> list[tuple[Score, tuple[str, str, str, str, str]]]:
    """One slot's newest scores of its last rounds, each with its cells under `HEADINGS`."""
    numbers = sorted({score.round for score in scores}, reverse=True)[:rounds]
    return [(score, _cells(score)) for score in scores if score.round in numbers]


def _cells(score: Score) -> tuple[str, str, str, str, str]:
    value = "-" if score.value is None else f"{score.value:+.4f}"
    share = "-" if score.percentile is None else f"{100 * score.percentile:.0f} %"
    return str(score.round), score.name, value, _state_text(score), share


def _means(scores: Sequence[Score]) -> list[str]:
    told = []
    for name in sorted({score.name for score in scores}, key=rank):
        known = [score for score in scores if score.name == name and score.value is not None]
        if known:
            mean = sum(score.value or 0.0 for score in known) / len(known)
            final = sum(score.resolved for score in known)
            told.append(
                f"mean {_plain(name)} {mean:+.4f} over {counted_text(len(known), 'round')}, {final} of them final"
            )
    return told


def _state_text(score: Score) -> str:
    return "final" if score.resolved else f"day {score.day}" if score.day else "so far"


def _plain(text: str) -> str:
    """`text` without what could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)
