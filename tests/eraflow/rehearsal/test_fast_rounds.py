"""Rounds that follow one another within seconds, followed by the real client on a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from eraflow.errors import InputError
from eraflow.rehearsal import LocalTournament, RemoteControl
from tests.eraflow.rehearsal.conftest import SMALL, STARTED_UTC, real_client
from tests.eraflow.rehearsal.sending import live_ids, predictions, submit


class Stopped:
    """A system clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_utc: datetime = STARTED_UTC

    def __call__(self) -> datetime:
        return self.now_utc

    def pass_s(self, seconds: float) -> None:
        self.now_utc += timedelta(seconds=seconds)


@pytest.fixture
def system() -> Stopped:
    return Stopped()


@pytest.fixture
def fast(home: Path, system: Stopped) -> Iterator[LocalTournament]:
    """A round a minute, open for 45 s; the first one opens a minute from now."""
    with LocalTournament(home, market=SMALL, system=system, every_s=60, window_s=45) as tournament:
        yield tournament


def test_ten_rounds_in_a_row_are_open_new_and_take_submissions(
    fast: LocalTournament, system: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = real_client(fast, monkeypatch)
    assert fast.current_round() is None
    seen: set[str] = set()
    for i in range(10):
        system.pass_s(60)
        number = client.get_current_round()
        [listed] = client.list_rounds(number=number)
        assert (number, listed["closeStakingTime"] - listed["openTime"]) == (1401 + i, timedelta(seconds=45))
        assert listed["openTime"] <= fast.now_utc() < listed["closeStakingTime"]
        ids = live_ids(client, tmp_path)
        assert seen.isdisjoint(ids)
        seen.update(ids)
        submit(client, predictions(ids))
    assert [one.round for one in fast.accepted() if one.selected] == list(range(1401, 1411))
    assert not any(one.late for one in fast.accepted())


def test_between_two_windows_a_submission_is_late_and_then_no_round_is_current(
    fast: LocalTournament, system: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = real_client(fast, monkeypatch)
    system.pass_s(60)
    ids = live_ids(client, tmp_path)
    system.pass_s(46)
    assert (fast.open_round(), fast.current_round()) == (None, 1401)
    submit(client, predictions(ids))
    assert [one.status for one in fast.accepted()] == ["late"]
    system.pass_s(8)
    assert fast.current_round() is None
    system.pass_s(6)
    assert [one.carried_over for one in fast.accepted(1402)] == [True]


def test_the_clock_can_still_be_moved(fast: LocalTournament) -> None:
    assert fast.open_next_round() == 1401 == fast.open_round()
    assert fast.close_round() == 1401 == fast.current_round()
    assert fast.open_round() is None
    assert fast.open_next_round(delay_s=14) == 1402 == fast.open_round()
    with pytest.raises(InputError, match=r"must open 0 to 15 s late, however 16 s was asked for round 1403"):
        fast.open_next_round(delay_s=16)


def test_the_next_round_can_be_made_late_without_moving_the_clock(fast: LocalTournament, system: Stopped) -> None:
    assert fast.delay_next_round(10) == 1401
    system.pass_s(60)
    assert fast.open_round() is None
    system.pass_s(10)
    assert fast.open_round() == 1401
    system.pass_s(44)
    assert fast.open_round() == 1401


def test_the_files_of_the_next_round_are_made_before_it_opens(fast: LocalTournament, system: Stopped) -> None:
    publisher = fast._core.publisher
    made = threading.Event()
    for number in (1401, 1402):
        at = fast._core.timetable.round(number)
        paths = [publisher._place(name.removeprefix("v5.3/"), at) for name in publisher.names()]
        for _ in range(200):
            if all(path.exists() for path in paths) or made.wait(0.05):
                break
        assert [path.name for path in paths if not path.exists()] == []
        system.pass_s(60)


def test_a_restart_goes_on_at_the_same_pace_and_the_downtime_counts(home: Path, system: Stopped) -> None:
    with LocalTournament(home, market=SMALL, system=system, every_s=60, window_s=45):
        system.pass_s(60)
    system.pass_s(120)
    with LocalTournament(home, market=SMALL, system=system, every_s=60, window_s=45) as again:
        assert again.open_round() == 1403
        assert len(again._core.state.paces) == 1
    with LocalTournament(home, market=SMALL, system=system) as unasked:
        assert unasked.open_round() == 1403


def test_usual_rounds_can_be_made_fast_from_another_process(home: Path, system: Stopped) -> None:
    with LocalTournament(home, market=SMALL, system=system) as tournament:
        control = RemoteControl(home)
        assert control.open_next_round() == 1401
        control.set_pace(20)
        assert control.open_round() == 1401
        system.pass_s(20)
        assert control.open_round() == 1402 == tournament.open_round()
        assert control.delay_next_round(2.5) == 1403
        system.pass_s(15)
        assert control.open_round() is None
        with pytest.raises(InputError, match="refuses set_pace: fast rounds must open every 1 s or more"):
            control.set_pace(20, 30)


def test_a_window_needs_an_interval(home: Path) -> None:
    with pytest.raises(InputError, match="however only the window was given"):
        LocalTournament(home, market=SMALL, window_s=45)
