"""On time, in short: three weeks by the pinned schedules, and two fast rounds by deployments that a server starts.

The long forms are `benchmarks/fifty_weeks.py` and `benchmarks/ten_rounds.py`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks.fifty_weeks import SLOTS, Weeks
from benchmarks.on_time import judge, summary
from benchmarks.ten_rounds import judged_in, world_in
from eraflow.ledger import Ledger
from eraflow.rehearsal import LocalTournament
from eraflow.rounds import Round
from eraflow.tournament import Tournament
from tests.behaviour.conftest import TINY
from tests.behaviour.week import Week
from tests.real_prefect import wait_until


def test_three_weeks_by_the_pinned_schedules_miss_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalTournament(tmp_path / "tournament", market=TINY, weekly_only=False) as local:
        for name, value in Week(local, tmp_path / "home").environment.items():
            monkeypatch.setenv(name, value)
        weeks = Weeks(local, tmp_path / "home", seed=0)
        judged = weeks.play(3)
    assert [one for one in judged if one.wrong] == []
    assert len(judged) == 3 * 5 * len(SLOTS)
    assert {one.source for one in judged} == {"fresh", "older-model"}
    # In the second week the network had faults; in the third the machine was off until two hours before the deadline.
    assert weeks.struck
    late = [one for one in judged if one.left_s is not None and one.after_s is not None and one.after_s > 3600]
    assert {one.round for one in late} == {judged[-1].round - 4}


def test_a_round_that_nobody_played_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalTournament(tmp_path / "tournament", market=TINY, weekly_only=False) as local:
        for name, value in Week(local, tmp_path / "home").environment.items():
            monkeypatch.setenv(name, value)
        weeks = Weeks(local, tmp_path / "home", seed=0)
        missed = weeks.timetable.following(local.now_utc())
        judged = judge([missed], local, weeks.ledger, SLOTS)
    assert [one.wrong for one in judged] == ["0 submissions, of which 0 count"] * 2
    assert summary(judged).startswith("0 of 2 slots of 1 rounds have exactly one verified submission in time (2 -)")


@pytest.mark.prefect_server
def test_two_rounds_in_a_row_are_safe_without_anybody_starting_a_run(tmp_path: Path) -> None:
    rounds: list[Round] = []
    with world_in(tmp_path / "world") as world:
        asked = Tournament.from_environment(world.environment)
        with world.up(every_s=8.0):
            for _ in range(2):
                # The next one opens once this one is safe, so that no machine is too slow.
                number = world.open_next_round()
                rounds.append(asked.current_round())
                wait_until(partial(world.is_safe, number))
        judged = judged_in(world, rounds)
    assert [one.number for one in rounds] == [rounds[0].number, rounds[0].number + 1]
    assert [one for one in judged if one.wrong] == []
    assert len(judged) == 2 * len(world.slots)


def test_a_slot_with_two_submissions_is_seen(week: Week) -> None:
    week.play()
    week.play(week.request(slots=SLOTS[:1], resubmit=True))
    asked = Tournament.from_environment()
    judged = judge([asked.current_round()], week.local, Ledger(week.home / "ledger.sqlite", week.local.url), SLOTS)
    assert [one.wrong for one in judged] == ["2 submissions, of which 1 count", None]
