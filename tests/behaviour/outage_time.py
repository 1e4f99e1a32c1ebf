"""Outages in which time runs out: nothing runs, the round is late, the tournament is away, training is slow; see
`benchmarks/outages.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from eraflow.rehearsal import MarketConfig
from eraflow.rehearsal.timetable import observed_delays_s
from eraflow.rounds import duration_text
from tests.behaviour.outage import OVER, PATIENCE_S, Outcome, World, reached
from tests.real_prefect import last_json, wait_until

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
            told = "`up` was started then, and caught up."
            yield world.outcome("all down until an hour before the deadline", told, number, since_s)
    with World(folder / "timer", settings=ANY_MODEL) as world:
        number = world.open_next_round()
        world.move_to_left(HOUR_S)
        yield by_the_timer(world, "`up` never started, an hour left", number)
        yield by_the_timer(world, "the same, the timer again", number)
        number = world.open_next_round()
        world.move_to_left(HOUR_S / 3)
        yield by_the_timer(world, "`up` never started, 20 min left", number)


def by_the_timer(world: World, outage: str, number: int) -> Outcome:
    """What `eraflow status --check` does about it, started as the system's timer does."""
    world.forget_alarms()
    since_s = time.monotonic()
    done = world.command("status", "--check", "--json")
    told = last_json(done.stdout)
    happened = f"`eraflow status --check`, exit code {done.returncode}: {'; '.join(told['did'])}."
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
    return world.outcome(outage, "The run that had begun on time waited for it.", number, since_s)


def _is_asked(world: World) -> None:
    """Wait until the tournament is asked for its round once more."""
    seen = len(world.local.requests)
    reached(lambda: any(root == "rounds" for _, _, root in world.local.requests[seen:]))


def unreachable(folder: Path) -> Iterator[Outcome]:
    """The tournament is unreachable for a third of the window, of a weekly round and of daily ones."""
    with World(folder / "weekly") as world, world.up():
        number = world.open_next_round()
        world.local.stop()
        _is_over(world, world.trigger(wait_s=PATIENCE_OF_A_RUN_S))
        world.local.move_clock(WEEKLY_WINDOW_S / 3)
        world.local.start()
        since_s = time.monotonic()
        world.trigger()
        told = "An attempt gave up asking and rang; the next one played the round."
        yield world.outcome(f"{AWAY} weekly window, from the opening on", told, number, since_s)
    with World(folder / "daily", weekly_only=False, settings=ANY_MODEL, schedule=BOTH) as world:
        _has_a_model(world)
        with world.up():
            yield _away_while_waiting(world, began_before=True)
            yield _away_while_waiting(world, began_before=False)
            yield _away_in_mid_run(world)


AWAY = "tournament unreachable for a third of a"
# So long it really is; the rest of the third passes at once. No single question is asked for as long [s].
REALLY_AWAY_S = 150.0
# In place of more than an hour, for an outage that lasts longer than that.
PATIENCE_OF_A_RUN_S = 20.0


def _is_over(world: World, run: str) -> None:
    wait_until(lambda: world.run_of(run)["state_type"] in OVER, 2 * PATIENCE_S)


def _away_while_waiting(world: World, *, began_before: bool) -> Outcome:
    """The tournament goes away when the run of a daily round has begun, or before it does."""
    number = world.announce_next_round(delay_s=0.0, lead_s=2 * 60)
    if began_before:
        world.trigger("daily")
        _is_asked(world)
    world.local.stop()
    if not began_before:
        world.trigger("daily")
    time.sleep(REALLY_AWAY_S)
    world.local.move_clock(world.opens_in_s() + DAILY_WINDOW_S / 3)
    world.local.start()
    since_s = time.monotonic()
    assert world.look_at_round() == number
    when = "while a run waits for the opening" if began_before else "from before the run begins"
    return world.outcome(f"{AWAY} daily window, {when}", "The run went on asking.", number, since_s)


def _away_in_mid_run(world: World) -> Outcome:
    """The tournament goes away when a daily run has found its round: it gives up, and the timer makes up for it."""
    number = world.open_next_round()
    slow = world.slowed("live.parquet", 10.0)
    run = world.trigger("daily")
    reached(lambda: slow in world.local.faults.struck)
    world.local.stop()
    _is_over(world, run)
    world.local.faults.clear()
    world.local.move_clock(DAILY_WINDOW_S / 3)
    world.local.start()
    given_up = world.alarms()[-1]
    found = by_the_timer(world, f"{AWAY} daily window, in mid-run", number)
    return replace(found, alarms=(given_up, *found.alarms))


def slow_recipe(folder: Path) -> Iterator[Outcome]:
    """Training would overrun the deadline: it is cut, or an older model is sent."""
    reserve_s = 60
    settings = f"[fallback]\nmin_spearman = -1\nreserve_s = {reserve_s}\n"
    with World(folder, recipe="era-pearson", market=LARGER, slots=ONE, settings=settings) as world, world.up():
        # Nothing is known yet of what prediction and submission take, so 120 s more are kept free.
        yield _slow(world, "training too slow for what is left, no older model", "It was cut.", reserve_s + 120 + 40)
        world.open_next_round()
        done = world.command("weekly", "--recipe", "simple-mlp", "--model", *ONE)
        assert done.returncode == 0, done.stderr
        yield _slow(
            world,
            "the same, with an older model that is better",
            "It was cut, and the older one predicted.",
            reserve_s + 40,
        )
        yield _slow(world, "no time to train at all, with an older model", "The older one predicted.", reserve_s + 2)


def _slow(world: World, outage: str, happened: str, left_s: float) -> Outcome:
    number = world.open_next_round()
    world.move_to_left(left_s)
    since_s = time.monotonic()
    world.trigger()
    return world.outcome(f"{outage} ({duration_text(left_s)})", happened, number, since_s)


LATE: Mapping[str, Callable[[Path], Iterator[Outcome]]] = {
    "all-down": all_down,
    "late": opens_late,
    "unreachable": unreachable,
    "slow": slow_recipe,
}
