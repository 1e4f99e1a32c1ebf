"""Outages in which something is killed, closed or taken away while a run is at work; see
`benchmarks/outages.py`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eraflow.rehearsal import Fault
from tests.behaviour.outage import FLOW, OVER, PATIENCE_S, SERVER, SERVING, Outcome, World, nobody_answers, reached
from tests.behaviour.outage_time import by_the_timer
from tests.real_prefect import ROOT, last_json, wait_until

# So often a run is due in these scenes; the pinned schedules say every few hours [s].
EVERY_S = 8.0
# Long enough to harm something in the middle of a run [s].
SLOW_S = 8.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a run its process is killed."""

    stage: str
    reached: Callable[[World, int], bool] = lambda _world, _number: True
    """What must hold, besides `fault` having struck."""
    fault: Fault | None = None


def _any(world: World, pattern: str) -> bool:
    return any(True for _ in world.home.glob(pattern))


def _accepted(world: World, number: int) -> int:
    return len([one for one in world.local.accepted(number) if not one.carried_over])


PLACES = (
    Place(stage="round", fault=Fault(where="query:rounds", what="hang")),
    Place(stage="download", fault=Fault(where="get:live.parquet", what="slow", n=4000)),
    Place(stage="dataset", reached=lambda world, number: _any(world, "data/*/decoded/.partial-*")),
    Place(stage="training", reached=lambda world, number: _any(world, "models/**/checkpoint*")),
    Place(stage="prediction", reached=lambda world, number: _any(world, f"rounds/{number}/*predictions-*")),
    Place(stage="submission, while the bytes are sent", fault=Fault(where="put", what="hang")),
    Place(stage="submission, between PUT and create", fault=Fault(where="query:createSubmission", what="hang")),
    Place(
        stage="submission, after create, before its answer",
        fault=Fault(where="query:createSubmission", what="slow", n=1),
        reached=lambda world, number: _accepted(world, number) == 1,
    ),
    Place(
        stage="submission, after create, before the read-back",
        fault=Fault(where="query:submissionDownloadAuth", what="hang"),
    ),
)


def killed_in_each_stage(folder: Path) -> Iterator[Outcome]:
    """The run's process is killed in each stage; the next attempt finds out what had happened and finishes."""
    with World(folder) as world, world.up(EVERY_S):
        yield _killed_while_waiting(world)
        for place in PLACES:
            number = world.open_next_round()
            yield _killed(world, place, number)


def _killed_while_waiting(world: World) -> Outcome:
    seen = len(world.local.requests)
    reached(lambda: sum(root == "rounds" for _, _, root in world.local.requests[seen:]) >= 2)
    world.kill(FLOW)
    since_s = time.monotonic()
    number = world.open_next_round()
    return world.outcome("run killed while it waits for the round", "the next attempt", number, since_s)


def _killed(world: World, place: Place, number: int) -> Outcome:
    kill_at(world, place, number)
    since_s = time.monotonic()
    return world.outcome(f"run killed in the stage {place.stage}", "the next attempt", number, since_s)


def kill_at(world: World, place: Place, number: int) -> None:
    """Kill the next run as soon as it is there."""
    fault = place.fault
    if fault:
        world.local.faults.add(fault)
    reached(lambda: (fault is None or fault in world.local.faults.struck) and place.reached(world, number))
    assert not world.is_safe(number), f"the round was over before the run could be killed in {place.stage}"
    world.kill(FLOW)
    world.local.faults.clear()


def serving_killed(folder: Path) -> Iterator[Outcome]:
    """The serving process is killed in mid-run; `up` starts it again, and the run goes on meanwhile."""
    with World(folder) as world, world.up():
        # Longer than it takes to be restarted: the new one finds a run that it did not start.
        number = in_the_middle_of_a_run(world, 4 * SLOW_S)
        world.kill(SERVING)
        since_s = time.monotonic()
        yield world.outcome("serving process killed in mid-run", "restarted by `up`", number, since_s)
        wait_until(lambda: world.processes(SERVING), 30)


def server_killed(folder: Path) -> Iterator[Outcome]:
    """The Prefect server is killed in mid-run; `up` starts it again."""
    with World(folder) as world, world.up():
        number = in_the_middle_of_a_run(world)
        world.kill(SERVER)
        since_s = time.monotonic()
        yield world.outcome("server killed in mid-run", "restarted by `up`", number, since_s)


def server_dead_for_good(folder: Path) -> Iterator[Outcome]:
    """The server dies in mid-run and its port is taken by somebody who never answers, so that it cannot come back."""
    with World(folder) as world, world.up():
        yield from dead_for_good(world)


def dead_for_good(world: World) -> Iterator[Outcome]:
    """What becomes of the run that is at work then, and of the next round."""
    number = in_the_middle_of_a_run(world)
    world.kill(SERVER)
    with nobody_answers(world.port):
        since_s = time.monotonic()
        # Once its round is over the run still tries to tell the server; nobody waits for that.
        yield world.outcome("server dead for good in mid-run", "the same run goes on", number, since_s, settle_s=0)
        world.kill(FLOW)
        number = world.open_next_round()
        yield by_the_timer(world, "server dead for good, and no run at work", number)


def output_closed(folder: Path) -> Iterator[Outcome]:
    """Whoever read the output goes away: of a command, of `up`, and of the serving process started by hand."""
    with World(folder) as world:
        number = world.open_next_round()
        since_s = time.monotonic()
        _first_line_only(world, f"{sys.executable} -m flows weekly --config {world.config_file}")
        yield world.outcome("`eraflow weekly` into `head -1`", "goes on", number, since_s, patience_s=5.0)
        number = world.open_next_round()
        since_s = time.monotonic()
        with _up_whose_reader_goes(world):
            yield world.outcome("`eraflow up` into `head -1`", "goes on", number, since_s)
            assert world.lives()
            world.kill(SERVING)  # it has something to say now, and nobody to say it to
            number = world.open_next_round()
            yield world.outcome("the same, and it has to restart the serving process", "goes on", number, since_s)
            assert world.lives()


@contextmanager
def _up_whose_reader_goes(world: World) -> Iterator[None]:
    """The command itself, whose output nobody reads after its first line."""
    world.process = subprocess.Popen(
        [sys.executable, "-m", "flows", "up", "--config", str(world.config_file), "--port", str(world.port)],
        cwd=ROOT, env=world.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert world.process.stdout is not None
        world.process.stdout.readline()
        world.process.stdout.close()
        yield
    finally:
        world.stop_up()


def _first_line_only(world: World, command: str) -> None:
    subprocess.run(
        ["bash", "-c", f"{command} 2>&1 | head -1"], cwd=ROOT, env=world.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, check=False, timeout=180,
    )  # fmt: skip


def power_lost(folder: Path) -> Iterator[Outcome]:
    """Everything is killed at the same instant in mid-run, and `up` is started again."""
    with World(folder) as world:
        with world.up():
            number = in_the_middle_of_a_run(world)
            world.kill()
        world.local.faults.clear()
        since_s = time.monotonic()
        with world.up():
            yield world.outcome("power lost in mid-run", "`up` again: swept, caught up", number, since_s)


def two_at_once(folder: Path) -> Iterator[Outcome]:
    """Two triggers at the same instant: of the deployment, of different deployments, of the command."""
    with World(folder) as world, world.up():
        yield two_triggers(world, "weekly", "weekly")
        yield two_triggers(world, "weekly", "manual")
        number = world.open_next_round()
        since_s = time.monotonic()
        with ThreadPoolExecutor() as pool:
            done = list(pool.map(lambda _: world.command("weekly", "--json"), range(2)))
        told = [last_json(one.stdout)["rounds"][0]["submissions"][0]["status"] for one in done]
        yield world.outcome("two `eraflow weekly` at the same instant", " / ".join(sorted(told)), number, since_s)


def two_triggers(world: World, *names: str) -> Outcome:
    """Open a round, and start a run of each of these deployments at the same instant."""
    number = world.open_next_round()
    since_s = time.monotonic()
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(world.trigger, names))
    wait_until(lambda: all(world.run_of(run)["state_type"] in OVER for run in runs), PATIENCE_S)
    states = [world.run_of(run)["state"] for run in runs]
    told = " / ".join(sorted(f"{state['type'].lower()}: {state['message']}" for state in states))
    what = f"`{names[0]}` twice" if len(set(names)) == 1 else " and ".join(f"`{name}`" for name in names)
    return world.outcome(f"{what} at the same instant", told, number, since_s)


def in_the_middle_of_a_run(world: World, seconds: float = SLOW_S) -> int:
    """Open a round, start a run, and wait until it is at a file that takes so long."""
    number = world.open_next_round()
    slow = world.slowed("validation.parquet", seconds)
    world.trigger()
    reached(lambda: slow in world.local.faults.struck)
    return number


KILLS: Mapping[str, Callable[[Path], Iterator[Outcome]]] = {
    "stages": killed_in_each_stage,
    "serving": serving_killed,
    "server": server_killed,
    "server-dead": server_dead_for_good,
    "output": output_closed,
    "power": power_lost,
    "two": two_at_once,
}
