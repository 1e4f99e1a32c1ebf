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
from tests.real_prefect import ROOT, PrefectServer, last_json, wait_until

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
    then: str = "The next attempt went on with what was there."


def _any(world: World, pattern: str) -> bool:
    return any(True for _ in world.home.glob(pattern))


def _accepted(world: World, number: int) -> int:
    return len([one for one in world.local.accepted(number) if not one.carried_over])


BETWEEN_PUT_AND_CREATE = Place(
    stage="submission, between PUT and create", fault=Fault(where="query:createSubmission", what="hang"),
    then="The next attempt did not find it at the tournament, and sent it.",
)  # fmt: skip
ANEW = "The next attempt began anew."
FOUND = "The next attempt found it at the tournament, read it back, and sent nothing for this slot."
PLACES = (
    Place(stage="round", then=ANEW, fault=Fault(where="query:rounds", what="hang")),
    Place(stage="download", fault=Fault(where="get:live.parquet", what="slow", n=4000)),
    Place(stage="dataset", reached=lambda world, number: _any(world, "data/*/decoded/.partial-*")),
    Place(stage="training", reached=lambda world, number: _any(world, "models/**/checkpoint*")),
    Place(stage="prediction", reached=lambda world, number: _any(world, f"rounds/{number}/*predictions-*")),
    Place(stage="submission, while the bytes are sent", fault=Fault(where="put", what="hang")),
    BETWEEN_PUT_AND_CREATE,
    Place(
        stage="submission, after create, before its answer",
        fault=Fault(where="query:createSubmission", what="slow", n=1), then=FOUND,
        reached=lambda world, number: _accepted(world, number) == 1,
    ),
    Place(
        stage="submission, after create, before the read-back",
        fault=Fault(where="query:submissionDownloadAuth", what="hang"), then=FOUND,
    ),
)  # fmt: skip


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
    return world.outcome("run killed while it waited for the round", "The next attempt found it open.", number, since_s)


def _killed(world: World, place: Place, number: int) -> Outcome:
    since_s = kill_at(world, place, number)
    return world.outcome(f"run killed in the stage {place.stage}", place.then, number, since_s)


def kill_at(world: World, place: Place, number: int) -> float:
    """Kill the next run as soon as it is there; returns when that was, by the monotonic clock [s]."""
    fault = place.fault
    if fault:
        world.local.faults.add(fault)
    reached(lambda: (fault is None or fault in world.local.faults.struck) and place.reached(world, number))
    assert not world.is_safe(number), f"the round was over before the run could be killed in {place.stage}"
    world.kill(FLOW)
    world.local.faults.clear()
    return time.monotonic()


def serving_killed(folder: Path) -> Iterator[Outcome]:
    """The serving process is killed in mid-run; `up` starts it again, and the run goes on meanwhile."""
    with World(folder) as world, world.up():
        # Longer than it takes to be restarted: the new one finds a run that it did not start.
        number = in_the_middle_of_a_run(world, 4 * SLOW_S)
        world.kill(SERVING)
        since_s = time.monotonic()
        told = "The run went on without it; `up` started it again, and its catch-up run found the round safe."
        yield world.outcome("serving process killed in mid-run", told, number, since_s)
        wait_until(lambda: world.processes(SERVING), 30)


def server_killed(folder: Path) -> Iterator[Outcome]:
    """The Prefect server is killed in mid-run; `up` starts it again."""
    with World(folder) as world, world.up():
        number = in_the_middle_of_a_run(world)
        world.kill(SERVER)
        since_s = time.monotonic()
        told = "The run went on without it; `up` started it again."
        yield world.outcome("server killed in mid-run", told, number, since_s)


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
        told = "The run went on without it."
        yield world.outcome("server dead for good in mid-run", told, number, since_s, settle_s=0)
        world.kill(FLOW)
        number = world.open_next_round()
        yield by_the_timer(world, "server dead for good, and no run at work", number)


def output_closed(folder: Path) -> Iterator[Outcome]:
    """Whoever read the output goes away: of a command, of the serving process started by hand, and of `up`."""
    with World(folder) as world:
        yield _command_unread(world)
        yield _serving_unread(world, folder / "server")
        yield from _up_unread(world)


def _command_unread(world: World) -> Outcome:
    number = world.open_next_round()
    since_s = time.monotonic()
    command = f"{sys.executable} -m flows weekly --config {world.config_file} 2>&1 | head -1"
    subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=world.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    told = "The run went on in silence."
    return world.outcome("`eraflow weekly` into `head -1`", told, number, since_s, patience_s=5.0)


def _serving_unread(world: World, folder: Path) -> Outcome:
    number = world.open_next_round()
    since_s = time.monotonic()
    folder.mkdir()
    server = PrefectServer(folder)
    try:
        environment = {**world.environment, "PREFECT_API_URL": server.url}
        with _unread(world, "deployments.deploy", str(world.config_file), environment=environment):
            told = "It went on in silence and caught up."
            return world.outcome("serving process, by hand, into a closed pipe", told, number, since_s)
    finally:
        server.stop()


def _up_unread(world: World) -> Iterator[Outcome]:
    number = world.open_next_round()
    since_s = time.monotonic()
    command = ("flows", "up", "--config", str(world.config_file), "--port", str(world.port))
    with _unread(world, *command, environment=world.environment, lines=1):
        told = "`up` went on in silence and caught up."
        yield world.outcome("`eraflow up` into `head -1`", told, number, since_s)
        # Now it has something to say, and nobody to say it to.
        world.kill(SERVING)
        number = world.open_next_round()
        since_s = time.monotonic()
        told = "`up` went on, started it again, and it caught up."
        yield world.outcome("the same, and then the serving process killed", told, number, since_s)
        assert world.lives(), "`up` must outlive its reader, however it ended"


@contextmanager
def _unread(world: World, *command: str, environment: Mapping[str, str], lines: int = 0) -> Iterator[None]:
    """A program of ours in place of `up`, whose output nobody reads after so many lines."""
    world.process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        assert world.process.stdout is not None
        for _ in range(lines):
            world.process.stdout.readline()
        world.process.stdout.close()
        yield
    finally:
        world.stop_up()


def power_lost(folder: Path) -> Iterator[Outcome]:
    """`up` alone, or everything at the same instant, is killed in mid-run, and `up` is started again."""
    told = "`up`, started again, swept the dead run and caught up."
    with World(folder) as world:
        with world.up():
            number = in_the_middle_of_a_run(world)
            world.kill_up()
        since_s = time.monotonic()
        with world.up():
            yield world.outcome("`up` alone killed in mid-run, started again at once", told, number, since_s)
            number = in_the_middle_of_a_run(world)
            world.kill()
        since_s = time.monotonic()
        with world.up():
            yield world.outcome("power lost in mid-run", told, number, since_s)


def two_at_once(folder: Path) -> Iterator[Outcome]:
    """Two triggers at the same instant: of the deployment, of different deployments, of the command."""
    with World(folder) as world, world.up():
        yield triggers(world, "weekly", "weekly")
        yield triggers(world, "weekly", "manual")
        number = world.open_next_round()
        since_s = time.monotonic()
        with ThreadPoolExecutor() as pool:
            done = list(pool.map(lambda _: world.command("weekly", "--json"), range(2)))
        told = [last_json(one.stdout)["rounds"][0]["submissions"][0]["status"] for one in done]
        yield world.outcome("two `eraflow weekly` at the same instant", " / ".join(sorted(told)), number, since_s)


def triggers(world: World, *names: str) -> Outcome:
    """Open a round, and start a run of each of these deployments at the same instant."""
    number = world.open_next_round()
    since_s = time.monotonic()
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(world.trigger, names))
    wait_until(lambda: all(world.run_of(run)["state_type"] in OVER for run in runs), PATIENCE_S)
    states = [world.run_of(run)["state"] for run in runs]
    told = " / ".join(sorted(f"{state['type'].lower()}: {state['message']}" for state in states))
    what = " and ".join(f"`{name}`" for name in names)
    return world.outcome(f"{what} triggered at the same instant", told, number, since_s)


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
