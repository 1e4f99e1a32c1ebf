"""What a network, a proxy or a tired server can do to a round: it is submitted exactly once all the same."""

from __future__ import annotations

import pytest

from eraflow.rehearsal import Fault, random_faults
from tests.behaviour.week import SLOTS, Week

ONCE: dict[str, tuple[Fault, ...]] = {
    "a 500 on PUT": (Fault(where="put", what="status", code=500),),
    "a 403 on PUT": (Fault(where="put", what="status", code=403),),
    "two refusals on PUT": (Fault(where="put", what="status", code=500), Fault(where="put", what="status", code=403)),
    "a page that answers PUT with 200": (Fault(where="put", what="html-200"),),
    "a page that answers each PUT of a try with 200": (Fault(where="put", what="html-200", times=4),),
    "a lost answer to PUT": (Fault(where="put", what="lost-answer"),),
    "a connection cut before PUT": (Fault(where="put", what="reset-before"),),
    "a lost answer to create": (Fault(where="query:createSubmission", what="lost-answer"),),
    "an unreadable answer to create": (Fault(where="query:createSubmission", what="bad-json"),),
    "a create that a proxy swallowed": (Fault(where="query:createSubmission", what="status", code=502),),
    "a connection cut before create": (Fault(where="query:createSubmission", what="reset-before"),),
    "a truncated download": (Fault(where="get:train.parquet", what="truncate", n=5000),),
    "a download that is short and says so": (Fault(where="get:live.parquet", what="wrong-length", n=500),),
    "flipped bits in a download": (Fault(where="get:live.parquet", what="flip-bits", n=200),),
    "a page instead of data": (Fault(where="get:live.parquet", what="html-200"),),
    "pages instead of each file": tuple(
        Fault(where=f"get:{name}", what="html-200")
        for name in ("live.parquet", "features.json", "train.parquet", "validation.parquet")
    ),
    "an expired address": (Fault(where="get:validation.parquet", what="status", code=403),),
    "two 503s from the API": (Fault(where="any query", what="status", code=503, times=2),),
    "two 503s in the middle": (Fault(where="any query", what="status", code=503, times=2, after=9),),
    "a page from the API": (Fault(where="query:rounds", what="html-200"),),
    "a 429 that says how long": (Fault(where="any query", what="status", code=429, headers={"Retry-After": "1"}),),
    "a read-back that is cut": (Fault(where="get:submission", what="truncate", n=10),),
    "no rounds in a passing moment of the deadline check": (Fault(where="query:rounds", what="bad-json", after=2),),
}


@pytest.mark.parametrize("faults", ONCE.values(), ids=ONCE.keys())
def test_the_round_is_submitted_exactly_once_despite(week: Week, faults: tuple[Fault, ...]) -> None:
    week.local.faults.add(*faults)
    _ends_with_one_each(week)
    assert set(faults) <= set(week.local.faults.struck)


@pytest.mark.parametrize("seed", range(8))
def test_the_round_is_submitted_exactly_once_despite_random_faults(week: Week, seed: int) -> None:
    week.local.faults.add(*random_faults(seed))
    _ends_with_one_each(week)
    assert week.local.faults.struck


def test_a_put_that_stays_refused_ends_with_3_and_the_next_run_sends(week: Week) -> None:
    week.local.faults.add(Fault(where="put", what="status", code=403, times=None))
    result = week.play()
    assert result.exit_code == 3
    assert [(r.status, r.error_code) for r in result.receipts] == [("failed", "upload-refused")] * 2
    assert all("nothing was submitted" in str(r.error_message) for r in result.receipts)
    assert week.local.submissions() == []
    # Each try had an address of its own.
    sent = week.sent()
    assert sent.count("submissionUploadAuth") == sent.count("PUT") == 10
    assert "createSubmission" not in sent

    week.local.faults.clear()
    _ends_with_one_each(week)


def test_a_put_that_stays_down_for_one_slot_costs_only_that_slot(week: Week) -> None:
    week.local.faults.add(Fault(where="put", what="status", code=500, times=5))
    result = week.play()
    assert [(r.status, r.exit_code) for r in result.receipts] == [("failed", 3), ("submitted", 0)]
    assert list(week.accepted()) == ["rehearsal_two"]


def test_a_create_whose_outcome_stays_unknown_ends_with_1_and_is_found_by_the_next_run(week: Week) -> None:
    week.local.faults.add(
        Fault(where="query:createSubmission", what="lost-answer"),
        Fault(where="query:submissions", what="status", code=503, times=None),
    )
    result = week.play(week.request(slots=["rehearsal_one"]))
    assert [(r.status, r.error_code, r.exit_code) for r in result.receipts] == [("failed", "outcome-unknown", 1)]
    assert week.sent().count("createSubmission") == 1

    week.local.faults.clear()
    again = week.play(week.request(slots=["rehearsal_one"]))
    assert [(r.status, r.origin, r.verified) for r in again.receipts] == [("already-submitted", "own", "bytes")]
    assert week.sent() == []


def test_a_submission_that_cannot_be_read_back_is_told_and_never_sent_again(week: Week) -> None:
    faults = (
        Fault(where="query:submissionDownloadAuth", what="status", code=503, times=None),
        Fault(where="query:model", what="status", code=503, times=None, after=2),
    )
    week.local.faults.add(*faults)
    request = week.request(slots=["rehearsal_one"])
    result = week.play(request)
    assert [(r.status, r.verified, r.error_code) for r in result.receipts] == [("submitted", False, "not-verified")]
    assert result.exit_code == 1
    week.local.faults.clear()
    again = week.play(request)
    assert [(r.status, r.verified) for r in again.receipts] == [("already-submitted", "bytes")]
    assert again.exit_code == 0
    assert [one.slot for one in week.local.accepted()] == ["rehearsal_one"]


def test_other_bytes_at_the_tournament_are_never_called_verified(week: Week) -> None:
    week.local.faults.add(Fault(where="get:submission", what="flip-bits", n=3, times=None))
    result = week.play(week.request(slots=["rehearsal_one"]))
    assert [(r.status, r.verified, r.exit_code) for r in result.receipts] == [("submitted", False, 1)]
    assert "not those that were sent" in str(result.receipts[0].error_message)


def test_an_api_that_is_down_ends_with_1_and_sends_nothing(week: Week) -> None:
    week.local.faults.add(Fault(where="any query", what="status", code=503, times=None))
    result = week.play()
    assert [(r.status, r.error_code) for r in result.receipts] == [("failed", "tournament-unreachable")] * 2
    assert result.exit_code == 1
    assert week.sent() == []


def test_an_api_that_hangs_is_given_up_and_asked_again(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eraflow.transport.READ_TIMEOUT_S", 0.3)
    hangs = Fault(where="query:rounds", what="hang")
    week.local.faults.add(hangs)
    _ends_with_one_each(week)
    assert week.struck(hangs)


def test_a_file_that_stays_damaged_ends_with_5_and_leaves_the_last_good_one(weeks: Week) -> None:
    assert weeks.play().exit_code == 0
    validation = weeks.home / "data" / "v5.3" / "validation.parquet"
    before = validation.read_bytes()
    weeks.local.open_next_round()
    weeks.local.faults.add(Fault(where="get:validation.parquet", what="html-200", times=None))
    weeks.sent()
    result = weeks.play()
    assert result.exit_code == 5
    assert "validation.parquet" in str(result.receipts[0].error_message)
    assert validation.read_bytes() == before
    assert weeks.sent() == []


def test_a_redirect_is_not_followed(week: Week) -> None:
    week.local.faults.add(Fault(where="get:live.parquet", what="redirect", times=None))
    result = week.play()
    assert (result.exit_code, week.sent()) == (3, [])
    assert not any(path == "/elsewhere" for _, path, _ in week.local.requests)


def _ends_with_one_each(week: Week) -> None:
    result = week.play()
    assert result.exit_code == 0
    assert [(r.status, r.origin) for r in result.receipts] == [("submitted", "own")] * 2
    assert all(r.verified for r in result.receipts)
    assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1)
