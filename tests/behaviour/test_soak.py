"""A week of the campaign of faults, and that it sees what must not be."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import Campaign, summed, told, written
from eraflow.rehearsal import Fault, LocalTournament
from eraflow.rehearsal.state import Submission
from tests.behaviour.harmed import Harm, Run
from tests.behaviour.soak import play_in_peace
from tests.behaviour.soak_branch import Begun, Branch, request_of, sent_by_slot
from tests.behaviour.soak_checks import is_saved, look_at, look_from_outside, secrets_in
from tests.behaviour.soak_prefect import HARMS, Bell
from tests.behaviour.troubles import KILLS, QUICK, TROUBLES, was_met
from tests.behaviour.week import SLOTS, Week
from tests.eraflow.raw_server import Server, closed_port, never

BRANCHES = 3
AT_A_POINT = [one for one in KILLS if "before a write" in one.name]
# Such as come of themselves, at no moment of the machine's choosing.
CERTAIN = [one for one in TROUBLES if one.name in ("a slot removed", "duplicate ids", "403")]


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """One in which nothing depends on the machine's pace."""
    monkeypatch.setattr("tests.behaviour.soak.KILLS", AT_A_POINT)
    monkeypatch.setattr("tests.behaviour.soak.TROUBLES", CERTAIN)
    monkeypatch.setattr("tests.behaviour.soak.TWO_AT_ONCE", 0.0)
    monkeypatch.setattr("benchmarks.soak.TROUBLES", CERTAIN)
    untrusted = f"https://127.0.0.1:{closed_port()}"
    return Campaign(tmp_path, seed=7, branches=BRANCHES, prefect_every=1000, untrusted=untrusted, at_once=2)


def test_a_week_of_faults_ends_with_every_round_saved_once(campaign: Campaign, tmp_path: Path) -> None:
    campaign.play(1)
    entries = campaign.entries()
    assert [(one["saved"], one["could_be_saved"], one["wrong"]) for one in entries] == [(True, True, [])] * BRANCHES
    killed = [step for one in entries for step in one["steps"] if AT_A_POINT[0].name in step["met"]]
    assert sum(one["kills"] for one in entries) == len(killed) > 0
    assert all(one["steps"] for one in entries)
    assert "0 things wrong. 0 of these rounds and 0 of these kills were through Prefect." in summed(entries)
    assert "| process | SIGKILL before a write, a commit or a request |" in told(entries)
    # What was played is not played again, and the week after it begins where the last branch ended.
    before = (tmp_path / "journal.jsonl").read_text()
    campaign.play(1)
    assert (tmp_path / "journal.jsonl").read_text() == before
    assert (tmp_path / "week-2-of-7" / "home" / "ledger.sqlite").is_file()
    assert not list(tmp_path.glob("playing*"))


def _entry(branch: str, **given: Any) -> dict[str, Any]:
    return {"seed": 7, "week": 1, "branch": branch, "wrong": [], **given}


def test_a_half_written_line_spoils_no_other_and_what_went_wrong_is_never_forgotten(
    campaign: Campaign, tmp_path: Path
) -> None:
    first, second = _entry("7.1.1", wrong=["that"]), _entry("7.1.2")
    lines = [json.dumps(one) for one in (first, second, _entry("7.1.1"))]
    (tmp_path / "journal.jsonl").write_text(f"\n{lines[0]}\n{lines[1][:20]}\n{lines[1]}\n{lines[2]}")
    assert campaign.entries() == [first, second]


def test_only_what_a_run_met_is_counted() -> None:
    steps = [
        {"troubles": ["5xx", "SIGTERM"], "met": ["5xx"], "exit_code": 1},
        {"troubles": ["two runs at once"], "met": ["two runs at once"], "exit_code": 0},
    ]
    counts = {"kills": 0, "tries": 2, "saved": True, "could_be_saved": True, "through_prefect": False}
    entries = [_entry("7.1.1", steps=steps, **counts)]
    table = told(entries)
    assert "| network | 5xx | 1 | 1 1x | 1 of 1 | 0 |" in table
    assert "| disk | two runs at once | 1 | 0 1x | 1 of 1 | 0 |" in table
    assert "SIGTERM" not in table
    assert "1 weeks, 1 rounds, 4 runs, 0 kills" in table


def test_only_what_stands_between_the_marks_of_a_page_is_written() -> None:
    page = "before\n<!-- what `benchmarks.soak` writes begins -->\nold\n<!-- and ends -->\nafter\n"
    new = written(page, "| table |", "python -m benchmarks.soak --home build/soak", 3)
    assert (new.startswith("before\n<!--"), new.endswith("<!-- and ends -->\nafter\n"), "old" in new) == (
        True, True, False
    )  # fmt: skip
    assert "`python -m benchmarks.soak --home build/soak`, seed 3, commit " in new
    with pytest.raises(SystemExit, match="the page must have"):
        written("a page without marks", "", "", 0)


def test_no_two_troubles_have_one_name() -> None:
    names = Counter([one.name for one in (*KILLS, *TROUBLES)] + list(HARMS))
    assert [name for name, times in names.items() if times > 1] == []
    assert len(QUICK) == 5


RUN = Run(exit_code=0, result=None, told="", seconds=0.0)


@pytest.mark.parametrize(
    ("harm", "run", "struck", "met"),
    [
        (Harm(signal=signal.SIGKILL), replace(RUN, exit_code=-9), [], True),
        (Harm(signal=signal.SIGKILL), RUN, [], False),
        (Harm(signal=signal.SIGKILL), replace(RUN, exit_code=-9, hangs=True), [], False),
        (Harm(stop_before=3), RUN, [], False),
        (Harm(signal=signal.SIGTERM), replace(RUN, exit_code=143), [], True),
        (Harm(signal=signal.SIGTERM), replace(RUN, exit_code=-9), [], False),
        (Harm(fault=Fault(where="put", what="hang")), RUN, [Fault(where="put", what="hang")], True),
        (Harm(fault=Fault(where="put", what="hang")), RUN, [Fault(where="put", what="status")], False),
        (Harm(spoils_before=1), RUN, [], False),
        (Harm(spoils_before=1), replace(RUN, spoiled="cut: live.parquet"), [], True),
        (Harm(name="begun"), RUN, [], True),
    ],
)  # fmt: skip
def test_a_trouble_is_met_when_it_really_struck(harm: Harm, run: Run, struck: list[Fault], met: bool) -> None:
    assert was_met(harm, run, struck) is met


# What must not be


@pytest.fixture
def branch(local: LocalTournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Branch:
    meant = {slot: f"meant for {slot}" for slot in SLOTS}
    begun = Begun(folder=tmp_path, duration_s=1.0, points=1, sha256=meant, untrusted="")
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
    look_from_outside(branch, saved=is_saved(branch))
    assert branch.wrong == []
    branch.begun.sha256 = {SLOTS[0]: second, SLOTS[1]: first}
    look_from_outside(branch, saved=True)
    assert branch.wrong == [f"slot {slot}: other bytes than those of a round without trouble" for slot in SLOTS]


def test_two_submissions_in_place_of_one_are_seen(branch: Branch) -> None:
    for _ in range(2):
        submission_of(branch, SLOTS[0])
    branch.ledger_was_harmed = True
    look_from_outside(branch, saved=False)
    assert [f"slot {SLOTS[0]}: 2 submissions in place of one" in one for one in branch.wrong] == [True]


@pytest.mark.parametrize("may_be_late", [True, False])
def test_a_late_submission_is_seen_unless_the_deadline_passed_in_mid_run(branch: Branch, may_be_late: bool) -> None:
    submission_of(branch, SLOTS[0], late=True)
    branch.ledger_was_harmed, branch.may_be_late = True, may_be_late
    look_from_outside(branch, saved=False)
    assert ["is late" in one for one in branch.wrong] == [True] * (not may_be_late)


def test_a_submission_that_the_ledger_does_not_know_is_seen(branch: Branch) -> None:
    assert branch.week.play(request_of(branch.week)).exit_code == 0
    look_from_outside(branch, saved=False)
    assert branch.wrong == []
    (branch.folder / "home" / "ledger.sqlite").unlink()
    look_from_outside(branch, saved=False)
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
    look_from_outside(branch, saved=False)
    assert len(branch.wrong) == seen


@pytest.mark.parametrize("harmed", [True, False])
def test_a_ledger_that_must_be_moved_away_without_having_been_harmed_is_seen(branch: Branch, harmed: bool) -> None:
    damaged = replace(RUN, exit_code=1, told="the ledger cannot be used; if it is damaged, move it away: the")
    branch.ledger_was_harmed = harmed
    (branch.folder / "home" / "ledger.sqlite").write_text("damaged")
    for slot in SLOTS:
        submission_of(branch, slot)
    runs = iter([damaged, run_of(branch, *(receipt_of(slot) for slot in SLOTS))])
    assert play_in_peace(branch, lambda: next(runs)) == 2
    assert branch.wrong == [] if harmed else ["a ledger that no trouble has harmed had to be moved away"]
    assert not (branch.folder / "home" / "ledger.sqlite").exists()


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
