"""Outages in which time runs out: nothing runs, the round is late, the tournament is away, training is slow; see
`benchmarks/outages.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from eraflow.rehearsal import MarketConfig
from eraflow.rehearsal.timetable import observed_delays_s
from tests.behaviour.outage import OVER, Outcome, World, reached
from tests.real_prefect import wait_until

HOUR_S = 3600.0
WEEKLY_WINDOW_S, DAILY_WINDOW_S = 26 * HOUR_S, HOUR_S
# The latest opening of all that were observed.
LATEST_S = float(max(observed_delays_s()))
ANY_MODEL = "[fallback]\nmin_spearman = -1\n"
LARGER = MarketConfig(features=40, train_eras=100, validation_eras=30, rows_per_era=500)
ONE = ("rehearsal_one",)


def all_down(folder: Path) -> Iterator[Outcome]:
    """Nothing runs from before the opening until an hour before the deadline; then `up`, or only the system's timer."""
    with World(folder / "up") as world:
        number = world.open_next_round()
        world.move_to_left(HOUR_S)
        since_s = time.monotonic()
        with world.up():
            yield world.outcome("all down until an hour before the deadline", "`up` starts: caught up", number, since_s)
    with World(folder / "timer") as world:
        number = world.open_next_round()
        world.move_to_left(HOUR_S)
        yield by_the_timer(world, "`up` never started; an hour before the deadline the system's timer", number)
        yield by_the_timer(world, "the same, and the timer comes again", number)


def by_the_timer(world: World, outage: str, number: int) -> Outcome:
    """What `eraflow status --check` does about it, started as the system's timer does."""
    world.forget_alarms()
    since_s = time.monotonic()
    done = world.command("status", "--check")
    happened = f"`eraflow status --check`, exit code {done.returncode}"
    return world.outcome(outage, happened, number, since_s, patience_s=5.0)


def opens_late(folder: Path) -> Iterator[Outcome]:
    """The round opens 64 minutes late: the run that began on time waits for it."""
    with World(folder / "weekly") as world, world.up():
        number = world.announce_next_round(delay_s=LATEST_S, lead_s=-5 * 60)
        yield _waits(world, "weekly", number)
    with World(folder / "daily", weekly_only=False, settings=ANY_MODEL, schedule=BOTH) as world:
        _has_a_model(world)
        with world.up():
            number = world.announce_next_round(delay_s=LATEST_S, lead_s=2 * 60)
            yield _waits(world, "daily", number)


BOTH: Mapping[str, tuple[str, ...]] = {"weekly": ("0 0 1 1 *",), "daily": ("0 0 1 1 *",)}


def _has_a_model(world: World) -> None:
    """Play Saturday's round."""
    while world.open_next_round() and world.left_s() < 12 * HOUR_S:
        pass
    done = world.command("weekly")
    assert done.returncode == 0, done.stderr


def _waits(world: World, name: str, number: int) -> Outcome:
    world.trigger(name)
    while world.opens_in_s() > 0:
        _is_asked(world)
        world.local.move_clock(min(world.opens_in_s() + 1.0, 30 * 60.0))
    since_s = time.monotonic()
    assert world.look_at_round() == number
    outage = f"{name} round opens {LATEST_S / 60:.0f} min late"
    return world.outcome(outage, "the run that began on time waits", number, since_s)


def _is_asked(world: World) -> None:
    """Wait until the tournament is asked for its round once more."""
    seen = len(world.local.requests)
    reached(lambda: any(root == "rounds" for _, _, root in world.local.requests[seen:]))


def unreachable(folder: Path) -> Iterator[Outcome]:
    """The tournament is unreachable for a third of the window."""
    with World(folder / "weekly") as world, world.up():
        number = world.open_next_round()
        world.local.stop()
        run = world.trigger()
        wait_until(lambda: world.run_of(run)["state_type"] in OVER, 300)
        world.local.move_clock(WEEKLY_WINDOW_S / 3)
        world.local.start()
        since_s = time.monotonic()
        world.trigger()
        yield world.outcome(
            "tournament unreachable for the first third of a weekly window", "the next attempt", number, since_s
        )
    with World(folder / "daily", weekly_only=False, settings=ANY_MODEL, schedule=BOTH) as world:
        _has_a_model(world)
        with world.up():
            number = world.announce_next_round(delay_s=0.0, lead_s=2 * 60)
            yield _away(world, number, before=False)
            number = world.announce_next_round(delay_s=0.0, lead_s=2 * 60)
            yield _away(world, number, before=True)


def _away(world: World, number: int, *, before: bool) -> Outcome:
    """The tournament goes away before the daily run begins, or while it waits for the opening."""
    if not before:
        world.trigger("daily")
        _is_asked(world)
    world.local.stop()
    if before:
        run = world.trigger("daily")
        wait_until(lambda: world.run_of(run)["state_type"] == "RUNNING")
        time.sleep(60)
    world.local.move_clock(world.opens_in_s() + DAILY_WINDOW_S / 3)
    world.local.start()
    since_s = time.monotonic()
    world.look_at_round()
    when = "from before the run begins" if before else "from the opening on"
    outage = f"tournament unreachable for a third of a daily window, {when}"
    return world.outcome(outage, "the same run", number, since_s)


def slow_recipe(folder: Path) -> Iterator[Outcome]:
    """Training would overrun the deadline: it is cut, or an older model is sent."""
    settings = "[fallback]\nmin_spearman = -1\nreserve_s = 5\n"
    with World(folder, recipe="era-pearson", market=LARGER, slots=ONE, settings=settings) as world, world.up():
        number = world.open_next_round()
        world.move_to_left(175)
        since_s = time.monotonic()
        world.trigger()
        yield world.outcome("training too slow for what is left, no older model", "cut", number, since_s)
        number = world.open_next_round()
        assert world.command("weekly", "--recipe", "simple-mlp", "--model", *ONE).returncode == 0
        number = world.open_next_round()
        world.move_to_left(130)
        since_s = time.monotonic()
        world.trigger()
        yield world.outcome("no time to train at all, with an older model", "replaced", number, since_s)


LATE: Mapping[str, Callable[[Path], Iterator[Outcome]]] = {
    "all-down": all_down,
    "late": opens_late,
    "unreachable": unreachable,
    "slow": slow_recipe,
}
