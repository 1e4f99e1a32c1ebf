"""A slot that the tournament calls otherwise than when we submitted for it is still the same slot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eraflow.errors import UnknownOutcomeError
from eraflow.rehearsal.faults import Fault
from eraflow.rehearsal.server import LocalTournament
from eraflow.submission import Order
from tests.eraflow.sender import Sender
from tests.eraflow.talking import asked


def renamed(order: Order) -> Order:
    return replace(order, slot=replace(order.slot, name="another_name"))


def test_a_renamed_slots_submission_is_our_own_and_is_not_sent_again(one: Sender, local: LocalTournament) -> None:
    order = one.order()
    first, again = one.send(order), one.send(renamed(order))
    assert (again.origin, again.status, again.verified) == ("own", "already-submitted", "bytes")
    assert (again.submission_id, again.slot) == (first.submission_id, "another_name")
    assert asked(local, "createSubmission") == 1


@pytest.mark.parametrize("effect", [True, False], ids=["took effect", "took none"])
def test_what_became_of_a_submission_is_found_out_after_the_slot_was_renamed(
    effect: bool, one: Sender, local: LocalTournament
) -> None:
    order = one.order()
    local.faults.add(
        Fault(where="query:createSubmission", what="lost-answer" if effect else "status", code=500),
        Fault(where="query:submissions", what="status", code=503, times=None),
    )
    with pytest.raises(UnknownOutcomeError):
        one.send(order)
    local.faults.clear()
    assert one.send(renamed(order)).origin == "own"
    states = [attempt.state for attempt in one.ledger.attempts(1401, "any", order.slot.model_id)]
    assert states == (["verified"] if effect else ["verified", "failed"])
    assert len(local.submissions()) == 1
