"""Exactly one accepted submission, whatever happens between us and the tournament."""

from __future__ import annotations

import csv
import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from eraflow.checks import check_bytes
from eraflow.client import Keys
from eraflow.errors import (
    ClosedError,
    DataError,
    EraflowError,
    InputError,
    RefusedError,
    TransientError,
    UnknownOutcomeError,
)
from eraflow.ledger import Attempt, Ledger
from eraflow.rehearsal.faults import Fault, What
from eraflow.rehearsal.server import LocalTournament
from eraflow.rounds import Round
from eraflow.store import Store
from eraflow.submission import Order, Receipt, SubmissionConfig, canonical_csv, standing, submit
from eraflow.tournament import Tournament
from eraflow.transport import NotSentError
from tests.eraflow.conftest import nap

SLOT = "rehearsal_one"
LATE = SubmissionConfig(late="submit")
NO_DOWNLOAD = ["read_user_info", "read_submission_info", "upload_submission"]


@dataclass
class Waiting:
    """Stands in for the `time` module of `submission`: waits at once, and adds up how long."""

    slept_s: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return sum(self.slept_s)

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    waiting = Waiting()
    monkeypatch.setattr("eraflow.submission.time", waiting)
    return waiting


class Sender:
    """One machine of the account: a home with its ledger, a door, and predictions for the round."""

    def __init__(self, local: LocalTournament, door: Tournament, home: Path, ids: Sequence[str]) -> None:
        self.local, self.door, self.ids = local, door, ids
        self.store = Store.open(home)
        self.ledger = Ledger(self.store.ledger_path, door.url)

    def order(self, *, seed: int = 0, opened: Round | None = None, **changes: Any) -> Order:
        prediction_N = (np.random.default_rng(seed).permutation(len(self.ids)) + 0.5) / len(self.ids)
        order = Order(
            opened=opened or self.door.latest_round(),
            slot=self.door.slots()[SLOT],
            recipe="small",
            source="fresh",
            data=canonical_csv(self.ids, prediction_N),
            live_ids=self.ids,
        )
        return replace(order, **changes)

    def send(
        self, order: Order | None = None, *, settings: SubmissionConfig | None = None, resubmit: bool = False
    ) -> Receipt:
        settings = settings or SubmissionConfig()
        return submit(self.door, self.ledger, self.store, order or self.order(), settings, resubmit=resubmit)

    def attempts(self, number: int = 1401) -> list[Attempt]:
        return self.ledger.attempts(number, SLOT)

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the tournament and for this machine alike."""
        self.local.move_clock(seconds)
        self.door.clock.skew_s += seconds


@pytest.fixture
def ids(market_folder: Path) -> list[str]:
    """The live ids of the round."""
    lines = (market_folder / "live_example_preds.csv").read_text().splitlines()
    return [line.split(",")[0] for line in lines[1:]]


@pytest.fixture
def one(local: LocalTournament, door: Tournament, tmp_path: Path, ids: list[str]) -> Sender:
    return Sender(local, door, tmp_path / "home", ids)


@pytest.fixture
def other(local: LocalTournament, tmp_path: Path, ids: list[str]) -> Sender:
    """Another machine with the same keys: another home, another ledger."""
    door = Tournament(local.url, Keys(local.public_id, local.secret_key), sleep=nap)
    return Sender(local, door, tmp_path / "other", ids)


def asked(local: LocalTournament, what: str) -> int:
    return sum(what in (root, method) for method, _, root in local.requests)


def nothing_sent(local: LocalTournament) -> bool:
    return asked(local, "PUT") == asked(local, "createSubmission") == 0 and not local.submissions()


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
    with pytest.raises(UnknownOutcomeError, match="not known whether .* took effect") as caught:
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

    def killed(*arguments: str) -> str:
        if effect:
            create(*arguments)
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
    def unreachable(*_: str) -> str:
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

    def said_no(*arguments: str) -> str:
        create(*arguments)
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


# Deadlines


def test_after_the_deadline_nothing_is_sent(one: Sender, local: LocalTournament) -> None:
    order = one.order()
    local.close_round()
    with pytest.raises(ClosedError, match="nothing was sent for slot rehearsal_one in round 1401"):
        one.send(order)
    assert nothing_sent(local)
    assert one.attempts() == []


@pytest.mark.parametrize("scopes", [None, NO_DOWNLOAD], ids=["may download", "may not"])
def test_a_late_submission_is_sent_where_it_is_wanted_and_only_once(
    scopes: list[str] | None, one: Sender, local: LocalTournament
) -> None:
    if scopes:
        local.set_scopes(scopes)
    local.close_round()
    first = one.send(settings=LATE)
    assert (first.status, first.exit_code, first.verified) == ("late", 0, "listed" if scopes else "bytes")
    assert first.left_s is not None
    assert first.left_s < 0
    second = one.send(settings=LATE)
    assert (second.status, second.submission_id) == ("already-submitted", first.submission_id)
    assert [entry.late for entry in local.submissions()] == [True]


def _after(act: Callable[[], object], upload: Callable[..., str]) -> Callable[..., str]:
    def uploaded(*arguments: Any, **named: Any) -> str:
        stored_as = upload(*arguments, **named)
        act()
        return stored_as

    return uploaded


def test_a_deadline_that_passes_between_put_and_create_stops_the_submission(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one.door, "upload", _after(lambda: one.pass_time(27 * 3600), one.door.upload))
    with pytest.raises(ClosedError, match="deadline"):
        one.send()
    assert asked(local, "PUT") == 1
    assert asked(local, "createSubmission") == 0
    assert [attempt.state for attempt in one.attempts()] == ["failed"]


def test_a_deadline_that_was_moved_forward_is_seen_before_the_put(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = one.order()
    earlier = replace(order.opened, closes_at_utc=local.now_utc() - timedelta(seconds=30))
    monkeypatch.setattr(one.door, "current_round", lambda: earlier)
    with pytest.raises(ClosedError, match="deadline"):
        one.send(order)
    assert nothing_sent(local)


def test_a_new_round_that_opened_meanwhile_gets_no_predictions_of_the_last(one: Sender, local: LocalTournament) -> None:
    order = one.order()
    local.open_next_round(delay_s=0)
    with pytest.raises(ClosedError, match="round 1402 is open now"):
        one.send(order, settings=LATE)
    assert nothing_sent(local)


# Read-back


def test_keys_that_may_not_download_verify_by_the_list(one: Sender, local: LocalTournament) -> None:
    local.set_scopes(NO_DOWNLOAD)
    receipt = one.send()
    assert (receipt.status, receipt.verified, receipt.exit_code) == ("submitted", "listed", 0)


def test_bytes_that_differ_are_not_verified_and_never_sent_again(
    one: Sender, local: LocalTournament, caplog: pytest.LogCaptureFixture
) -> None:
    local.faults.add(Fault(where="get:submission", what="flip-bits", n=1, times=None))
    first = one.send()
    assert (first.status, first.verified, first.exit_code) == ("submitted", False, 1)
    assert first.error_code == "not-verified"
    assert "not those that were sent" in str(first.error_message)
    assert "not verified" in caplog.text
    second = one.send()
    assert (second.status, second.verified, second.exit_code) == ("already-submitted", False, 1)
    local.faults.clear()
    third = one.send()
    assert (third.status, third.verified, third.exit_code) == ("already-submitted", "bytes", 0)
    assert asked(local, "createSubmission") == 1


def test_a_read_back_that_fails_at_first_is_asked_again(one: Sender, local: LocalTournament, waiting: Waiting) -> None:
    # Five tries of one download, then the list, which fails too: looked at again after half a second.
    local.faults.add(
        Fault(where="get:submission", what="reset-before", times=5),
        Fault(where="query:model", what="status", code=503, times=5, after=1),
    )
    assert one.send().verified == "bytes"
    assert waiting.slept_s == [0.5]


# What is refused before anything is sent


def test_a_hosted_slot_is_refused(one: Sender, local: LocalTournament) -> None:
    local.add_slot("pickled", hosted=True)
    with pytest.raises(InputError, match="hosted model"):
        one.send(one.order(slot=one.door.slots()["pickled"]))
    assert nothing_sent(local)


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "headers": lambda data: data.replace(b"id,prediction", b"id,probability"),
    "rows": lambda data: data[: data.rindex(b"\n", 0, -1) + 1],
    "missing values": lambda data: data[:-5] + b"nan\n",
    "range": lambda data: data[: data.rindex(b",") + 1] + b"1.0\n",
    "ids": lambda data: data.replace(b"\n", b"\nx", 1),
    "duplicates": lambda data: data + data.splitlines(keepends=True)[1],
    "spread": lambda data: b"\n".join(
        [b"id,prediction", *(line.split(b",")[0] + b",0.5" for line in data.splitlines()[1:]), b""]
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_predictions_that_fail_a_check_are_never_sent(name: str, one: Sender, local: LocalTournament) -> None:
    order = one.order()
    with pytest.raises(DataError, match=rf"nothing was sent for slot rehearsal_one.*{name}: must be"):
        one.send(replace(order, data=SPOILED[name](order.data)))
    assert nothing_sent(local)
    assert one.attempts() == []


def test_predictions_of_another_round_are_refused_by_their_ids(one: Sender, local: LocalTournament) -> None:
    with pytest.raises(DataError, match="that are not of this round"):
        one.send(one.order(live_ids=[f"{identity}x" for identity in one.ids]))
    assert nothing_sent(local)


@pytest.mark.parametrize("error", [TransientError("down"), RefusedError("no")])
def test_a_tournament_that_does_not_tell_what_it_has_is_sent_nothing(
    error: EraflowError, one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = one.order()

    def fails(*_: object) -> list[Any]:
        raise error

    monkeypatch.setattr(one.door, "selected", fails)
    with pytest.raises(type(error)):
        one.send(order)
    assert nothing_sent(local)


@pytest.mark.parametrize("readback_s", [-1.0, 3601.0, float("nan")])
def test_the_patience_of_the_read_back_is_bounded(readback_s: float) -> None:
    with pytest.raises(ValueError, match="0 to 3600"):
        SubmissionConfig(readback_s=readback_s)


# The bytes


def test_the_csv_holds_every_value_exactly_and_in_order() -> None:
    generator = np.random.default_rng(0)
    prediction_N = np.concatenate([generator.random(500), [5e-324, 1e-17, np.nextafter(1, 0), 0.1 + 0.2, 1 / 3]])
    ids = [f"n{i:015x}" for i in range(len(prediction_N))]
    data = canonical_csv(ids, prediction_N)
    rows = list(csv.reader(io.StringIO(data.decode())))
    assert rows[0] == ["id", "prediction"]
    assert [row[0] for row in rows[1:]] == ids
    assert np.array_equal(np.array([float(row[1]) for row in rows[1:]]), prediction_N)
    assert data == canonical_csv(ids, prediction_N.copy())
    assert data.endswith(b"\n")
    assert b"\r" not in data


def test_the_csv_of_two_rows_is_this() -> None:
    assert canonical_csv(["n1", "n2"], np.array([0.25, 0.1])) == b"id,prediction\nn1,0.25\nn2,0.1\n"


@pytest.mark.parametrize("identity", ["a,b", 'a"b', '"', "a\nb", "a\rb", "a b", "", "é", "\ud800", "a\x00b", "a\u2028"])
def test_an_id_that_csv_would_have_to_quote_is_refused(identity: str) -> None:
    with pytest.raises(DataError, match="every live id must be"):
        canonical_csv(["n1", identity], np.array([0.25, 0.5]))


def test_ids_of_any_other_printable_character_are_written_as_they_are() -> None:
    ids = [c for c in map(chr, range(33, 127)) if c not in ',"']
    prediction_N = (np.arange(len(ids)) + 0.5) / len(ids)
    assert all(check.passed for check in check_bytes(canonical_csv(ids, prediction_N), ids))


def test_more_ids_than_predictions_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        canonical_csv(["n1", "n2"], np.array([0.5]))


def test_the_left_time_of_a_receipt_is_that_of_the_sending(one: Sender) -> None:
    receipt = one.send()
    one.pass_time(3600)
    again = one.send()
    assert again.left_s == receipt.left_s
    assert datetime.fromisoformat(str(again.sent_at_utc)).tzinfo == UTC
