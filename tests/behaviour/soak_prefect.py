"""Branches of the campaign that are played by the real command, through Prefect, with a server of its own.

Read `play_branch_with_prefect`: as `soak.play_branch`, but each run is `eraflow weekly` in a process of its own, which
starts a Prefect server; it is killed at random moments, and so are the server and its database. One run meets a trouble
of the network, so that what the tournament answers reaches Prefect's log and database. Alarms ring a bell of ours.
After each run no process may be left. The waits are the product's own.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from eraflow.rehearsal import LocalTournament
from eraflow.rounds import duration_text
from tests.behaviour.harmed import Run
from tests.behaviour.soak import play_in_peace, references_of
from tests.behaviour.soak_branch import ASSIGNMENTS, MARKET, Begun, Branch, Outcome, Step, configuration_of
from tests.behaviour.soak_checks import (
    codes_of,
    held,
    is_saved,
    look_at,
    look_from_outside,
    secrets_in,
    secrets_of,
)
from tests.behaviour.troubles import QUICK, REFUSED, was_met
from tests.eraflow.raw_server import OK, Server, sending
from tests.real_prefect import ROOT, clean_environment, free_port, processes_of

PATIENCE_S = 180.0
# How long a process may take to notice that its parent is gone [s].
LINGER_S = 20.0
# Planned; some may come too late.
KILLS, ENOUGH = (5, 8), 5
KILLED = "SIGKILL of `eraflow weekly` at a random moment"
SERVER_KILLED = "SIGKILL of its Prefect server at a random moment"
ALL_KILLED = "SIGKILL of `eraflow weekly` and its Prefect server at once"


@dataclass
class Bell:
    """Who is told of alarms."""

    server: Server
    address: str
    password: str
    heard: int = 0

    def missed(self, run: Run, closes_at_utc: datetime) -> bool:
        """Whether the run, which has just ended, had to ring this and did not."""
        titles = [str(json.loads(body)["title"]) for body in self.server.bodies]
        before, new = titles[: self.heard], titles[self.heard :]
        self.heard = len(titles)
        if run.exit_code <= 0 or run.hangs or new:
            return False
        # What was told of this round is told again once its title says another time, which counts by this clock.
        number = (run.result or {}).get("round")
        now_utc = datetime.now(UTC)
        left = [duration_text((closes_at_utc - now_utc).total_seconds() + ago_s) for ago_s in (0.0, LINGER_S)]
        same = [f"eraflow: round {number} is not safe, {text} left" for text in left]
        return not any(title in (*same, "eraflow: a run stopped") for title in before)


@dataclass(kw_only=True)
class Hit:
    """When a SIGKILL comes [s after the start of the command], and to whom."""

    after_s: float
    command: bool = False
    server: bool = False
    struck: bool = False
    """There was somebody to get it."""


@contextmanager
def _bell() -> Iterator[Bell]:
    server, password = Server(sending(OK + b"Content-Length: 0\r\n\r\n")), secrets.token_hex(24)
    with server.running() as url:
        yield Bell(server, url.replace("http://", f"json://bell:{password}@"), password)


@contextmanager
def _nothing(branch: Branch, environment: dict[str, str]) -> Iterator[None]:
    yield


@contextmanager
def _locked(branch: Branch, environment: dict[str, str]) -> Iterator[None]:
    connection = sqlite3.connect(_database(branch), isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


@contextmanager
def _cut(branch: Branch, environment: dict[str, str]) -> Iterator[None]:
    path = _database(branch)
    os.truncate(path, branch.draw.randrange(path.stat().st_size))
    yield


@contextmanager
def _nobody(branch: Branch, environment: dict[str, str]) -> Iterator[None]:
    environment["PREFECT_API_URL"] = f"http://127.0.0.1:{free_port()}/api"
    yield


HARMS: Mapping[str, Callable[[Branch, dict[str, str]], AbstractContextManager[None]]] = {
    KILLED: _nothing,
    SERVER_KILLED: _nothing,
    ALL_KILLED: _nothing,
    "Prefect's database locked": _locked,
    "Prefect's database cut": _cut,
    "a Prefect server that does not answer": _nobody,
}


def play_branch_with_prefect(name: str, begun: Begun, folder: Path, database: Path, duration_s: float) -> Outcome:
    """Harm one round until it is saved or nothing is left to be done to it, then save it.

    `database` is a fresh one of Prefect's, which takes 5 s to make; `duration_s` is that of a run in peace [s].
    """
    started = time.monotonic()
    shutil.copytree(begun.folder, folder)
    (folder / "home" / "prefect").mkdir(exist_ok=True)
    shutil.copy(database, folder / "home" / "prefect" / "prefect.db")
    draw = random.Random(name)  # noqa: S311 -- a plan that must repeat
    with LocalTournament(folder / "tournament", market=MARKET) as local, _bell() as bell:
        before = frozenset(one.id for one in local.submissions())
        branch = Branch(name, begun, folder, local, draw, before=before)
        for trouble in _plan(draw):
            _harm(branch, trouble, duration_s, bell)
            if is_saved(branch) and branch.kills >= ENOUGH:
                break
        tries = play_in_peace(branch, lambda: _heard(branch, bell, _run(branch, branch_environment(branch, bell))))
        saved = is_saved(branch)
        if not saved:
            branch.wrong.append("a round that could be saved was lost")
        look_from_outside(branch, references_of(branch))
        hidden = {**secrets_of(local), "the alarm's password": bell.password}
        rung = held(b"\n".join(bell.server.bodies), hidden)
        branch.wrong += [*secrets_in(folder, hidden), *(f"an alarm holds {one}" for one in rung)]
    return branch.came_to(saved=saved, tries=tries, seconds=time.monotonic() - started, through_prefect=True)


def _plan(draw: random.Random) -> list[str]:
    """Kills, and after some of them a trouble of the network and one of the others, which mostly save the round."""
    kills = [draw.choice((KILLED, KILLED, ALL_KILLED)) for _ in range(draw.randint(*KILLS))]
    other = draw.choice([one for one in HARMS if one not in (KILLED, ALL_KILLED)])
    kills.insert(draw.randint(1, 2), draw.choice(QUICK).name)
    kills.insert(draw.randint(3, 4), other)
    return kills


def made_database(begun: Begun, folder: Path, database: Path) -> float:
    """Write Prefect's database for branches to begin with; returns how long a run in peace takes with it [s]."""
    seconds = 0.0
    for number in (1, 2):
        world = folder / str(number)
        shutil.copytree(begun.folder, world)
        (world / "home" / "prefect").mkdir(exist_ok=True)
        if database.exists():
            shutil.copy(database, world / "home" / "prefect" / "prefect.db")
        with LocalTournament(world / "tournament", market=MARKET) as local, _bell() as bell:
            branch = Branch("in peace", begun, world, local, random.Random(0))  # noqa: S311
            run = _run(branch, branch_environment(branch, bell))
        if run.exit_code or branch.wrong:
            raise SystemExit(f"a round without trouble ended with {run.exit_code}: {run.told} {branch.wrong}")
        source, target = sqlite3.connect(_database(branch)), sqlite3.connect(database)
        source.backup(target)
        source.close()
        target.close()
        seconds = run.seconds
    return seconds


def _harm(branch: Branch, trouble: str, duration_s: float, bell: Bell) -> None:
    draw, environment = branch.draw, branch_environment(branch, bell)
    hit, struck = None, branch.local.faults.struck
    if trouble in (KILLED, ALL_KILLED):
        after_s = draw.uniform(0.0, 0.9) * duration_s / (1 + 0.3 * branch.kills)
        hit = Hit(after_s=after_s, command=True, server=trouble == ALL_KILLED)
    elif trouble == SERVER_KILLED:
        hit = Hit(after_s=draw.uniform(0.2, 1.0) * duration_s, server=True)
    network = next((one for one in QUICK if one.name == trouble), None)
    if network is None:
        with HARMS[trouble](branch, environment):
            run = _run(branch, environment, hit)
        met, told = hit is None or hit.struck, ""
    else:
        # What is refused is not asked again, so that all of it may be refused and the run ends soon.
        times = (None,) if trouble in REFUSED else (1, 2, 3)
        world, struck_before = replace(branch.world(), times=times, after=(0,)), len(struck)
        with ExitStack() as at_work:
            # Several, as a round that was begun before makes only a part of the requests.
            harms = [at_work.enter_context(network.begin(world, draw)) for _ in range(3)]
            run, told = _run(branch, environment), ", ".join(harm.name for harm in harms)
            met = any(was_met(harm, run, struck[struck_before:]) for harm in harms)
    _heard(branch, bell, run)
    look_at(branch, run)
    branch.kills += run.is_killed
    branch.steps.append(
        Step(troubles=(trouble,), met=(trouble,) * met, harm=told, exit_code=run.exit_code, codes=codes_of(run))
    )


def _heard(branch: Branch, bell: Bell, run: Run) -> Run:
    """A run that ends by itself without having made the round safe must have told somebody."""
    if bell.missed(run, branch.local._core.latest().closes_at_utc):
        branch.wrong.append(f"a run ended with {run.exit_code}, and no alarm rang: {run.told.strip()[-300:]}")
    return run


def branch_environment(branch: Branch, bell: Bell) -> dict[str, str]:
    """What points the command at the branch's tournament and home, and its alarms at the bell."""
    return {**clean_environment(), **branch.environment, "BELL": bell.address}


def _run(branch: Branch, environment: Mapping[str, str], hit: Hit | None = None) -> Run:
    logs, began_s, home = branch.logs(), time.monotonic(), branch.folder / "home"
    logs.mkdir(parents=True)
    sets = [part for path, text in ASSIGNMENTS.items() for part in ("--set", f"{path}={text}")]
    command = [sys.executable, "-m", "flows", "weekly", "--config", str(configuration_of(branch.week)), "--json", *sets]
    with (logs / "out.txt").open("wb") as out, (logs / "told.txt").open("wb") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=told,
            start_new_session=True,
        )  # fmt: skip
        if hit and not _is_over(process, hit.after_s):
            _strike(process, hit, home)
        hangs = not _is_over(process, PATIENCE_S)
    branch.wrong += _left_behind(home, 0.0 if hangs else LINGER_S)
    process.wait()
    lines, result = (logs / "out.txt").read_text().splitlines(), None
    with suppress(ValueError, LookupError):  # it was killed before it could say anything
        result = json.loads(lines[-1])["rounds"][0]
    return Run(
        exit_code=process.returncode, result=result, told=(logs / "told.txt").read_text(errors="replace"),
        seconds=time.monotonic() - began_s, hangs=hangs,
        signals=frozenset({int(signal.SIGKILL)} if hit and hit.struck and hit.command else ()),
    )  # fmt: skip


def _strike(process: subprocess.Popen[bytes], hit: Hit, home: Path) -> None:
    servers = [number for number, command in processes_of(home).items() if "temporary_server" in command]
    for number in [process.pid] * hit.command + servers * hit.server:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
            hit.struck = True


def _left_behind(home: Path, patience_s: float) -> list[str]:
    """Ends what is still there after that time, the run itself if it hangs, and says it."""
    started = time.monotonic()
    while left := processes_of(home):
        if time.monotonic() - started > patience_s:
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            return [f"processes are left behind: {sorted(left.values())}"]
        time.sleep(0.05)
    return []


def _is_over(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _database(branch: Branch) -> Path:
    return branch.folder / "home" / "prefect" / "prefect.db"
