"""After the deadline: what is late, whose it is, and that it saves no round."""

from __future__ import annotations

import pytest

from eraflow.errors import ClosedError
from eraflow.rehearsal.server import LocalTournament
from eraflow.result import RoundResult
from eraflow.rounds import Round
from eraflow.verdict import verdict
from tests.eraflow.sender import LATE, NO_DOWNLOAD, SLOT, Sender


def after_the_deadline(one: Sender, other: Sender) -> Round:
    """Nothing was sent on time; another machine has sent late."""
    opened = one.door.current_round()
    order = other.order(opened=opened)
    one.pass_time(opened.left_s(one.door.now_utc()) + 600)
    other.door.clock.skew_s = one.door.clock.skew_s
    assert other.send(order, settings=LATE).status == "late"
    return opened


def test_a_late_submission_of_somebody_else_makes_no_missed_round_safe(one: Sender, other: Sender) -> None:
    opened = after_the_deadline(one, other)
    with pytest.raises(ClosedError, match="nothing was sent for slot rehearsal_one"):
        one.send(one.order(opened=opened))


def test_where_late_ones_are_wanted_that_of_somebody_else_is_left_alone_and_called_late(
    one: Sender, other: Sender, local: LocalTournament
) -> None:
    opened = after_the_deadline(one, other)
    found = one.send(one.order(opened=opened), settings=LATE)
    assert (found.origin, found.status) == ("foreign", "already-submitted")
    assert found.left_s is not None
    assert found.left_s < 0
    assert verdict(RoundResult(round=opened.number, receipts=(found,))).kind == "late"
    assert len(local.submissions()) == 1


def test_a_late_one_of_ours_that_was_thought_lost_is_not_sent_again(one: Sender, local: LocalTournament) -> None:
    local.close_round()
    order = one.order()
    first = one.send(order, settings=LATE)
    (attempt,) = one.attempts()
    one.ledger.mark(attempt.id, "failed", error="took-no-effect")
    found = one.send(order, settings=LATE)
    assert (found.origin, found.submission_id) == ("own", first.submission_id)
    assert len(local.submissions()) == 1


def test_a_submission_to_the_next_round_is_no_late_one_of_this(
    one: Sender, other: Sender, local: LocalTournament
) -> None:
    order = one.order()
    local.close_round()
    local.open_next_round(delay_s=0)
    assert other.send().status == "submitted"
    with pytest.raises(ClosedError) as caught:
        one.send(order, settings=LATE)
    assert caught.value.code == "round-overtaken"
    assert [entry.slot for entry in local.submissions()] == [SLOT]


def test_a_late_one_that_the_validator_refuses_is_not_verified_by_being_listed(
    one: Sender, local: LocalTournament
) -> None:
    local.set_scopes(NO_DOWNLOAD)
    local.close_round()
    one.ids = [f"n{number:015x}" for number in range(len(one.ids))]
    found = one.send(settings=LATE)
    assert (found.verified, found.exit_code) == (False, 1)
    assert "the tournament refuses it" in str(found.error_message)
