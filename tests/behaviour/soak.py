"""One week of a campaign of faults: a round is harmed again and again, then left in peace, and looked at from outside.

Read `play_branch`. A branch begins where its week began (a copy of the tournament and of the home), harms some runs of
the round, one after another, and then plays it in peace until it is safe. What must hold then stands in `soak_checks`.
Everything in a branch is drawn from its name, so that it can be played again alone; only when a signal comes is up to
the machine.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from eraflow.rehearsal import LocalTournament
from tests.behaviour.crash_points import LEDGER
from tests.behaviour.harmed import Harm, Run, Started, play_harmed
from tests.behaviour.soak_branch import MARKET, Begun, Branch, Outcome, Step, request_of, sent_by_slot
from tests.behaviour.soak_checks import (
    ALTERED,
    DAMAGED,
    codes_of,
    is_saved,
    look_at,
    look_from_outside,
    said_by,
    secrets_in,
    secrets_of,
)
from tests.behaviour.troubles import CREATE, KILLS, TROUBLES, Trouble, was_met
from tests.behaviour.week import SLOTS, Week

# So often a round is played in peace before it counts as lost.
TRIES = 4
# Runs of a branch that are killed; the share of those that meet a second trouble at once, or a second run.
KILLED, SECOND, TWO_AT_ONCE = (3, 8), 0.25, 0.08
# The given trouble comes before so many kills at most, since the round may be safe after more.
EARLY = 2
TWO_RUNS = "two runs at once"
NO_HARM = vars(Harm())


def play_branch(name: str, begun: Begun, folder: Path, troubles: Sequence[Trouble] = ()) -> Outcome:
    """Harm one round until it is saved in spite of that or nothing is left to be done to it, then save it."""
    started = time.monotonic()
    shutil.copytree(begun.folder, folder)
    draw, could_be_saved = random.Random(name), True  # noqa: S311 -- a plan that must repeat
    with LocalTournament(folder / "tournament", market=MARKET) as local:
        branch = Branch(name, begun, folder, local, draw, before=frozenset(one.id for one in local.submissions()))
        for planned in _plan(draw, troubles):
            _harm(branch, planned)
            if any(one.ends_round for one in planned):
                could_be_saved = is_saved(branch) or local.open_round() is not None
            if not could_be_saved or is_saved(branch):
                break
        tries = play_in_peace(branch, lambda: _in_peace(branch)) if could_be_saved else 0
        saved = is_saved(branch)
        if could_be_saved and not saved:
            branch.wrong.append("a round that could be saved was lost")
        look_from_outside(branch, references_of(branch))
        branch.wrong += secrets_in(folder, secrets_of(local))
    return branch.came_to(
        saved=saved, could_be_saved=could_be_saved, tries=tries, seconds=time.monotonic() - started
    )  # fmt: skip


def _plan(draw: random.Random, given: Sequence[Trouble]) -> list[tuple[Trouble, ...]]:
    """Kills, with the given troubles early among them; some meet a trouble of the network at once."""
    first = [draw.choice(KILLS) for _ in range(draw.randint(*KILLED))]
    for trouble in given:
        first.insert(draw.randint(0, EARLY), trouble)
    network = [one for one in TROUBLES if one.door == "network"]
    seconds = [draw.choice(network) if draw.random() < SECOND else None for _ in first]
    return [(one, two) if two and two is not one else (one,) for one, two in zip(first, seconds, strict=True)]


def _harm(branch: Branch, planned: Sequence[Trouble]) -> None:
    """One run, or two at once, with all that is planned for it."""
    world, draw, request = branch.world(), branch.draw, request_of(branch.week)
    struck, environment = branch.local.faults.struck, branch.environment
    made_before = {one.id for one in branch.made()}
    with ExitStack() as at_work:
        struck_before, asked_before = len(struck), len(branch.local.requests)
        harms = [at_work.enter_context(trouble.begin(world, draw)) for trouble in planned]
        harm = _together(harms)
        runs = [Started(environment, request, branch.logs(), harm)]
        if draw.random() < TWO_AT_ONCE:
            runs.append(Started(environment, request, branch.logs(), Harm()))
        ended = [run.ended() for run in runs]
        struck_now, asked = struck[struck_before:], branch.local.requests[asked_before:]
    met_ones = [one for one, given in zip(planned, harms, strict=True) if was_met(given, ended[0], struck_now, asked)]
    if any(one.other_bytes for one in met_ones):
        branch.other_bytes |= {one.id for one in branch.made()} - made_before
    branch.altered |= {sha256 for one in harms for sha256 in one.altered or ()}
    branch.other_ids |= any(one.other_ids for one in met_ones)
    if any(one.what == "close" and one.where == CREATE for one in struck_now):
        branch.may_be_late += len(ended)  # each run may have had one on its way
    branch.ledger_was_harmed |= LEDGER in harm.name
    met, names, at_once = [one.name for one in met_ones], [one.name for one in planned], [TWO_RUNS] * (len(ended) - 1)
    _note(branch, ended[0], names + at_once, met + at_once, harm.name)
    for run in ended[1:]:
        _note(branch, run, at_once, at_once)


def _note(branch: Branch, run: Run, troubles: Sequence[str], met: Sequence[str], harm: str = "") -> None:
    look_at(branch, run)
    branch.kills += run.is_killed
    told = ", ".join(text for text in (harm, run.spoiled) if text)
    branch.steps.append(
        Step(troubles=tuple(troubles), met=tuple(met), harm=told, exit_code=run.exit_code, codes=codes_of(run))
    )


def _together(harms: Sequence[Harm]) -> Harm:
    """One process bears them all; each gives what the others leave at its default."""
    found = Harm(name=", ".join(one.name for one in harms if one.name))
    for harm in harms:
        given = {
            name: value
            for name, value in vars(harm).items()
            if name not in ("name", "fault", "altered") and value != NO_HARM[name]
        }
        found = replace(found, **given)
    return found


def _in_peace(branch: Branch) -> Run:
    request = replace(request_of(branch.week), resubmit=branch.resubmits)
    return play_harmed(branch.environment, request, branch.logs())


def play_in_peace(branch: Branch, play: Callable[[], Run]) -> int:
    """Play the round until it is safe, doing what the messages say; returns how often that was."""
    for tries in range(1, TRIES + 1):
        run = play()
        look_at(branch, run)
        if run.exit_code == 0:
            branch.in_peace = True
            return tries
        branch.peace.append(f"{run.exit_code}: {said_by(run)}")
        if branch.altered and run.says(ALTERED) and not branch.resubmits:
            branch.resubmits = True
        elif not run.says(DAMAGED):
            branch.wrong.append(f"a run in peace ended with {run.exit_code}: {said_by(run)}")
        else:
            if not (branch.ledger_was_harmed or branch.begun.ledger_is_harmed):
                branch.wrong.append("a ledger that no trouble has harmed had to be moved away")
            branch.ledger_was_harmed = branch.ledger_was_moved = True
            for path in (branch.folder / "home").glob(f"{LEDGER}*"):
                path.unlink()
    return TRIES


def references_of(branch: Branch) -> dict[int, Mapping[str, str]]:
    """Round -> slot -> sha256 of what is right: of the round that the branch began with, and of one opened since."""
    found, latest = {branch.begun.round: branch.begun.sha256}, branch.local._core.latest().number
    if latest not in found and any(one.valid and one.round == latest for one in branch.made()):
        with tempfile.TemporaryDirectory(prefix="eraflow-soak-") as temporary:
            found[latest] = from_nothing(branch.local.home, Path(temporary))[1]
    return found


def from_nothing(tournament: Path, temporary: Path) -> tuple[Run, Mapping[str, str]]:
    """A round without trouble from an empty home at a copy of this tournament; slot -> sha256 of what it sent."""
    shutil.copytree(tournament, temporary / "tournament")
    with LocalTournament(temporary / "tournament", market=MARKET) as local:
        local._core.state.submissions.clear()
        week = Week(local, temporary / "home")
        run = play_harmed(week.environment, request_of(week), temporary / "logs")
        sha256 = sent_by_slot(local)
    if run.exit_code or len(set(sha256.values())) != len(SLOTS):
        raise SystemExit(f"a round without trouble ended with {run.exit_code}: {run.told} {sha256}")
    return run, sha256
