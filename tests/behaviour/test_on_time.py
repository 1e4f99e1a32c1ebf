"""On time, in short: three weeks by the pinned schedules, and two fast rounds by deployments that a server starts.

The long forms are `benchmarks/fifty_weeks.py` and `benchmarks/ten_rounds.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fifty_weeks import SLOTS, Weeks
from benchmarks.on_time import judge, summary
from eraflow.rehearsal import LocalTournament
from tests.behaviour.conftest import TINY
from tests.behaviour.week import Week


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
