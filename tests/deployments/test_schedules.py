"""The pinned schedules laid against the timetable, a whole year of both, without running anything.

A round may open as late as any real one did, so every round of the year is tried with every observed delay. What
Prefect makes of the same crons is compared with what is used here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from deployments.deploy import DAILY_WAIT_S, WEEKLY_WAIT_S
from eraflow.rehearsal.timetable import FIRST_NUMBER, ScheduledRound, Timetable, observed_delays_s
from eraflow.weekly_config import ScheduleConfig, next_times

ROOT = Path(__file__).resolve().parents[2]
BEGINS_UTC = datetime(2026, 11, 21, 12, tzinfo=UTC)  # the noon of a Saturday
WEEKS, ROUNDS_A_WEEK = 52, 5
SCHEDULE = ScheduleConfig()
# As announced, on the stroke of noon, and as it was observed.
DELAYS_S = sorted({0, *observed_delays_s()})
BY_DELAY = pytest.mark.parametrize("delay_s", DELAYS_S, ids=lambda delay_s: f"{delay_s} s late")


def rounds(delay_s: float) -> list[ScheduledRound]:
    """The rounds of a year, each opened this late."""
    numbers = range(FIRST_NUMBER, FIRST_NUMBER + WEEKS * ROUNDS_A_WEEK)
    timetable = Timetable(BEGINS_UTC, weekly_only=False, seed=0, delay_s_of=dict.fromkeys(numbers, delay_s))
    return [timetable.round(number) for number in numbers]


def weekly_rounds(delay_s: float) -> list[ScheduledRound]:
    return [one for one in rounds(delay_s) if one.scheduled_utc.isoweekday() == 6]


def daily_rounds(delay_s: float) -> list[ScheduledRound]:
    return [one for one in rounds(delay_s) if one.scheduled_utc.isoweekday() != 6]


@cache
def fires(name: str) -> Sequence[datetime]:
    """When the deployment `name` is due in the year."""
    after, before = BEGINS_UTC - timedelta(hours=12), BEGINS_UTC + timedelta(weeks=WEEKS) - timedelta(hours=12)
    found = next_times(getattr(SCHEDULE, name), SCHEDULE.time_zone, after, WEEKS * 40)
    assert found[-1] > before
    return [moment for moment in found if moment < before]


def within(name: str, begins_utc: datetime, ends_utc: datetime) -> list[datetime]:
    return [moment for moment in fires(name) if begins_utc <= moment < ends_utc]


def seconds(length: timedelta) -> float:
    return length.total_seconds()


@BY_DELAY
def test_each_weekly_round_has_an_attempt_at_its_opening_and_two_more(delay_s: float) -> None:
    for opened in weekly_rounds(delay_s):
        attempts = within("weekly", opened.scheduled_utc, opened.closes_at_utc)
        meets = [at for at in attempts if seconds(opened.opens_at_utc - at) <= WEEKLY_WAIT_S - 600]
        assert max(meets[0], opened.opens_at_utc) - opened.opens_at_utc <= timedelta(minutes=5)
        later = [at for at in attempts if at > max(meets[0], opened.opens_at_utc)]
        assert len(later) >= 2
        assert seconds(opened.closes_at_utc - later[-1]) >= 3600


@BY_DELAY
def test_each_daily_round_has_a_run_that_waits_at_its_opening(delay_s: float) -> None:
    for opened in daily_rounds(delay_s):
        before = within("daily", opened.scheduled_utc - timedelta(hours=1), opened.opens_at_utc)
        assert len(before) >= 1
        # It has time to start, and it would wait for longer than any round was ever late.
        assert seconds(opened.scheduled_utc - before[0]) >= 60
        assert seconds(opened.opens_at_utc - before[0]) <= DAILY_WAIT_S - 1800


@BY_DELAY
def test_each_window_is_watched_twice_and_once_near_its_end(delay_s: float) -> None:
    for opened in rounds(delay_s):
        left_s = [
            seconds(opened.closes_at_utc - at) for at in within("watch", opened.opens_at_utc, opened.closes_at_utc)
        ]
        assert len(left_s) >= 2, opened
        # Late enough for whoever is at work to have had his time, early enough to play the round instead.
        assert [one for one in left_s if 300 <= one <= 2400], opened


def test_a_run_that_waits_is_over_before_the_next_one_is_due() -> None:
    """On weekdays the next ones are for when the first one died: while it waits they are cancelled."""
    assert min(seconds(later - one) for one, later in pairwise(fires("weekly"))) > WEEKLY_WAIT_S
    first = [moment for moment in fires("daily") if moment.hour == 11]
    assert min(seconds(later - one) for one, later in pairwise(first)) > DAILY_WAIT_S


def test_a_daily_run_that_died_is_made_up_for_within_the_same_window() -> None:
    for opened in daily_rounds(0):
        assert len(within("daily", opened.opens_at_utc, opened.closes_at_utc)) >= 2


def test_nothing_is_due_more_often_than_it_has_to_be() -> None:
    assert {name: len(fires(name)) for name in ("weekly", "daily", "watch", "scores")} == {
        "weekly": 8 * WEEKS,
        "daily": 12 * WEEKS,
        "watch": 37 * WEEKS,
        "scores": 7 * WEEKS,
    }


def test_nothing_is_due_while_no_round_could_be_open() -> None:
    latest = timedelta(seconds=max(DELAYS_S))
    year = rounds(0)
    for name, early in (("weekly", timedelta(0)), ("daily", timedelta(minutes=5)), ("watch", timedelta(0))):
        outside = [
            moment
            for moment in fires(name)
            if not any(one.scheduled_utc - early <= moment < one.closes_at_utc + latest for one in year)
        ]
        assert outside == [], name
    assert {moment.isoweekday() for moment in fires("weekly")} == {6, 7}
    assert {moment.isoweekday() for moment in fires("daily")} == {2, 3, 4, 5}


def test_the_real_openings_were_all_met(shared_real: Path) -> None:
    lines = (shared_real / "timetable" / "openings_2026.csv").read_text().splitlines()[1:]
    for line in lines:
        opens = datetime.fromisoformat(line.split(",")[1])
        name, wait_s = ("weekly", WEEKLY_WAIT_S) if opens.isoweekday() == 6 else ("daily", DAILY_WAIT_S)
        noon = opens.replace(hour=12, minute=0, second=0)
        due = next_times(getattr(SCHEDULE, name), "UTC", noon - timedelta(minutes=5), 1)[0]
        assert seconds(opens - due) <= wait_s, line
        assert seconds(due - opens) <= 300, line


# What Prefect makes of them

OF_PREFECT = """
import asyncio, json, sys
from datetime import datetime
from pathlib import Path
from prefect.server.schemas.schedules import CronSchedule
from deployments.deploy import deployments
from eraflow.request import make_request
from eraflow.weekly_config import read_configuration

path, begins, ends = Path(sys.argv[1]), *(datetime.fromisoformat(text) for text in sys.argv[2:])

def dates(schedule):
    read = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    return [date.isoformat() for date in asyncio.run(read.get_dates(n=2000, start=begins, end=ends))]

made = deployments(make_request(home=path.parent, config_file=path), read_configuration(path))
print(json.dumps({one.name: sum((dates(given.schedule) for given in one.schedules), []) for one in made}))
"""


def dates_of_prefect(
    folder: Path, time_zone: str, begins_utc: datetime, ends_utc: datetime
) -> dict[str, list[datetime]]:
    """Deployment -> the moments (UTC) at which the server would have it run."""
    config = folder / "my.toml"
    config.write_text(f'[slots]\none = "simple-mlp"\n[schedule]\ntime_zone = "{time_zone}"\n')
    done = subprocess.run(
        [sys.executable, "-c", OF_PREFECT, str(config), begins_utc.isoformat(), ends_utc.isoformat()],
        cwd=ROOT, env={**os.environ, "PREFECT_HOME": str(folder / "prefect")}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return {
        name: sorted({datetime.fromisoformat(date).astimezone(UTC) for date in dates}) for name, dates in found.items()
    }


def test_prefect_reads_the_crons_as_we_do(tmp_path: Path) -> None:
    ends_utc = BEGINS_UTC + timedelta(days=31)
    of_prefect = dates_of_prefect(tmp_path, "UTC", BEGINS_UTC, ends_utc)
    assert sorted(of_prefect) == ["daily", "manual", "scores", "watch", "weekly"]
    for name, dates in of_prefect.items():
        crons = getattr(SCHEDULE, name, ())
        assert [at for at in next_times(crons, "UTC", BEGINS_UTC, 200) if at <= ends_utc] == dates, name


def test_in_a_zone_whose_clock_changes_no_attempt_is_lost(tmp_path: Path) -> None:
    # In the hour that is skipped both move an attempt, to other places.
    begins_utc, ends_utc = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 3, 31, tzinfo=UTC)
    dates = dates_of_prefect(tmp_path, "Europe/Berlin", begins_utc, ends_utc)["weekly"]
    ours = [at for at in next_times(SCHEDULE.weekly, "Europe/Berlin", begins_utc, 200) if at <= ends_utc]
    assert len(ours) == len(dates) == 4 * 8
    differ = [(one, other) for one, other in zip(ours, dates, strict=True) if one != other]
    assert len(differ) == 1
    assert all(abs(one - other) < timedelta(hours=1) for one, other in differ)
