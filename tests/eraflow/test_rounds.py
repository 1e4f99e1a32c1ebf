"""A round's times and the one clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eraflow.rounds import NOTICED_SKEW_S, Clock, Round, duration_text, system_now_utc

NOON = datetime(2026, 8, 22, 12, tzinfo=UTC)
DEADLINE = datetime(2026, 8, 23, 14, tzinfo=UTC)


def weekly() -> Round:
    return Round(number=1342, opens_at_utc=NOON, closes_at_utc=DEADLINE)


def clock_at(moment: datetime) -> Clock:
    return Clock(system=lambda: moment)


def test_a_round_is_open_from_its_opening_until_just_before_its_deadline() -> None:
    second = timedelta(seconds=1)
    assert [weekly().is_open(t) for t in (NOON - second, NOON, DEADLINE - second, DEADLINE)] == [
        False, True, True, False
    ]  # fmt: skip


def test_time_left_is_negative_after_the_deadline() -> None:
    assert weekly().left_s(DEADLINE - timedelta(minutes=1)) == 60.0
    assert weekly().left_s(DEADLINE + timedelta(minutes=1)) == -60.0


def test_another_time_zone_changes_nothing() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert weekly().left_s(NOON.astimezone(tokyo)) == weekly().left_s(NOON) == 26 * 3600


@pytest.mark.parametrize("field", ["opens_at_utc", "closes_at_utc", "ends_at_utc"])
def test_a_time_without_a_zone_is_refused_by_its_name(field: str) -> None:
    times = {"opens_at_utc": NOON, "closes_at_utc": DEADLINE, "ends_at_utc": DEADLINE}
    times[field] = times[field].replace(tzinfo=None)
    with pytest.raises(ValueError, match=rf"{field} of round 7 must carry a time zone, however .* has none"):
        Round(number=7, **times)


def test_the_system_clock_speaks_utc() -> None:
    assert system_now_utc().utcoffset() == timedelta(0)


def test_a_wrong_clock_of_this_machine_is_set_right_by_what_the_tournament_says() -> None:
    clock = clock_at(NOON)
    clock.heard(NOON + timedelta(hours=3))
    assert clock.now_utc() == NOON + timedelta(hours=3)


def test_less_than_a_date_headers_own_error_is_no_difference() -> None:
    clock = clock_at(NOON)
    clock.heard(NOON - timedelta(seconds=NOTICED_SKEW_S))
    assert clock.now_utc() == NOON


def test_a_clock_that_was_set_right_meanwhile_is_believed_again() -> None:
    clock = clock_at(NOON)
    clock.heard(NOON + timedelta(hours=3))
    clock.heard(NOON + timedelta(seconds=1))
    assert clock.skew_s == 0.0


def test_small_steps_of_the_date_header_do_not_move_a_known_skew() -> None:
    clock = clock_at(NOON)
    clock.heard(NOON + timedelta(seconds=100))
    clock.heard(NOON + timedelta(seconds=101))
    assert clock.skew_s == 100.0


@given(st.floats(-1e6, 1e6))
def test_after_hearing_the_clock_is_right_to_the_headers_error(seconds: float) -> None:
    clock, told = clock_at(NOON), NOON + timedelta(seconds=seconds)
    clock.heard(told)
    assert abs((clock.now_utc() - told).total_seconds()) <= NOTICED_SKEW_S


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (-3660, "1 h 1 min"),
        (86400, "1 d"), (93784, "1 d 2 h"), (86400 + 59, "1 d"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
