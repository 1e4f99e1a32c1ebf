"""When a submission may be sent, of what bytes it is made, and how it is verified."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

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
)
from eraflow.predictions import canonical_csv
from eraflow.rehearsal.faults import Fault
from eraflow.rehearsal.server import LocalTournament
from eraflow.rounds import Clock
from eraflow.store import utc_text
from eraflow.submission import SubmissionConfig, submit
from eraflow.tournament import Listed, Tournament
from tests.eraflow.sender import LATE, NO_DOWNLOAD, Sender, Waiting, nothing_sent
from tests.eraflow.talking import asked

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


def test_a_submission_that_the_tournament_found_wrong_is_not_verified_by_its_bytes(
    one: Sender, local: LocalTournament, waiting: Waiting
) -> None:
    others = [f"{identity}x" for identity in one.ids]
    data = canonical_csv(others, (np.arange(len(others)) + 0.5) / len(others))
    receipt = one.send(one.order(data=data, live_ids=others))
    assert (receipt.status, receipt.verified, receipt.exit_code) == ("submitted", False, 1)
    assert "invalid_submission_ids" in str(receipt.error_message)
    assert local.accepted() == []
    # It may have been the way there, and what was refused has no effect: once more, and then no more.
    assert one.send(one.order(data=data, live_ids=others)).status == "submitted"
    with pytest.raises(RefusedError, match=r"these very predictions .* 2 times"):
        one.send(one.order(data=data, live_ids=others))
    assert asked(local, "createSubmission") == 2
    assert one.send().verified == "bytes"
    assert len(local.accepted()) == 1


def test_what_was_verified_and_no_longer_counts_is_not_called_safe(
    one: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one.send().verified == "bytes"
    monkeypatch.setattr(one.door, "selected", lambda *_: [])
    later = one.send()
    assert (later.status, later.verified, later.exit_code) == ("already-submitted", False, 1)
    assert "does not count for round 1401" in str(later.error_message)
    monkeypatch.undo()
    assert one.send().verified == "bytes"


def test_a_selected_file_that_is_in_no_list_is_somebody_elses(
    one: Sender, other: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.send()
    monkeypatch.setattr(one.door, "listed", lambda _: [])
    found = one.send()
    assert (found.status, found.origin, found.submission_id) == ("already-submitted", "foreign", None)
    assert len(one.local.accepted()) == 1


def test_a_repeated_resubmission_replaces_once(one: Sender, local: LocalTournament) -> None:
    one.send()
    since = utc_text(datetime.now(UTC), "microseconds")
    for status in ("submitted", "already-submitted"):
        order = one.order(seed=1)
        found = submit(one.door, one.ledger, one.store, order, SubmissionConfig(), resubmit_since=since)
        assert (found.status, found.verified) == (status, "bytes")
    assert len(local.accepted()) == 2


def test_a_deadline_that_was_moved_later_is_used(one: Sender, local: LocalTournament) -> None:
    opened = one.door.current_round()
    earlier = replace(opened, closes_at_utc=opened.opens_at_utc + timedelta(seconds=1))
    assert one.send(one.order(opened=earlier)).status == "submitted"
    assert len(local.accepted()) == 1


def test_a_machine_whose_clock_is_ahead_looks_as_long_for_a_lost_answer(
    one: Sender, local: LocalTournament, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.faults.add(Fault(where="query:createSubmission", what="lost-answer"))
    real, lag = one.door.listed, [3]
    fast = Tournament(
        local.url, Keys(local.public_id, local.secret_key), clock=Clock(system=ahead), sleep=lambda _: None
    )

    def lagging(model_id: str) -> list[Listed]:
        lag[0] -= 1
        return [] if lag[0] >= 0 else real(model_id)

    order = one.order()
    monkeypatch.setattr(fast, "listed", lagging)
    found = submit(fast, one.ledger, one.store, order, SubmissionConfig())
    assert found.verified == "bytes"
    assert waiting.slept_s
    assert len(local.accepted()) == 1


def ahead() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=120)


def test_bytes_that_cannot_be_had_for_the_moment_are_not_verified_by_being_listed(
    one: Sender, local: LocalTournament, waiting: Waiting
) -> None:
    local.faults.add(Fault(where="get:submission", what="status", code=503, times=None))
    receipt = one.send()
    assert (receipt.verified, receipt.exit_code) == (False, 1)
    local.faults.clear()
    assert one.send().verified == "bytes"
    assert len(local.submissions()) == 1


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
