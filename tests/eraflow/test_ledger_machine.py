"""Exactly one submission a round, whatever happens in whatever order: `submission` and `ledger` against a model.

Each run is the real `submit` with the real ledger, opened anew from its file, so nothing but the file outlives a run.
The tournament is modelled in memory (`modelled`), because a hundred histories of a dozen runs over HTTP would take
minutes: rounds and deadlines, selected, late and carried-over submissions, the validator, calls that are refused or
not answered, lost answers with and without an effect, an effect that is seen only after a while, and bytes that come
back changed. A run may be killed, or overtaken by a deadline, by the next round or by another machine, before or after
each call and each entry of the ledger; between two runs the slot may be removed and its name given to a new one. That
nothing is sent twice is no more than half of it: in a round without trouble one run sends what counts. Not modelled:
several slots (each has its own lock, entries and submissions),
two runs at once (`test_submission`), and an effect that is seen only after a lost answer was given up, which nothing
on this side can tell from none.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eraflow.errors import EraflowError
from eraflow.ledger import Attempt, Ledger, State
from eraflow.predictions import canonical_csv
from eraflow.receipt import Receipt
from eraflow.store import Store, utc_text
from eraflow.submission import Order, SubmissionConfig, submit
from tests.eraflow.modelled import HAND, SLOT, TROUBLES, URL, Made, ModelledTime, ModelledTournament, as_tournament

# A power cut is not modelled, and a disk that has to sync each entry would take nine tenths of the time.
IN_MEMORY = Path("/dev/shm")  # noqa: S108
IDS = ("n1", "n2", "n3")
BY_HAND = b"id,prediction\nn1,0.3\nn2,0.2\nn3,0.1\n"
PLANS = [(operation, what) for operation, kinds in TROUBLES.items() for what in kinds]
PLANS += [("create", what) for what in TROUBLES["create"]] * 2  # what the rest is there for
SEEDS = st.integers(0, 2)
LATE = st.sampled_from(["skip", "submit"])
STEPS = st.integers(0, 30)
"""At which call or entry, before or after it, something else happens; 0 for never."""
EVENTS = st.sampled_from(["killed", "killed", "killed", "another machine", "deadline", "next round"])
WORLD = ["another machine", "deadline", "next round", "a while", "lost ledger", "slot made again"]
BY_NOW = ["another machine", "deadline"]
"""What may have happened to a round before it is played."""
STAGES: dict[str, int] = {state: min(place, 3) for place, state in enumerate(get_args(State))}
"""State -> how far it is: what came to an end may be judged anew, but is never on its way again."""


def predicted(seed: int) -> bytes:
    """What a run of that seed has to send."""
    return canonical_csv(IDS, (np.random.default_rng(seed).permutation(len(IDS)) + 0.5) / len(IDS))


class KilledError(BaseException):
    """What ends a process in the middle."""


class KillableLedger(Ledger):
    """A ledger whose process may end before and after each entry."""

    tournament_model: ModelledTournament

    def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        self.tournament_model.step("about to write")
        entered = super()._write(statement, values)
        self.tournament_model.step("written")
        return entered


class Submitting(RuleBasedStateMachine):
    """One machine of the account through many rounds, with the tournament and the world against it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        self.store = Store.open(Path(self.folder.name))
        self.tournament = ModelledTournament(step=self.step)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("eraflow.submission.time", ModelledTime(self.tournament))
        self.steps_left, self.event = 0, ""
        self.asked_again: Counter[tuple[str, int]] = Counter()
        self.seen: dict[int, Attempt] = {}

    def teardown(self) -> None:
        self.patch.undo()
        self.folder.cleanup()

    # What happens in the midst of a run

    def step(self, name: str) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self.happen(self.event)

    def happen(self, event: str) -> None:
        if event == "killed":
            raise KilledError
        if event == "another machine":
            self.tournament.add("by-hand.csv", BY_HAND, HAND)
        elif event == "deadline":
            left = self.tournament.latest.closes_at_utc - self.tournament.now
            self.tournament.pass_time(max(left, timedelta()) + timedelta(seconds=1))
        elif event == "next round":
            opens = self.tournament.latest.opens_at_utc + timedelta(days=7)
            self.tournament.pass_time(opens - self.tournament.now + timedelta(minutes=1))
        elif event == "slot made again":
            self.tournament.make_the_slot_again()

    def ledger(self) -> KillableLedger:
        found = KillableLedger(self.store.ledger_path, URL)
        found.tournament_model = self.tournament
        return found

    def attempts(self, number: int) -> list[Attempt]:
        return self.ledger().attempts(number, SLOT.name, self.tournament.slot.model_id)

    def run_once(self, seed: int, late: Any, steps: int, event: str, resubmit: bool) -> Receipt | EraflowError | None:
        """One run, as far as it comes; None where it was killed."""
        opened = self.tournament.latest
        order = Order(
            opened=opened, slot=self.tournament.slot, recipe="small", source="fresh", data=predicted(seed), live_ids=IDS
        )
        since = utc_text(datetime.now(UTC), "microseconds") if resubmit else None
        unsettled = any(attempt.state == "sending" for attempt in self.attempts(opened.number))
        by_hand = [one for one in self.of_this_round() if one.by == HAND]
        self.tournament.calls.clear()
        self.steps_left, self.event = steps, event
        try:
            return submit(
                as_tournament(self.tournament), self.ledger(), self.store, order, SubmissionConfig(late=late),
                resubmit_since=since,
            )  # fmt: skip
        except EraflowError as error:
            return error
        except KilledError:
            return None
        finally:
            self.steps_left = 0
            self.looked_before_it_sent(unsettled, resubmit)
            assert resubmit or not by_hand or "upload" not in self.tournament.calls, by_hand

    def looked_before_it_sent(self, unsettled: bool, resubmit: bool) -> None:
        calls = self.tournament.calls
        if "upload" in calls:
            before = calls[: calls.index("upload")]
            assert resubmit or "selected" in before
            assert not unsettled or "listed" in before

    def of_this_round(self) -> list[Made]:
        """What the slot has for the round that opened last, without what was carried into it."""
        number = self.tournament.latest.number
        return [one for one in self.tournament.held() if one.round == number and not one.carried_over]

    # Rules

    @rule(
        plans=st.lists(st.sampled_from(PLANS), max_size=3), by_now=st.lists(st.sampled_from(BY_NOW), max_size=2),
        seed=SEEDS, late=LATE, steps=STEPS, event=EVENTS,
    )  # fmt: skip
    def a_round_opens_and_is_played_twice(
        self, plans: list[tuple[str, str]], by_now: list[str], seed: int, late: str, steps: int, event: str
    ) -> None:
        self.happen("next round")
        for what in by_now:
            self.happen(what)
        self.tournament.trouble.clear()
        for operation, what in plans:
            self.tournament.trouble.setdefault(operation, []).append(what)
        self.run_once(seed, late, steps, event, resubmit=False)
        self.told_truly(self.run_once(seed + 1, late, 0, "", resubmit=False))

    @rule(seed=SEEDS, late=LATE, made_again=st.booleans())
    def a_round_opens_and_nothing_is_in_the_way(self, seed: int, late: str, made_again: bool) -> None:
        self.tournament.trouble.clear()
        self.happen("next round")
        self.one_run_is_enough(seed, late)
        if made_again:
            self.happen("slot made again")
            self.one_run_is_enough(seed + 1, late)

    def one_run_is_enough(self, seed: int, late: str) -> None:
        """What it sends counts for the round, byte for byte, and it says so; the next run sends nothing."""
        told = self.run_once(seed, late, 0, "", resubmit=False)
        assert isinstance(told, Receipt), told
        assert (told.status, told.origin, told.verified) == ("submitted", "own", "bytes")
        (made,) = self.of_this_round()
        assert (made.id, made.selected, made.data) == (told.submission_id, True, predicted(seed))
        again = self.run_once(seed + 1, late, 0, "", resubmit=False)
        assert isinstance(again, Receipt), again
        assert (again.status, again.submission_id, again.verified) == ("already-submitted", made.id, "bytes")
        assert self.of_this_round() == [made]

    @rule(plan=st.sampled_from(PLANS), times=st.integers(1, 3))
    def trouble_comes(self, plan: tuple[str, str], times: int) -> None:
        operation, what = plan
        self.tournament.trouble.setdefault(operation, []).extend([what] * times)

    @rule()
    def trouble_goes(self) -> None:
        self.tournament.trouble.clear()

    @rule(seed=SEEDS, late=LATE, steps=STEPS, event=EVENTS)
    def run_that_is_disturbed(self, seed: int, late: str, steps: int, event: str) -> None:
        self.run_once(seed, late, steps, event, resubmit=False)

    @rule(seed=SEEDS, late=LATE)
    def run(self, seed: int, late: str) -> None:
        self.told_truly(self.run_once(seed, late, 0, "", resubmit=False))

    @rule(seed=SEEDS, steps=STEPS)
    def resubmit(self, seed: int, steps: int) -> None:
        self.asked_again[self.tournament.slot.model_id, self.tournament.latest.number] += 1
        self.told_truly(self.run_once(seed, "submit", steps, "killed", resubmit=True))

    @rule(event=st.sampled_from(WORLD))
    def the_world_goes_on(self, event: str) -> None:
        self.happen(event)
        if event == "lost ledger":
            self.store.ledger_path.unlink(missing_ok=True)
            self.seen.clear()
        if event in ("a while", "lost ledger"):
            self.tournament.pass_time(timedelta(minutes=5))

    # What holds whatever happened

    def told_truly(self, told: Receipt | EraflowError | None) -> None:
        """What a receipt says is so, as far as nothing else happened after it."""
        if not isinstance(told, Receipt):
            return
        made = {one.id: one for one in self.tournament.held()}[str(told.submission_id)]
        assert made.round == told.round
        if told.verified:  # a late one waits for the next round: it is listed, and not selected
            assert made.selected or made.late
            assert not made.complaint
        if told.verified and told.origin == "own":
            (attempt,) = [one for one in self.attempts(told.round) if one.submission_id == made.id]
            assert made.selected or attempt.late, "it was not sent as a late one, and does not count"
        if told.verified == "bytes":
            assert hashlib.sha256(made.data).hexdigest() == told.sha256

    @invariant()
    def no_round_has_two_of_ours_unless_that_was_asked(self) -> None:
        ours = [one for one in self.tournament.made if one.by == "us" and not one.carried_over and not one.complaint]
        for slot_and_round, count in Counter((one.slot_id, one.round) for one in ours).items():
            assert count <= 1 + self.asked_again[slot_and_round], ours

    @invariant()
    def what_the_ledger_says_is_so_and_only_moves_forward(self) -> None:
        attempts = self.ledger().recent(100)
        for attempt in attempts:
            if attempt.state == "verified":
                self.is_held(attempt)
            if before := self.seen.get(attempt.id):
                self.moved_forward(before, attempt)
        assert self.seen.keys() <= {attempt.id for attempt in attempts}
        self.seen = {attempt.id: attempt for attempt in attempts}

    def is_held(self, attempt: Attempt) -> None:
        held = {one.id: one for one in self.tournament.made}[str(attempt.submission_id)]
        assert held.filename == attempt.stored_as
        if attempt.verified == "bytes":
            assert held.round == attempt.round
            assert hashlib.sha256(held.data).hexdigest() == attempt.sha256

    def moved_forward(self, before: Attempt, after: Attempt) -> None:
        assert STAGES[after.state] >= STAGES[before.state]
        for name in ("sha256", "started_at_utc", "sent_at_utc", "stored_as", "submission_id"):
            assert getattr(before, name) in (None, getattr(after, name))
        if before.state == "failed" and after.state != "failed":
            assert after.stored_as in {one.filename for one in self.tournament.made}


Submitting.TestCase.settings = settings(
    max_examples=80, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSubmitting = Submitting.TestCase


def test_a_late_submission_whose_ledger_was_lost_is_not_sent_again() -> None:
    history = Submitting()
    history.the_world_goes_on(event="deadline")
    history.run(seed=0, late="submit")
    history.the_world_goes_on(event="lost ledger")
    history.run(seed=0, late="submit")
    history.no_round_has_two_of_ours_unless_that_was_asked()
    history.teardown()


def test_a_submission_of_an_undisturbed_run_is_verified_and_found_again() -> None:
    history = Submitting()
    first, second = (history.run_once(seed, "skip", 0, "", resubmit=False) for seed in (0, 1))
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (first.status, first.verified, second.status) == ("submitted", "bytes", "already-submitted")
    assert [one.id for one in history.tournament.made] == [first.submission_id]
    history.teardown()


@pytest.mark.parametrize("late_by_now", [False, True], ids=["on time", "late"])
@pytest.mark.parametrize("what", ["", "lost, unseen"], ids=["seen at once", "seen later"])
def test_a_run_that_is_killed_at_any_step_and_run_again_sends_exactly_one(late_by_now: bool, what: str) -> None:
    for steps in range(1, 31):
        history = Submitting()
        if late_by_now:
            history.happen("deadline")
        history.tournament.trouble["create"] = [what]
        history.run_once(0, "submit", steps, "killed", resubmit=False)
        again = history.run_once(1, "submit", 0, "", resubmit=False)
        assert isinstance(again, Receipt)
        assert again.verified == "bytes"
        assert [one.by for one in history.tournament.made] == ["us"], f"killed at step {steps}"
        history.teardown()
