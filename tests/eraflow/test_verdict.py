"""A round is called safe only when everything in it is."""

from __future__ import annotations

from datetime import timedelta

from eraflow.verdict import proof_text, verdict
from tests.eraflow.made_up import CLOSES, ERROR, failed, round_of, sent, skipped


def test_a_safe_round_says_how_many_slots_and_how_long_before_the_deadline() -> None:
    found = verdict(round_of(sent("a"), sent("b", timedelta(hours=2, minutes=14))))
    assert found.kind == "safe"
    assert found.sentence == "Round 1432 is safe: 2 of 2 slots verified, 23 h 41 min before the deadline"


def test_one_failed_slot_makes_the_round_unsafe_and_says_why() -> None:
    found = verdict(round_of(sent(), failed()), CLOSES - timedelta(hours=3))
    assert found.kind == "unsafe"
    assert found.sentence == "Round 1432 is not safe: 1 of 2 slots verified, 3 h left"
    assert found.reason == "the tournament must answer, however it did not"


def test_an_unverified_submission_is_not_safe() -> None:
    assert verdict(round_of(sent(verified=False, exit_code=1))).claim == "Round 1432 is not safe"
    assert verdict(round_of(sent(verified=False))).kind != "safe"


def test_a_skipped_slot_beside_a_sent_one_is_not_safe() -> None:
    assert verdict(round_of(sent(), skipped("b"))).kind == "unsafe"


def test_a_late_round_is_not_called_safe() -> None:
    found = verdict(round_of(sent(), sent("b", timedelta(hours=27), status="late")))
    assert found.kind == "late"
    assert found.sentence == (
        "Round 1432 was sent late: 2 of 2 slots verified, 1 of them sent late, 1 h 4 min after the deadline"
    )


def test_a_late_submission_of_an_earlier_run_stays_late() -> None:
    assert verdict(round_of(sent(after=timedelta(hours=27), status="already-submitted"))).kind == "late"


def test_a_passed_deadline_is_said() -> None:
    found = verdict(round_of(failed()), CLOSES + timedelta(minutes=5))
    assert found.detail == "0 of 1 slot verified, and the deadline passed 5 min ago"


def test_a_round_that_stopped_before_any_slot_tells_its_error() -> None:
    found = verdict(round_of(error=ERROR))
    assert (found.kind, found.sentence, found.reason) == ("unsafe", "Round 1432 stopped", ERROR["message"])


def test_an_error_of_the_round_outweighs_good_receipts() -> None:
    assert verdict(round_of(sent(), error=ERROR)).kind == "unsafe"


def test_different_errors_of_slots_are_left_to_their_rows() -> None:
    assert verdict(round_of(failed("a", "one"), failed("b", "two"))).reason is None


def test_nothing_submitted_is_neither_safe_nor_unsafe() -> None:
    found = verdict(round_of(skipped(), round=None))
    assert (found.kind, found.sentence) == ("nothing", "Nothing was submitted: 1 slot skipped")


def test_the_proof_counts_each_way_and_what_is_foreign() -> None:
    foreign = sent("b", verified="listed", origin="foreign", left_s=None, sent_at_utc=None)
    told = proof_text([sent(), foreign, failed()])
    assert told == "1 read back byte for byte, 1 listed by the tournament, 1 made by somebody else"
    assert verdict(round_of(foreign)).sentence == "Round 1432 is safe: 1 of 1 slot verified"
