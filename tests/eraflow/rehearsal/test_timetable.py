"""Tests of `eraflow.rehearsal.timetable`."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from eraflow.errors import InputError
from eraflow.rehearsal.timetable import (
    FIRST_NUMBER,
    Pace,
    Timetable,
    add_weekdays,
    last_saturday_noon,
    observed_delays_s,
)

BEGINS = datetime(2026, 11, 21, 12, tzinfo=UTC)
WEEKLY = Timetable(BEGINS, True, 0)
DAILY = Timetable(BEGINS, False, 0)


def test_weekly_rounds_are_scheduled_on_saturdays_at_noon_and_numbered_without_gaps() -> None:
    rounds = [WEEKLY.round(FIRST_NUMBER + i) for i in range(5)]
    assert [r.scheduled_utc for r in rounds] == [BEGINS + timedelta(days=7 * i) for i in range(5)]
    assert [r.week for r in rounds] == [0, 1, 2, 3, 4]


def test_daily_rounds_open_tuesday_to_saturday() -> None:
    days = [f"{DAILY.round(FIRST_NUMBER + i).scheduled_utc:%a}" for i in range(10)]
    assert days == ["Sat", "Tue", "Wed", "Thu", "Fri"] * 2
    assert {f"{DAILY.round(FIRST_NUMBER + i).scheduled_utc:%H:%M}" for i in range(10)} == {"12:00"}


def test_a_weekend_round_closes_on_sunday_and_a_daily_one_after_an_hour() -> None:
    punctual = Timetable(BEGINS, False, 0, {FIRST_NUMBER: 0.0, FIRST_NUMBER + 1: 0.0})
    assert punctual.round(FIRST_NUMBER).closes_at_utc == datetime(2026, 11, 22, 14, tzinfo=UTC)
    assert punctual.round(FIRST_NUMBER + 1).closes_at_utc == datetime(2026, 11, 24, 13, tzinfo=UTC)


def test_a_round_that_opens_late_still_stays_open_for_an_hour() -> None:
    late = Timetable(BEGINS, False, 0, {FIRST_NUMBER + 1: 3859.0}).round(FIRST_NUMBER + 1)
    assert late.closes_at_utc - late.opens_at_utc == timedelta(hours=1)


def test_delays_are_drawn_from_the_observed_ones_and_repeat_for_a_seed() -> None:
    delays = [(r.opens_at_utc - r.scheduled_utc).total_seconds() for r in map(WEEKLY.round, range(1400, 1700))]
    assert set(delays) <= set(observed_delays_s())
    assert 0.4 < np.mean([d == 0 for d in delays]) < 0.65
    assert WEEKLY.round(1500) == Timetable(BEGINS, True, 0).round(1500)
    assert delays != [Timetable(BEGINS, True, 1)._delay_s(n) for n in range(1400, 1700)]


def test_observed_delays_are_those_of_the_openings(shared_real: Path) -> None:
    with (shared_real / "timetable" / "openings_2026.csv").open() as file:
        opened = [datetime.fromisoformat(row["open_time"]) for row in csv.DictReader(file)]
    expected = [(moment - moment.replace(hour=12, minute=0, second=0)).total_seconds() for moment in opened]
    assert Counter(observed_delays_s()) == Counter(expected)


def test_rounds_resolve_when_the_real_ones_do(shared_real: Path) -> None:
    with (shared_real / "timetable" / "openings_2026.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["round"]) >= 1343]
    for row in rows:
        opened, resolved = map(datetime.fromisoformat, (row["open_time"], row["resolve_time"]))
        assert add_weekdays(opened, 63).date() == resolved.date(), row["round"]


def test_a_round_is_not_the_latest_before_it_really_opened() -> None:
    late = Timetable(BEGINS, True, 0, {FIRST_NUMBER + 1: 600.0})
    noon = BEGINS + timedelta(days=7)
    assert late.latest(noon + timedelta(seconds=599)).number == FIRST_NUMBER
    assert late.following(noon + timedelta(seconds=599)).number == FIRST_NUMBER + 1
    assert late.latest(noon + timedelta(seconds=600)).number == FIRST_NUMBER + 1


def test_there_is_no_round_before_the_first() -> None:
    with pytest.raises(ValueError, match="the first round is 1400, however 1399"):
        WEEKLY.round(1399)


def test_the_last_saturday_is_one_whose_round_has_surely_opened() -> None:
    assert last_saturday_noon(datetime(2026, 11, 28, 12, 30, tzinfo=UTC)) == BEGINS
    assert last_saturday_noon(datetime(2026, 11, 28, 14, 0, tzinfo=UTC)) == BEGINS + timedelta(days=7)


def test_a_round_is_scored_on_sixty_weekdays_of_which_the_last_resolves_it() -> None:
    for first in (WEEKLY.round(1401), DAILY.round(1402)):
        days = [first.scored_at_utc(day) for day in range(1, 61)]
        assert days == sorted(set(days))
        assert all(moment.weekday() < 5 for moment in days)
        assert days[-1] == first.resolves_at_utc
        assert [first.days_scored(days[0] - timedelta(seconds=1)), first.days_scored(days[0])] == [0, 1]
        assert first.days_scored(days[-1] + timedelta(days=99)) == 60


# Fast rounds: three usual weeks, then rounds every minute from the next number on

SWITCH = BEGINS + timedelta(days=15)
MINUTES = Pace(first_number=1403, begins_utc=SWITCH, every_s=60.0, window_s=45.0)
FAST = Timetable(BEGINS, True, 0, {}, [MINUTES])


def test_fast_rounds_open_at_their_interval_and_the_rounds_before_them_stay_as_they_were() -> None:
    assert [FAST.round(number) for number in (1400, 1401, 1402)] == [WEEKLY.round(n) for n in (1400, 1401, 1402)]
    rounds = [FAST.round(1403 + i) for i in range(10)]
    assert [r.opens_at_utc for r in rounds] == [SWITCH + timedelta(seconds=60 * i) for i in range(10)]
    assert {r.closes_at_utc - r.opens_at_utc for r in rounds} == {timedelta(seconds=45)}
    assert all(r.closes_at_utc < r.ends_at_utc < following.opens_at_utc for r, following in pairwise(rounds))
    assert [r.week for r in rounds] == list(range(3, 13))


def test_the_latest_fast_round_is_the_one_that_opened_last() -> None:
    for seconds, number in ((-1, 1402), (0, 1403), (59.9, 1403), (60, 1404), (86_400, 1403 + 1440)):
        assert FAST.latest(SWITCH + timedelta(seconds=seconds)).number == number, seconds
    assert FAST.following(SWITCH + timedelta(seconds=61)).number == 1405
    assert FAST.latest(BEGINS + timedelta(days=8)).number == 1401


def test_a_second_pace_goes_on_from_the_first() -> None:
    later = SWITCH + timedelta(seconds=300)
    both = Timetable(BEGINS, True, 0, {}, [MINUTES, Pace(first_number=1406, begins_utc=later, every_s=10, window_s=9)])
    assert [both.round(n) for n in (1401, 1403, 1405)] == [FAST.round(n) for n in (1401, 1403, 1405)]
    assert [both.round(1406).opens_at_utc, both.round(1407).opens_at_utc] == [later, later + timedelta(seconds=10)]
    assert [both.round(n).week for n in (1405, 1406, 1407)] == [5, 6, 7]
    assert both.latest(later - timedelta(seconds=1)).number == 1405


def test_fast_rounds_draw_scaled_delays_and_keep_their_window() -> None:
    scaled = Pace(first_number=1401, begins_utc=SWITCH, every_s=60.0, window_s=40.0, delay_scale=0.005)
    table = Timetable(BEGINS, True, 0, {1405: 17.0}, [scaled])
    delays = [(r.opens_at_utc - r.scheduled_utc).total_seconds() for r in map(table.round, range(1401, 1701))]
    assert delays[4] == 17.0
    assert max(delays) == pytest.approx(0.005 * max(observed_delays_s()), abs=1e-5)
    assert 0.4 < np.mean([d == 0 for d in delays]) < 0.65
    assert all((r.closes_at_utc - r.opens_at_utc).total_seconds() == 40 for r in map(table.round, range(1401, 1701)))


def test_a_fast_round_stands_for_a_week_and_is_scored_at_that_speed() -> None:
    first = FAST.round(1403)
    assert first.scored_at_utc(1) - first.scheduled_utc == timedelta(seconds=4 * 12)
    assert first.resolves_at_utc - first.scheduled_utc == timedelta(seconds=63 * 12)
    assert first.days_scored(SWITCH + timedelta(seconds=120)) == 7


@pytest.mark.parametrize(
    ("every_s", "window_s", "delay_scale", "text"),
    [
        (0.5, 0.2, 0.0, "must open every 1 s or more"),
        (10, 11, 0.0, "one every 10 s for 11 s"),
        (10, 0, 0.0, "must open every 1 s or more"),
        (60, 45, 0.1, "must fit between two windows \\(15 s\\), however delay_scale 0.1"),
        (60, 45, -0.1, "must fit"),
    ],
)
def test_a_pace_that_cannot_be_is_refused(every_s: float, window_s: float, delay_scale: float, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Pace(first_number=1401, begins_utc=SWITCH, every_s=every_s, window_s=window_s, delay_scale=delay_scale)
