"""The submission's file: of any predictions one text of bytes, and any defect of it is refused.

What the bytes say is read with the standard library's `csv`, and judged a second time by the local tournament's own
rules (`eraflow.rehearsal.judging`), which share no code with `eraflow.checks`. How a submission is sent is for
`test_ledger_machine` to say.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eraflow.checks import check_bytes, require
from eraflow.errors import DataError
from eraflow.predictions import canonical_csv, ensemble, rank
from eraflow.rehearsal.judging import judge

CHARACTERS = [chr(code) for code in range(33, 127) if chr(code) not in '",']
IDS = st.lists(st.text(CHARACTERS, min_size=1, max_size=6), min_size=1, max_size=12, unique=True)
INSIDE = st.floats(0, 1, exclude_min=True, exclude_max=True)
ANY_NUMBERS = st.floats(allow_nan=False) | st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-310, 1e300, 3e38, -3.5e38, 1.0, math.nextafter(1, 2), float(2**53), 0.1 + 0.2, 0.3]
)


def parsed(data: bytes) -> tuple[list[str], list[float]]:
    """Ids and values of CSV bytes."""
    header, *rows = csv.reader(io.StringIO(data.decode("ascii"), newline=""))
    assert header == ["id", "prediction"]
    return [row[0] for row in rows], [float(row[1]) for row in rows]


def failed(data: bytes, ids: Sequence[str]) -> set[str]:
    return {check.name for check in check_bytes(data, ids) if not check.passed}


@st.composite
def submissions(draw: st.DrawFn, least: int = 1) -> tuple[list[str], list[float]]:
    """Ids and, for each, a value inside (0, 1)."""
    ids = draw(IDS.filter(lambda ids: len(ids) >= least))
    return ids, draw(st.lists(INSIDE, min_size=len(ids), max_size=len(ids)))


@given(submissions())
def test_the_bytes_say_the_same_ids_in_the_same_order_with_the_very_same_values(
    submission: tuple[list[str], list[float]],
) -> None:
    ids, values = submission
    data = canonical_csv(ids, np.array(values))
    assert parsed(data) == (ids, values)
    assert data == canonical_csv(tuple(ids), np.array(values).copy())
    assert data.startswith(b"id,prediction\n")
    assert data.count(b"\n") == len(ids) + 1
    assert failed(data, ids) <= {"spread"}
    assert failed(data, list(reversed(ids))) == failed(data, ids)


@given(st.lists(st.text(max_size=4), max_size=6))
def test_ids_that_a_csv_would_have_to_quote_are_refused_and_any_others_come_back(ids: list[str]) -> None:
    plain = all(one and set(one) <= set(CHARACTERS) for one in ids)
    if not plain:
        with pytest.raises(DataError, match="every live id must be of printable ASCII"):
            canonical_csv(ids, np.full(len(ids), 0.5))
    else:
        assert parsed(canonical_csv(ids, np.full(len(ids), 0.5)))[0] == ids


@given(st.data(), IDS)
def test_what_is_sent_of_any_predictions_keeps_their_order_strictly_inside_0_and_1(
    data: st.DataObject, ids: list[str]
) -> None:
    raw = data.draw(st.lists(ANY_NUMBERS, min_size=len(ids), max_size=len(ids)))
    values = parsed(canonical_csv(ids, rank(np.array(raw), ["X"] * len(ids))))[1]
    assert all(0 < value < 1 for value in values)
    for (a, before), (b, after) in combinations(zip(raw, values, strict=True), 2):
        assert (a < b, a == b) == (before < after, before == after)
    assert failed(canonical_csv(ids, np.array(values)), ids) == ({"spread"} if len(set(raw)) == 1 else set())


@given(st.data(), IDS, st.integers(1, 4))
def test_an_ensemble_of_any_predictions_is_between_those_of_its_members(
    data: st.DataObject, ids: list[str], members: int
) -> None:
    raw = [data.draw(st.lists(ANY_NUMBERS, min_size=len(ids), max_size=len(ids))) for _ in range(members)]
    values = parsed(canonical_csv(ids, ensemble([np.array(one) for one in raw], ["X"] * len(ids))))[1]
    assert all(0 < value < 1 for value in values)
    for i, j in combinations(range(len(ids)), 2):
        if all(one[i] <= one[j] for one in raw):
            assert values[i] <= values[j] + 1e-12


# Defects

Rows = list[tuple[str, str]]


def _value(text: str) -> Callable[[Rows, int], Rows]:
    return lambda rows, at: [*rows[:at], (rows[at][0], text), *rows[at + 1 :]]


DEFECTS: dict[str, tuple[Callable[[Rows, int], Rows], set[str]]] = {
    "a missing id": (lambda rows, at: rows[:at] + rows[at + 1 :], {"rows", "ids"}),
    "an extra id": (lambda rows, at: [*rows[:at], ("extra id", "0.5"), *rows[at:]], {"rows", "ids"}),
    "an id twice": (lambda rows, at: [*rows, rows[at]], {"rows", "duplicates"}),
    "another's id": (lambda rows, at: [*rows[:at], rows[at - 1], *rows[at + 1 :]], {"ids", "duplicates"}),
    "a foreign id": (lambda rows, at: [*rows[:at], ("a foreign id", "0.5"), *rows[at + 1 :]], {"ids"}),
    "an empty value": (_value(""), {"missing values"}),
    "nan": (_value("nan"), {"missing values"}),
    "inf": (_value("inf"), {"missing values"}),
    "-inf": (_value("-Infinity"), {"missing values"}),
    "too much": (_value("1e999"), {"missing values"}),
    "a broken line": (_value("\r0.5"), {"missing values"}),
    "two values": (_value("0.5,0.5"), {"missing values"}),
    "nothing": (_value("0"), {"range"}),
    "too little": (_value("1e-999"), {"range"}),
    "below": (_value("-5e-324"), {"range"}),
    "one": (_value("1.0"), {"range"}),
    "above": (_value("1.0000000000000002"), {"range"}),
    "all the same": (lambda rows, at: [(one, rows[at][1]) for one, _ in rows], {"spread"}),
}


@pytest.mark.parametrize("defect", DEFECTS)
@settings(max_examples=25)
@given(submission=submissions(least=3), place=st.integers(0, 11))
def test_any_defect_at_any_place_is_refused_by_its_name(
    defect: str, submission: tuple[list[str], list[float]], place: int
) -> None:
    ids, values = submission
    spoil, names = DEFECTS[defect]
    rows = spoil([(one, repr(value)) for one, value in zip(ids, values, strict=True)], place % len(ids))
    data = "".join(["id,prediction\n", *(f"{one},{text}\n" for one, text in rows)]).encode()
    assert names <= failed(data, ids)
    with pytest.raises(DataError, match=r"nothing was sent for slot one: .*must be"):
        require(check_bytes(data, ids), "slot one")


@settings(max_examples=300)
@given(
    submissions(),
    st.integers(0, 400),
    st.binary(max_size=3) | st.sampled_from([b"\n", b",", b"\r", b'"', b"_", b"e9", b"\x00", b"\xff"]),
    st.integers(0, 12),
)
def test_bytes_that_pass_every_check_pass_the_tournaments_rules_whatever_was_cut_or_put_in(
    submission: tuple[list[str], list[float]], place: int, put_in: bytes, cut: int
) -> None:
    ids, values = submission
    whole = canonical_csv(ids, np.array(values))
    place %= len(whole)
    data = whole[:place] + put_in + whole[place + cut :]
    if not failed(data, ids):
        assert judge(data, ids) is None
    if not failed(whole, ids):
        assert judge(whole, ids) is None


@given(st.binary(max_size=80), st.lists(st.text(max_size=3), max_size=3))
def test_any_bytes_are_judged_and_nonsense_is_refused(data: bytes, ids: list[str]) -> None:
    checks = check_bytes(data, ids)
    assert [check.name for check in checks] == [
        "headers", "rows", "ids", "duplicates", "missing values", "range", "spread"
    ]  # fmt: skip
    assert not all(check.passed for check in checks)
