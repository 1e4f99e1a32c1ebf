"""Tests of `eraflow.rehearsal.timetable`."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from eraflow.rehearsal.timetable import FIRST_NUMBER, Timetable, add_weekdays, last_saturday_noon, observed_delays_s

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
