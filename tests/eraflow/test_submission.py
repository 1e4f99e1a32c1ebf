"""Exactly one accepted submission, whatever happens between us and the tournament."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from eraflow.errors import (
    RefusedError,
    UnknownOutcomeError,
)
from eraflow.ledger import Ledger
from eraflow.rehearsal.faults import Fault, What
from eraflow.rehearsal.server import LocalTournament
from eraflow.submission import Order, SubmissionConfig, standing
from eraflow.transport import NotSentError
from tests.eraflow.sender import LATE, NO_DOWNLOAD, SLOT, Sender, Waiting
from tests.eraflow.talking import asked

# Once


def test_a_submission_is_sent_once_and_read_back(one: Sender, local: LocalTournament) -> None:
    order = one.order()
    receipt = one.send(order)
    (accepted,) = local.accepted()
    assert local.submitted_bytes(accepted) == order.data
    assert (receipt.status, receipt.verified, receipt.exit_code, receipt.origin) == ("submitted", "bytes", 0, "own")
    assert (receipt.round, receipt.submission_id) == (1401, accepted.id)
    assert receipt.sha256 == hashlib.sha256(order.data).hexdigest()
    assert receipt.left_s is not None
    assert 25 * 3600 < receipt.left_s < 26 * 3600
    assert all(check.passed for check in receipt.checks)
    assert [attempt.state for attempt in one.attempts()] == ["verified"]
    assert (one.store.round_folder(1401) / f"submission-{str(receipt.sha256)[:12]}.csv").read_bytes() == order.data


def test_a_second_run_finds_the_first_ones_submission_and_sends_nothing(one: Sender, local: LocalTournament) -> None:
    first = one.send()
    second = one.send(one.order(seed=1))
    assert second.status == "already-submitted"
    assert second == replace(first, status="already-submitted", checks=())
    assert asked(local, "PUT") == asked(local, "createSubmission") == 1
    found = standing(one.door, one.ledger, one.door.current_round(), one.order().slot, "small", SubmissionConfig())
    assert found == second


def test_resubmit_replaces_what_is_there(one: Sender, local: LocalTournament) -> None:
    one.send()
    order = one.order(seed=1)
    receipt = one.send(order, resubmit=True)
    assert (receipt.status, receipt.verified) == ("submitted", "bytes")
    (selected,) = [entry for entry in local.accepted() if entry.selected]
    assert local.submitted_bytes(selected) == order.data
    assert one.send().submission_id == selected.id
    assert asked(local, "createSubmission") == 2


def test_each_slot_has_its_own_submission(one: Sender, local: LocalTournament) -> None:
    slots = one.door.slots()
    for slot in slots.values():
        assert one.send(one.order(slot=slot)).status == "submitted"
    assert {entry.slot for entry in local.accepted()} == set(slots)


def test_of_two_runs_at_once_one_submits_and_the_other_finds_it(
    one: Sender, other: Sender, local: LocalTournament
) -> None:
    runs = [one, Sender(local, other.door, one.store.home, one.ids)]
    orders = [run.order(seed=seed) for seed, run in enumerate(runs)]
    barrier, receipts = threading.Barrier(2), []

    def play(run: Sender, order: Order) -> None:
        barrier.wait()
        receipts.append(run.send(order))

    threads = [threading.Thread(target=play, args=pair) for pair in zip(runs, orders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(receipt.status for receipt in receipts) == ["already-submitted", "submitted"]
    assert len({receipt.submission_id for receipt in receipts}) == 1
    assert len(local.submissions()) == asked(local, "createSubmission") == 1


# Faults on the way


@pytest.mark.parametrize(
    ("what", "more"),
    [("status", {"code": 500}), ("status", {"code": 403}), ("lost-answer", {}), ("reset-before", {})],
)
def test_a_put_that_fails_once_still_ends_in_exactly_one(
    what: What, more: dict[str, Any], one: Sender, local: LocalTournament
) -> None:
    local.faults.add(Fault(where="put", what=what, **more))
    assert one.send().verified == "bytes"
    assert len(local.submissions()) == 1


@pytest.mark.parametrize("code", [403, 500])
def test_a_put_that_stays_refused_submits_nothing(code: int, one: Sender, local: LocalTournament) -> None:
    local.faults.add(Fault(where="put", what="status", code=code, times=None))
    with pytest.raises(RefusedError, match="nothing was submitted"):
        one.send()
    assert local.submissions() == []
    assert [(attempt.state, attempt.error) for attempt in one.attempts()] == [("failed", "upload-refused")]
    local.faults.clear()
    assert one.send().status == "submitted"


@pytest.mark.parametrize(("what", "n"), [("lost-answer", 0), ("bad-json", 0), ("truncate", 5)])
def test_a_lost_answer_is_looked_for_and_found(what: What, n: int, one: Sender, local: LocalTournament) -> None:
    local.faults.add(Fault(where="query:createSubmission", what=what, n=n))
    receipt = one.send()
    assert (receipt.status, receipt.verified, receipt.exit_code) == ("submitted", "bytes", 0)
    assert [entry.id for entry in local.submissions()] == [receipt.submission_id]
    assert asked(local, "createSubmission") == 1


@pytest.mark.parametrize("code", [500, 502, 429])
def test_a_create_without_effect_is_looked_for_then_sent_once_more(
    code: int, one: Sender, local: LocalTournament, waiting: Waiting
) -> None:
    local.faults.add(Fault(where="query:createSubmission", what="status", code=code))
    receipt = one.send()
    assert receipt.status == "submitted"
    assert len(local.submissions()) == 1
    assert asked(local, "createSubmission") == 2
    assert waiting.monotonic() >= SubmissionConfig().readback_s - 1
    assert [attempt.state for attempt in one.attempts()] == ["verified", "failed"]


def test_what_takes_no_effect_twice_is_given_up_and_may_be_run_again(one: Sender, local: LocalTournament) -> None:
    local.faults.add(Fault(where="query:createSubmission", what="status", code=500, times=2))
    with pytest.raises(UnknownOutcomeError, match="took no effect"):
        one.send()
    assert local.submissions() == []
    assert one.send().status == "submitted"
    assert len(local.submissions()) == 1


def _not_authorized(where: str) -> Fault:
    body = '{"errors": [{"message": "You are not authorized to do this"}]}'
    return Fault(where=where, what="status", code=200, body=body, times=None)


@pytest.mark.parametrize(
    "blind",
    [Fault(where="query:submissions", what="status", code=503, times=None), _not_authorized("query:submissions")],
    ids=["unreachable", "not authorized"],
)
@pytest.mark.parametrize("effect", [True, False], ids=["took effect", "took none"])
def test_what_cannot_be_known_is_said_and_resolved_by_the_next_run(
    effect: bool, blind: Fault, one: Sender, local: LocalTournament
) -> None:
    local.faults.add(Fault(where="query:createSubmission", what="lost-answer" if effect else "status", code=500), blind)
    with pytest.raises(UnknownOutcomeError, match=r"not known whether .* took effect") as caught:
        one.send()
    assert caught.value.exit_code == 1
    assert [attempt.state for attempt in one.attempts()] == ["sending"]
    with pytest.raises(UnknownOutcomeError):
        one.send()
    assert asked(local, "createSubmission") == 1
    local.faults.clear()
    receipt = one.send()
    assert receipt.status == ("already-submitted" if effect else "submitted")
    assert receipt.verified == "bytes"
    assert len(local.submissions()) == 1


class KilledError(BaseException):
    """What ends a process in the middle."""


@pytest.mark.parametrize("effect", [True, False], ids=["after create", "before create"])
def test_a_run_that_dies_around_create_is_resolved_by_the_next(
    effect: bool, one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = one.door.create

    def killed(stored_as: str, model_id: str, before: Callable[[], float | None]) -> str:
        if effect:
            create(stored_as, model_id, before)
        else:
            before()
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(one.door, "create", killed)
        with pytest.raises(KilledError):
            one.send()
    assert [attempt.state for attempt in one.attempts()] == ["sending"]
    assert one.send().status == ("already-submitted" if effect else "submitted")
    assert len(local.submissions()) == 1


def test_a_run_that_dies_after_the_put_sends_anew(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = one.door.upload

    def killed(*arguments: Any, **named: Any) -> str:
        upload(*arguments, **named)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(one.door, "upload", killed)
        with pytest.raises(KilledError):
            one.send()
    assert one.send().status == "submitted"
    assert len(local.submissions()) == 1


def test_a_create_that_never_left_is_a_failure_and_the_next_run_sends(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: str, before: Callable[[], float | None]) -> str:
        before()
        raise NotSentError("the tournament cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(one.door, "create", unreachable)
        with pytest.raises(NotSentError):
            one.send()
    assert [attempt.state for attempt in one.attempts()] == ["failed"]
    assert one.send().status == "submitted"
    assert len(local.submissions()) == 1


def test_a_create_that_took_effect_although_it_was_answered_with_no_is_recognised(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = one.door.create

    def said_no(*given: Any, **named: Any) -> str:
        create(*given, **named)
        raise RefusedError("the tournament says: no")

    with monkeypatch.context() as patch:
        patch.setattr(one.door, "create", said_no)
        with pytest.raises(RefusedError):
            one.send()
    receipt = one.send()
    assert (receipt.status, receipt.origin, receipt.verified) == ("already-submitted", "own", "bytes")
    assert len(local.submissions()) == 1


# Somebody else's, and the round before


def test_a_submission_of_another_machine_is_recognised_and_nothing_is_sent(
    one: Sender, other: Sender, local: LocalTournament, caplog: pytest.LogCaptureFixture
) -> None:
    mine = one.send()
    receipt = other.send(other.order(seed=1))
    assert (receipt.status, receipt.origin, receipt.exit_code) == ("already-submitted", "foreign", 0)
    assert (receipt.submission_id, receipt.sha256) == (mine.submission_id, mine.sha256)
    assert "this ledger does not know" in caplog.text
    assert asked(local, "createSubmission") == 1


def test_a_lost_ledger_submits_nothing_twice(one: Sender, local: LocalTournament) -> None:
    one.send()
    one.ledger.path.unlink()
    one.ledger = Ledger(one.store.ledger_path, one.door.url)
    assert one.send().origin == "foreign"
    assert len(local.submissions()) == 1


def test_a_foreign_submission_is_recognised_by_keys_that_may_not_download(
    one: Sender, other: Sender, local: LocalTournament
) -> None:
    one.send()
    local.set_scopes(NO_DOWNLOAD)
    receipt = other.send()
    assert (receipt.origin, receipt.sha256, receipt.verified) == ("foreign", None, "listed")


def test_the_ledger_of_another_tournament_says_nothing_about_this_one(one: Sender, local: LocalTournament) -> None:
    real = Ledger(one.store.ledger_path, "https://api-tournament.numer.ai")
    attempt = real.begin(round_number=1401, slot=SLOT, recipe="small", source="fresh", sha256="0", late=False)
    real.mark(attempt, "submitted", submission_id="theirs")
    assert one.send().status == "submitted"


@pytest.mark.parametrize("machine", ["one", "other"])
def test_a_late_submission_of_the_round_before_is_not_this_rounds_own(
    machine: Literal["one", "other"], one: Sender, other: Sender, local: LocalTournament
) -> None:
    local.close_round()
    assert one.send(settings=LATE).status == "late"
    assert local.open_next_round(delay_s=0) == 1402
    assert [entry.carried_over for entry in local.accepted(1402)] == [True]
    sender = {"one": one, "other": other}[machine]
    order = sender.order()
    assert sender.send(order).status == "submitted"
    (selected,) = [entry for entry in local.accepted(1402) if entry.selected]
    assert local.submitted_bytes(selected) == order.data


def test_a_slot_that_gets_the_name_of_one_that_went_has_a_submission_of_its_own(
    one: Sender, local: LocalTournament
) -> None:
    first = one.send()
    local.remove_slot(SLOT)
    local.add_slot(SLOT)
    second, third = one.send(), one.send()
    assert (second.status, second.verified) == ("submitted", "bytes")
    assert second.submission_id != first.submission_id
    assert (third.status, third.submission_id) == ("already-submitted", second.submission_id)
    assert len(local.submissions()) == 2
