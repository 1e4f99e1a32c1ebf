"""The checks of the campaign of faults see what must not be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import summed
from eraflow.rehearsal import LocalTournament
from eraflow.rehearsal.state import Submission
from tests.behaviour.harmed import Harm, Run, play_harmed
from tests.behaviour.soak import TRIES, play_in_peace, references_of
from tests.behaviour.soak_branch import MARKET, Begun, Branch, request_of, sent_by_slot
from tests.behaviour.soak_checks import ALTERED, held, look_at, look_from_outside, secrets_in
from tests.behaviour.soak_prefect import Bell
from tests.behaviour.week import SLOTS, Week
from tests.eraflow.raw_server import Server, never

RUN = Run(exit_code=0, result=None, told="", seconds=0.0)


@pytest.fixture
def branch(local: LocalTournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Branch:
    meant = {slot: f"meant for {slot}" for slot in SLOTS}
    number = local.open_round() or 0
    begun = Begun(folder=tmp_path, duration_s=1.0, points=1, sha256=meant, untrusted="", round=number)
    (tmp_path / "home").mkdir()
    found = Branch("branch", begun, tmp_path, local)
    for name, value in Week(local, tmp_path / "home").environment.items():
        monkeypatch.setenv(name, value)
    return found


def submission_of(branch: Branch, slot: str, **given: Any) -> Submission:
    """One that the tournament holds of the slot for the open round."""
    state = branch.local._core.state
    model_id = next(one.id for one in state.slots if one.name == slot)
    number = branch.local.open_round()
    assert number is not None
    made = Submission(id=f"of {slot}", model_id=model_id, slot=slot, round=number, filename="f", sha256=f"sent {slot}",
                      inserted_at_utc="2026-01-01T00:00:00+00:00", **given)  # fmt: skip
    state.submissions.append(made)
    return made


def receipt_of(slot: str, **given: Any) -> dict[str, Any]:
    return {"model": slot, "sha256": f"sent {slot}", "submission_id": f"of {slot}", "verified": "bytes", **given}


def run_of(branch: Branch, *receipts: dict[str, Any], exit_code: int = 0) -> Run:
    return replace(RUN, exit_code=exit_code, result={"round": branch.local.open_round(), "submissions": [*receipts]})


def test_a_run_in_which_nothing_is_wrong_is_left_alone(branch: Branch) -> None:
    for slot in SLOTS:
        submission_of(branch, slot)
    look_at(branch, run_of(branch, *(receipt_of(slot) for slot in SLOTS)))
    look_at(branch, replace(RUN, exit_code=-9, signals=frozenset({9})))
    look_at(branch, replace(RUN, exit_code=143, signals=frozenset({15})))
    look_at(branch, replace(RUN, exit_code=-7, signals=Harm(spoils_before=0).signals))
    assert branch.wrong == []


@pytest.mark.parametrize(
    ("run", "seen"),
    [
        (replace(RUN, exit_code=1, told="Traceback (most recent call last):\nKeyError"), "a traceback was shown"),
        (replace(RUN, exit_code=1, result={"round": 1, "submissions": [], "error": {"code": "unexpected",
                 "message": "m"}}), "nobody expected"),
        (RUN, "exit code 0 without a verified receipt of each slot: no result"),
        (replace(RUN, result={"round": 1, "submissions": []}), "exit code 0 without a verified receipt"),
        (replace(RUN, result={"round": 1, "submissions": [receipt_of(slot, verified=False) for slot in SLOTS]}),
         "exit code 0 without a verified receipt"),
        (replace(RUN, exit_code=6), "a run ended with 6"),
        (replace(RUN, exit_code=-9), "a run ended with -9"),
        (replace(RUN, exit_code=-7, signals=frozenset({9})), "a run ended with -7"),
        (replace(RUN, exit_code=143, signals=frozenset({9})), "a run ended with 143"),
        (replace(RUN, exit_code=-9, signals=frozenset({9}), hangs=True, told="waiting"), "a run hangs: waiting"),
    ],
)  # fmt: skip
def test_what_the_user_must_not_see_is_seen(branch: Branch, run: Run, seen: str) -> None:
    look_at(branch, run)
    assert [seen in one for one in branch.wrong] == [True]


@pytest.mark.parametrize(
    ("held", "receipt"),
    [
        (None, {}),
        ({"valid": False, "error": "no"}, {}),
        ({"late": True}, {}),
        ({"carried_over": True}, {}),
        ({}, {"sha256": f"sent {SLOTS[1]}"}),
        ({}, {"submission_id": "another's"}),
    ],
)
def test_a_verified_receipt_of_what_the_tournament_does_not_hold_is_seen(
    branch: Branch, held: dict[str, Any] | None, receipt: dict[str, Any]
) -> None:
    if held is not None:
        submission_of(branch, SLOTS[0], **held)
    look_at(branch, run_of(branch, receipt_of(SLOTS[0], **receipt), exit_code=1))
    assert ["a receipt is verified of which the tournament has no such submission" in one for one in branch.wrong] == [
        True
    ]


def test_a_receipt_of_one_slot_alone_is_no_success(branch: Branch) -> None:
    submission_of(branch, SLOTS[0])
    look_at(branch, run_of(branch, receipt_of(SLOTS[0])))
    assert ["without a verified receipt of each slot" in one for one in branch.wrong] == [True]


def test_both_slots_send_bytes_of_their_own_and_one_in_the_others_place_is_seen(branch: Branch) -> None:
    assert branch.week.play(request_of(branch.week)).exit_code == 0
    first, second = (sent_by_slot(branch.local)[slot] for slot in SLOTS)
    assert first != second
    branch.begun.sha256 = {SLOTS[0]: first, SLOTS[1]: second}
    branch.in_peace = True
    look_from_outside(branch, references_of(branch))
    assert branch.wrong == []
    branch.begun.sha256 = {SLOTS[0]: second, SLOTS[1]: first}
    look_from_outside(branch, references_of(branch))
    assert branch.wrong == [f"slot {slot}: other bytes than those of a round without trouble" for slot in SLOTS]


def test_two_submissions_in_place_of_one_are_seen(branch: Branch) -> None:
    for _ in range(2):
        submission_of(branch, SLOTS[0])
    branch.ledger_was_harmed = True
    look_from_outside(branch, {})
    assert [f"slot {SLOTS[0]}: 2 submissions in place of one" in one for one in branch.wrong] == [True]


@pytest.mark.parametrize(("may_be_late", "seen"), [(0, 2), (1, 1), (2, 0)])
def test_no_more_late_submissions_are_let_pass_than_were_on_their_way_when_the_deadline_passed(
    branch: Branch, may_be_late: int, seen: int
) -> None:
    for slot in SLOTS:
        submission_of(branch, slot, late=True)
    branch.ledger_was_harmed, branch.may_be_late = True, may_be_late
    look_from_outside(branch, {})
    assert ["is late" in one for one in branch.wrong] == [True] * seen


def test_exit_code_0_with_a_late_submission_is_seen_even_where_it_was_on_its_way(branch: Branch) -> None:
    for slot in SLOTS:
        submission_of(branch, slot, late=slot == SLOTS[0])
    branch.may_be_late = 1
    receipts = [receipt_of(slot) for slot in SLOTS]
    look_at(branch, run_of(branch, *receipts, exit_code=1))
    assert branch.wrong == []
    look_at(branch, run_of(branch, *receipts))
    assert ["exit code 0 with what is late" in one for one in branch.wrong] == [True]


def test_other_bytes_are_seen_in_a_round_that_is_not_saved_and_beside_those_that_a_trouble_changed(
    branch: Branch,
) -> None:
    changed, other = (submission_of(branch, slot) for slot in SLOTS)
    branch.ledger_was_harmed, branch.other_bytes = True, {changed.id}
    look_from_outside(branch, references_of(branch))
    seen = f"slot {other.slot}: other bytes than those of a round without trouble"
    assert branch.wrong == [seen]
    # Another model than a fresh one has predicted, and a receipt says so.
    look_at(branch, run_of(branch, receipt_of(other.slot, note="its training was cut to be in time"), exit_code=1))
    look_from_outside(branch, references_of(branch))
    assert branch.wrong == [seen]


def test_other_bytes_in_a_round_that_opened_meanwhile_are_seen(branch: Branch, tmp_path: Path) -> None:
    with LocalTournament(tmp_path / "growing", market=MARKET) as local:
        branch.local, branch.begun.round = local, local.open_next_round(delay_s=0)
        opened = local.open_next_round(delay_s=0)
        assert play_harmed(branch.environment, request_of(branch.week), branch.logs()).exit_code == 0
        references = references_of(branch)
        assert sorted(references) == [branch.begun.round, opened]
        look_from_outside(branch, references)
        assert branch.wrong == []
        local._core.state.submissions[0].sha256 = "of somebody else"
        branch.ledger_was_harmed = True
        look_from_outside(branch, references)
    assert branch.wrong == [f"slot {SLOTS[0]}: other bytes than those of a round without trouble"]


def test_a_submission_that_the_ledger_does_not_know_is_seen(branch: Branch) -> None:
    assert branch.week.play(request_of(branch.week)).exit_code == 0
    look_from_outside(branch, {})
    assert branch.wrong == []
    (branch.folder / "home" / "ledger.sqlite").unlink()
    look_from_outside(branch, {})
    assert [one.partition(": ")[2] for one in branch.wrong] == ["a submission that the ledger does not know"] * 2


@pytest.mark.parametrize(("in_peace", "seen"), [(True, 2), (False, 0)])
def test_after_a_round_in_peace_no_attempt_may_be_in_doubt(branch: Branch, in_peace: bool, seen: int) -> None:
    import sqlite3

    assert branch.week.play(request_of(branch.week)).exit_code == 0
    connection = sqlite3.connect(branch.folder / "home" / "ledger.sqlite")
    with connection:
        connection.execute("UPDATE attempts SET state = 'sending'")
    connection.close()
    branch.in_peace = in_peace
    look_from_outside(branch, {})
    assert len(branch.wrong) == seen


@pytest.mark.parametrize("harmed", [True, False])
@pytest.mark.parametrize("is_told", [True, False])
def test_a_ledger_that_must_be_moved_away_without_having_been_harmed_is_seen(
    branch: Branch, harmed: bool, is_told: bool
) -> None:
    message = "the ledger cannot be used; if it is damaged, move it away: the"
    error = {"code": "storage", "message": message}
    damaged = replace(RUN, exit_code=1, told=message)
    if not is_told:
        damaged = replace(RUN, exit_code=1, result={"submissions": [], "round": None, "error": error})
    branch.ledger_was_harmed = harmed
    (branch.folder / "home" / "ledger.sqlite").write_text("damaged")
    for slot in SLOTS:
        submission_of(branch, slot)
    runs = iter([damaged, run_of(branch, *(receipt_of(slot) for slot in SLOTS))])
    assert play_in_peace(branch, lambda: next(runs)) == 2
    assert branch.peace == [f"1: {message}"]
    assert branch.wrong == [] if harmed else ["a ledger that no trouble has harmed had to be moved away"]
    assert not (branch.folder / "home" / "ledger.sqlite").exists()


def test_a_run_in_peace_that_ends_without_success_is_seen_though_a_later_one_saves_the_round(branch: Branch) -> None:
    for slot in SLOTS:
        submission_of(branch, slot)
    runs = iter([replace(RUN, exit_code=3, told="cannot"), run_of(branch, *(receipt_of(slot) for slot in SLOTS))])
    assert play_in_peace(branch, lambda: next(runs)) == 2
    assert branch.wrong == ["a run in peace ended with 3: cannot"]
    outcome = branch.came_to(saved=True, tries=2, seconds=1.0)
    assert outcome.peace == ("3: cannot",)
    told = summed([{**outcome.as_table(), "week": 1}])
    assert "saved at the first run in 0, the second run in 1, the third run in 0, the fourth run in 0 of them" in told
    assert play_in_peace(branch, lambda: replace(RUN, exit_code=3, told="cannot")) == TRIES


def test_what_was_altered_on_its_way_is_replaced_once_and_no_more(branch: Branch) -> None:
    altered = submission_of(branch, SLOTS[0])
    branch.altered, branch.ledger_was_harmed = {str(altered.sha256)}, True
    for slot in SLOTS:
        submission_of(branch, slot).sha256 = branch.begun.sha256[slot]
    told = f"submitted, but not verified: {ALTERED}"
    receipts = [receipt_of(slot, sha256=branch.begun.sha256[slot]) for slot in SLOTS]
    runs = iter([replace(RUN, exit_code=1, told=told), run_of(branch, *receipts)])
    assert play_in_peace(branch, lambda: next(runs)) == 2
    look_from_outside(branch, references_of(branch))
    assert (branch.resubmits, branch.wrong) == (True, [])
    for _ in range(2):
        submission_of(branch, SLOTS[1]).sha256 = branch.begun.sha256[SLOTS[1]]
    look_from_outside(branch, references_of(branch))
    assert [f"slot {SLOTS[1]}: 3 submissions in place of one" in one for one in branch.wrong] == [True]


def test_bytes_that_nobody_altered_must_come_back_as_they_were_sent(branch: Branch) -> None:
    runs = iter([replace(RUN, exit_code=1, told=ALTERED)] * TRIES)
    assert play_in_peace(branch, lambda: next(runs)) == TRIES
    assert (branch.resubmits, set(branch.wrong)) == (False, {f"a run in peace ended with 1: {ALTERED}"})


def test_whatever_a_run_may_write_is_below_the_folder_that_is_searched_for_secrets(branch: Branch) -> None:
    named = {name: Path(branch.environment[name]) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "ERAFLOW_HOME")}
    assert all(path.is_dir() and branch.folder in path.parents for path in named.values())


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_in_base64_is_seen_wherever_it_begins(before: int, encode: Callable[[bytes], bytes]) -> None:
    data = encode(b"\xff" * before + b"a-key/of?more>than~24-characters" + b"\xff\xfe")
    assert held(b"\0" + data, {"the key": "a-key/of?more>than~24-characters"}) == ["the key"]
    assert held(b"\0" + data, {"the key": "another-key-of-more-than-24-characters"}) == []


@pytest.mark.parametrize("form", ["a-key/of-more-than-24-characters", "a-key%2Fof-more-than-24-characters",
                                  "a-key/of-more-than-24-ch..."])  # fmt: skip
def test_a_secret_in_any_form_and_in_any_file_but_the_tournaments_is_seen(tmp_path: Path, form: str) -> None:
    for name in ("home/prefect/prefect.db", "logs/1/told.txt", "tournament/keys.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(f"\0 {form} \0".encode())
    found = secrets_in(tmp_path, {"the key": "a-key/of-more-than-24-characters", "a signature": "signature="})
    assert found == ["prefect.db holds the key", "told.txt holds the key"]


@pytest.mark.parametrize(
    ("run", "told_before", "rang", "missed"),
    [
        (replace(RUN, exit_code=1), None, False, True),
        (replace(RUN, exit_code=1), None, True, False),
        (replace(RUN, exit_code=1, result={"round": 7}), "eraflow: round 7 is not safe, 2 d 5 h left", False, False),
        (replace(RUN, exit_code=1, result={"round": 7}), "eraflow: round 7 is not safe, 3 d left", False, True),
        (replace(RUN, exit_code=1, result={"round": 7}), "eraflow: round 6 is not safe, 2 d 5 h left", False, True),
        (replace(RUN, exit_code=1), "eraflow: a run stopped", False, False),
        (RUN, None, False, False),
        (replace(RUN, exit_code=-9), None, False, False),
    ],
)
def test_a_run_that_ends_by_itself_without_success_must_ring(
    run: Run, told_before: str | None, rang: bool, missed: bool
) -> None:
    """What was told of this round is not told again while its title stays the same."""
    closes_at_utc = datetime.now(UTC) + timedelta(days=2, hours=5, minutes=30)
    bell = Bell(Server(never), "json://somewhere", "password")
    if told_before:
        bell.server.bodies.append(json.dumps({"title": told_before}).encode())
        assert not bell.missed(replace(RUN, exit_code=1), closes_at_utc)
    if rang:
        bell.server.bodies.append(json.dumps({"title": "eraflow: round 7 is not safe, 2 d 6 h left"}).encode())
    assert bell.missed(run, closes_at_utc) is missed
