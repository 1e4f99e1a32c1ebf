"""One week of a campaign of faults: a round is harmed again and again, then left in peace, and looked at from outside.

Read `play_branch`. A branch begins where its week began (a copy of the tournament and of the home), harms some runs of
the round, one after another, and then plays it in peace until it is safe. What counts is asked of the tournament: what
it accepted, and with which bytes; and of what the user sees: exit codes, receipts, and what was printed. Everything in
a branch is drawn from its name, so that it can be played again alone; only when a signal comes is up to the machine.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from eraflow.rehearsal import LocalTournament, MarketConfig
from tests.behaviour.harmed import Harm, Run, Started, play_harmed
from tests.behaviour.troubles import KILLS, TROUBLES, Trouble, World
from tests.behaviour.week import SLOTS, Week

MARKET = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=30)
# So often a round is played in peace before it counts as lost.
TRIES = 4
# Runs of a branch that are killed; the share of those that meet a second trouble at once, or a second run.
KILLED, SECOND, TWO_AT_ONCE = (3, 8), 0.25, 0.08
SIGNATURE = b"signature="
NO_HARM = vars(Harm())


@dataclass(frozen=True, kw_only=True)
class Step:
    """One harmed run, and what came of it."""

    troubles: tuple[str, ...]
    harm: str
    exit_code: int
    codes: tuple[str, ...] = ()
    """Error codes of its slots."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a branch came to."""

    branch: str
    steps: tuple[Step, ...]
    kills: int
    saved: bool
    """Each slot has exactly one on-time submission."""
    could_be_saved: bool
    tries: int
    """Runs in peace that it took."""
    seconds: float
    wrong: tuple[str, ...]
    """Everything that must not be; empty."""

    def as_table(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(kw_only=True)
class Begun:
    """Where a week's branches begin."""

    folder: Path
    """With `tournament` and `home` inside."""
    duration_s: float
    points: int
    sha256: str
    """Of what a round without trouble submits."""
    untrusted: str


@dataclass
class Branch:
    """A branch that is being played."""

    name: str
    begun: Begun
    folder: Path
    local: LocalTournament
    draw: random.Random = field(default_factory=random.Random)
    wrong: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    kills: int = 0
    runs: int = 0
    other_bytes: bool = False
    other_ids: bool = False
    before: frozenset[str] = frozenset()
    """Ids of the submissions of earlier weeks."""
    ledger_was_harmed: bool = False

    @property
    def week(self) -> Week:
        return Week(self.local, self.folder / "home")

    def logs(self) -> Path:
        self.runs += 1
        return self.folder / "logs" / str(self.runs)

    def world(self) -> World:
        # What a killed run has done the next one need not do, so that its end comes sooner.
        begun, left = self.begun, 0.9 / (1 + self.kills)
        return World(
            local=self.local, home=self.folder / "home", untrusted=begun.untrusted,
            duration_s=left * begun.duration_s, points=max(1, int(left * begun.points)),
        )  # fmt: skip


def request_of(week: Week) -> Any:
    """Both slots, one epoch; models date from this machine's clock, of which the tournament's is weeks ahead."""
    assignments = {"training.epochs": "1", "data.feature_set": "all", "fallback.max_age_weeks": "1000"}
    return week.request(assignments=assignments)


def play_branch(name: str, begun: Begun, folder: Path, troubles: Sequence[Trouble] = ()) -> Outcome:
    """Harm one round until it is saved in spite of that or nothing is left to be done to it, then save it."""
    started = time.monotonic()
    shutil.copytree(begun.folder, folder)
    draw, could_be_saved = random.Random(name), True  # noqa: S311 -- a plan that must repeat
    with LocalTournament(folder / "tournament", market=MARKET) as local:
        branch = Branch(name, begun, folder, local, draw, before=frozenset(one.id for one in local.submissions()))
        for planned in _plan(draw, troubles):
            _harm(branch, planned)
            could_be_saved = not any(one.ends_round for one in planned) or is_saved(branch)
            if not could_be_saved or is_saved(branch):
                break
        tries = _in_peace(branch) if could_be_saved else 0
        saved = is_saved(branch)
        if could_be_saved and not saved:
            branch.wrong.append("a round that could be saved was lost")
        look_from_outside(branch, saved)
    branch.wrong += secrets_in(folder, local.secret_key)
    return Outcome(
        branch=name, steps=tuple(branch.steps), kills=branch.kills, saved=saved, could_be_saved=could_be_saved,
        tries=tries, seconds=round(time.monotonic() - started, 1), wrong=tuple(dict.fromkeys(branch.wrong)),
    )  # fmt: skip


def _plan(draw: random.Random, given: Sequence[Trouble]) -> list[tuple[Trouble, ...]]:
    """Kills, with the given troubles somewhere among them; some meet a trouble of the network at once."""
    first = [draw.choice(KILLS) for _ in range(draw.randint(*KILLED))]
    for trouble in given:
        first.insert(draw.randint(0, len(first)), trouble)
    network = [one for one in TROUBLES if one.door == "network"]
    seconds = [draw.choice(network) if draw.random() < SECOND else None for _ in first]
    return [(one, two) if two and two is not one else (one,) for one, two in zip(first, seconds, strict=True)]


def _harm(branch: Branch, planned: Sequence[Trouble]) -> None:
    """One run, or two at once, with all that is planned for it."""
    world, draw, request = branch.world(), branch.draw, request_of(branch.week)
    with ExitStack() as at_work:
        harms = [at_work.enter_context(trouble.begin(world, draw)) for trouble in planned]
        harm = _together(harms)
        environment = branch.week.environment
        runs = [Started(environment, request, branch.logs(), harm)]
        if draw.random() < TWO_AT_ONCE:
            runs.append(Started(environment, request, branch.logs(), Harm()))
        ended = [run.ended() for run in runs]
    branch.other_bytes |= any(one.other_bytes for one in planned)
    branch.other_ids |= any(one.other_ids for one in planned)
    branch.ledger_was_harmed |= "ledger.sqlite" in harm.name
    for run in ended:
        branch.kills += run.is_killed
        look_at(branch, run)
    names = tuple(one.name for one in planned) + ("two runs at once",) * (len(ended) - 1)
    branch.steps.append(Step(troubles=names, harm=harm.name, exit_code=ended[0].exit_code, codes=codes_of(ended[0])))


def _together(harms: Sequence[Harm]) -> Harm:
    """One process bears them all; each gives what the others leave at its default."""
    found = Harm(name=", ".join(one.name for one in harms if one.name))
    for harm in harms:
        given = {name: value for name, value in vars(harm).items() if name != "name" and value != NO_HARM[name]}
        found = replace(found, **given)
    return found


def _in_peace(branch: Branch) -> int:
    """Play the round until it is safe, doing what the messages say; returns how often that was."""
    for tries in range(1, TRIES + 1):
        run = play_harmed(branch.week.environment, request_of(branch.week), branch.logs())
        look_at(branch, run)
        if run.exit_code == 0:
            return tries
        if "if it is damaged, move it away" in run.told:
            branch.ledger_was_harmed = True
            for path in (branch.folder / "home").glob("ledger.sqlite*"):
                path.unlink()
    branch.wrong.append(f"in peace it ended with {run.exit_code}: {run.told.strip().splitlines()[-1:]}")
    return TRIES


def look_at(branch: Branch, run: Run) -> None:
    """What the user sees of a run is true, and no traceback."""
    if "Traceback" in run.told:
        branch.wrong.append(f"a traceback was shown: {run.told.strip().splitlines()[-1]}")
    if "unexpected" in codes_of(run):
        branch.wrong.append(f"an error that nobody expected: {_messages(run)}")
    if run.result is None:
        return
    held = {(one.slot, one.sha256) for one in branch.local.submissions()}
    for entry in run.result["submissions"]:
        if entry["verified"] and (entry["model"], entry["sha256"]) not in held:
            branch.wrong.append(f"a receipt is verified of which the tournament has no bytes: {entry}")
        if run.exit_code == 0 and not entry["verified"]:
            branch.wrong.append(f"exit code 0 without a verified receipt: {entry}")


def look_from_outside(branch: Branch, saved: bool) -> None:
    """What the tournament holds is once there, was meant, and is what a round without trouble would have sent."""
    local, made = branch.local, dict[tuple[int, str], list[str]]()
    for one in local.submissions():
        if one.carried_over or one.id in branch.before:
            continue
        if not one.valid:
            if not branch.other_ids:
                branch.wrong.append(f"the tournament's validator refused what was sent: {one.error}")
            continue
        made.setdefault((one.round, one.model_id), []).append(str(one.sha256))
    for (number, slot), sent in made.items():
        if len(sent) > 1:
            branch.wrong.append(f"round {number}, slot {slot}: {len(sent)} submissions in place of one")
    if saved and not branch.other_bytes:
        now = local._core.latest().number
        others = {sha256 for (number, _), sent in made.items() for sha256 in sent if number == now}
        if others != {branch.begun.sha256}:
            branch.wrong.append("other bytes than those of a round without trouble")
    if not branch.ledger_was_harmed:
        known = _known(branch.folder / "home" / "ledger.sqlite")
        if unknown := {sha256 for sent in made.values() for sha256 in sent} - known:
            branch.wrong.append(f"{len(unknown)} submissions that the ledger does not know")


def is_saved(branch: Branch) -> bool:
    """Whether each slot of the account has its on-time submission for the latest round."""
    latest = branch.local._core.latest().number
    there = {one.model_id for one in branch.local.accepted(latest) if not one.carried_over and not one.late}
    return {slot.id for slot in branch.local._core.state.slots if slot.name in SLOTS} <= there


def _known(ledger: Path) -> set[str]:
    if not ledger.exists():
        return set()
    connection = sqlite3.connect(ledger)
    try:
        return {str(row[0]) for row in connection.execute("SELECT sha256 FROM attempts")}
    finally:
        connection.close()


def codes_of(run: Run) -> tuple[str, ...]:
    """Error codes of a run and its slots."""
    found = run.result or {"submissions": []}
    entries = [*found["submissions"], found]
    return tuple(sorted({str(one["error"]["code"]) for one in entries if one.get("error")}))


def _messages(run: Run) -> str:
    found = run.result or {"submissions": []}
    entries = [*found["submissions"], found]
    return "; ".join(sorted({str(one["error"]["message"]) for one in entries if one.get("error")}))


def secrets_in(folder: Path, secret: str) -> list[str]:
    """Files below `folder`, but the tournament's own, that hold the secret key or the signature of an address."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).parts[0] != "tournament":
            data = path.read_bytes()
            found += [f"{path.name} holds a secret" for text in (secret.encode(), SIGNATURE) if text in data]
    return found
