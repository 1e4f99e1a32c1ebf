"""Outages in short; the long form of all of them is `benchmarks/outages.py`, what came of it `docs/outages.md`."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import pytest

from tests.behaviour.conftest import TINY
from tests.behaviour.outage import World
from tests.behaviour.outage_kills import BETWEEN_PUT_AND_CREATE, dead_for_good, kill_at, triggers
from tests.behaviour.week import Week, by_slot
from tests.real_prefect import started_server, wait_until, with_database


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One `eraflow up` for all; nothing runs in it unless it is triggered."""
    with World(tmp_path_factory.mktemp("outages"), market=TINY, slots=["rehearsal_one"]) as found:
        with_database(found.home, started_server())
        with found.up():
            yield found
        assert found.processes() == []


@pytest.mark.prefect_server
def test_of_triggers_at_the_same_instant_one_submits_and_the_others_say_why_not(world: World) -> None:
    outcome = triggers(world, "weekly", "weekly", "manual")
    assert outcome.is_saved, outcome
    cancelled, sent, not_sent = outcome.happened.split(" / ")
    assert cancelled == "cancelled: Deployment concurrency limit reached."
    assert sent.startswith("completed: Round ")
    assert not_sent == f"{sent}; this run sent nothing, as all of it was submitted before"


@pytest.mark.prefect_server
def test_a_killed_run_raises_an_alarm_with_round_and_time_left_and_the_next_one_finds_out(world: World) -> None:
    number = world.open_next_round()
    world.trigger()
    since_s = kill_at(world, BETWEEN_PUT_AND_CREATE, number)
    wait_until(world.alarms)
    (title,) = world.alarms()
    assert title.startswith(f"eraflow: a weekly run was ended from outside, round {number} is not safe, 1 d 1 h left")
    world.trigger()
    outcome = world.outcome("run killed", "the next attempt", number, since_s)
    assert outcome.is_saved, outcome
    assert [attempt.state for attempt in world.attempts(number)] == ["verified", "failed"]


@pytest.mark.prefect_server
def test_a_server_that_is_dead_for_good_costs_neither_this_round_nor_the_next(world: World) -> None:
    same_run, timer = dead_for_good(world)
    assert same_run.is_saved, same_run
    assert same_run.alarms == ()
    assert timer.is_saved, timer
    assert [title.partition(" has ")[2][:24] for title in timer.alarms[:1]] == ["no verified submission y"]
    assert timer.alarms[-1].endswith(" is safe now")
    assert world.lives()


def test_a_run_that_waits_for_its_round_outlasts_a_tournament_that_cannot_be_reached(week: Week) -> None:
    week.local.stop()
    back = threading.Timer(2.0, week.local.start)
    back.start()
    result = week.play(dataclasses.replace(week.request(slots=["rehearsal_one"]), wait_s=60.0))
    back.join()
    receipt = by_slot(result)["rehearsal_one"]
    assert (receipt.status, receipt.verified) == ("submitted", "bytes"), receipt.error_message
