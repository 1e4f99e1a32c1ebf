"""Branches of the campaign that are played by the real command, through Prefect, with a server of its own.

Read `play_branch_with_prefect`: as `soak.play_branch`, but each run is `eraflow weekly` in a process of its own, which
starts a Prefect server; it is killed at random moments, and so are the server and its database. After each run no
process may be left.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eraflow.rehearsal import LocalTournament
from tests.behaviour.harmed import Run
from tests.behaviour.soak import (
    MARKET,
    TRIES,
    Begun,
    Branch,
    Outcome,
    Step,
    codes_of,
    is_saved,
    look_at,
    look_from_outside,
    secrets_in,
)
from tests.behaviour.week import SLOTS
from tests.real_prefect import ROOT, clean_environment, free_port, processes_of, wait_until, weekly_command

PATIENCE_S = 180.0
# How long a process may take to notice that its parent is gone [s].
LINGER_S = 20.0
KILLED = "SIGKILL of `eraflow weekly` at a random moment"


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


HARMS: Mapping[str, Callable[[Branch, dict[str, str]], Any]] = {
    KILLED: _nothing,
    "SIGKILL of its Prefect server at a random moment": _nothing,
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
    with LocalTournament(folder / "tournament", market=MARKET) as local:
        before = frozenset(one.id for one in local.submissions())
        branch, tries = Branch(name, begun, folder, local, draw, before=before), 0
        other = draw.choice(list(HARMS)[1:])
        for trouble in [*[KILLED] * draw.randint(3, 7), other]:
            _harm(branch, trouble, duration_s)
            if is_saved(branch):
                break
        while tries < TRIES:
            tries += 1
            run = _run(branch, branch_environment(branch))
            look_at(branch, run)
            if run.exit_code == 0:
                break
        else:
            branch.wrong.append(f"in peace it ended with {run.exit_code}: {run.told.strip().splitlines()[-1:]}")
        look_from_outside(branch, is_saved(branch))
        saved = is_saved(branch)
    branch.wrong += secrets_in(folder, local.secret_key)
    return Outcome(
        branch=name, steps=tuple(branch.steps), kills=branch.kills, saved=saved, could_be_saved=True, tries=tries,
        seconds=round(time.monotonic() - started, 1), wrong=tuple(dict.fromkeys(branch.wrong)),
    )  # fmt: skip


def made_database(begun: Begun, folder: Path, database: Path) -> float:
    """Write Prefect's database for branches to begin with; returns how long a run in peace takes with it [s]."""
    seconds = 0.0
    for number in (1, 2):
        world = folder / str(number)
        shutil.copytree(begun.folder, world)
        (world / "home" / "prefect").mkdir(exist_ok=True)
        if database.exists():
            shutil.copy(database, world / "home" / "prefect" / "prefect.db")
        with LocalTournament(world / "tournament", market=MARKET) as local:
            branch = Branch("in peace", begun, world, local, random.Random(0))  # noqa: S311
            run = _run(branch, branch_environment(branch))
        assert run.exit_code == 0, run.told
        source, target = sqlite3.connect(_database(branch)), sqlite3.connect(database)
        source.backup(target)
        source.close()
        target.close()
        seconds = run.seconds
    return seconds


def _harm(branch: Branch, trouble: str, duration_s: float) -> None:
    environment, kill_after_s = branch_environment(branch), None
    if trouble == KILLED:
        kill_after_s = branch.draw.uniform(0.0, 0.9) * duration_s / (1 + 0.3 * branch.kills)
    with HARMS[trouble](branch, environment):
        of_server = trouble.startswith("SIGKILL of its Prefect server")
        run = _run(branch, environment, kill_after_s, branch.draw.uniform(0.2, 1.0) * duration_s if of_server else None)
    branch.kills += run.is_killed
    look_at(branch, run)
    branch.steps.append(Step(troubles=(trouble,), harm="", exit_code=run.exit_code, codes=codes_of(run)))


def branch_environment(branch: Branch) -> dict[str, str]:
    """What points the command at the branch's tournament and home."""
    return {**clean_environment(), **branch.week.environment}


def _run(
    branch: Branch,
    environment: Mapping[str, str],
    kill_after_s: float | None = None,
    server_after_s: float | None = None,
) -> Run:
    logs, began_s = branch.logs(), time.monotonic()
    logs.mkdir(parents=True)
    command = [*weekly_command(*SLOTS), "--set", "training.epochs=1", "--set", "data.feature_set=all"]
    with (logs / "out.txt").open("wb") as out, (logs / "told.txt").open("wb") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=told,
            start_new_session=True,
        )  # fmt: skip
        if server_after_s is not None:
            _wait(process, server_after_s)
            _kill_server(branch)
        if kill_after_s is not None and not _wait(process, kill_after_s):
            process.kill()
        assert _wait(process, PATIENCE_S), f"a run took more than {PATIENCE_S:g} s: {(logs / 'told.txt').read_text()}"
    wait_until(lambda: not processes_of(branch.folder / "home"), LINGER_S)
    lines = (logs / "out.txt").read_text().splitlines()
    result = None
    with suppress(ValueError, LookupError):  # it was killed before it could say anything
        result = json.loads(lines[-1])["rounds"][0]
    return Run(
        exit_code=process.returncode, result=result, told=(logs / "told.txt").read_text(errors="replace"),
        seconds=time.monotonic() - began_s,
    )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_server(branch: Branch) -> None:
    for number, command in processes_of(branch.folder / "home").items():
        if "temporary_server" in command:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def _database(branch: Branch) -> Path:
    return branch.folder / "home" / "prefect" / "prefect.db"
