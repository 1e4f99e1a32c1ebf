"""A week of the campaign of faults, its table, and what it counts as met (its checks: `test_soak_checks`)."""

from __future__ import annotations

import errno
import json
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import Campaign, provenance, summed, told, written
from eraflow.rehearsal import Fault, LocalTournament
from tests.behaviour.crash_points import LEDGER
from tests.behaviour.harmed import NO_MEMORY, NO_ROOM, Harm, Run, drawn_of, files_by_kind, play_harmed
from tests.behaviour.soak import play_branch
from tests.behaviour.soak_branch import request_of
from tests.behaviour.soak_prefect import HARMS
from tests.behaviour.troubles import KILLS, QUICK, TROUBLES, was_met
from tests.behaviour.week import Week
from tests.eraflow.raw_server import closed_port

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
    new = written(page, "| table |", "python -m benchmarks.soak --home build/soak", 3, "abc1234 with changes")
    assert (new.startswith("before\n<!--"), new.endswith("<!-- and ends -->\nafter\n"), "old" in new) == (
        True, True, False
    )  # fmt: skip
    assert "`python -m benchmarks.soak --home build/soak`, seed 3, commit abc1234 with changes, " in new
    with pytest.raises(SystemExit, match="the page must have"):
        written("a page without marks", "", "", 0, "")


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
        (Harm(is_there=False), RUN, [], False),
        (Harm(altered=set()), RUN, [], False),
        (Harm(altered={"of other bytes"}), RUN, [], True),
        (Harm(), RUN, [], True),
        (Harm(disk_error=28), RUN, [], False),
        (Harm(disk_error=28), replace(RUN, was_struck=True), [], True),
        (Harm(write_s=0.1), RUN, [], False),
        (Harm(environment={"ERAFLOW_API_URL": "http://127.0.0.1:9"}), replace(RUN, exit_code=-9), [], False),
        (Harm(environment={"ERAFLOW_API_URL": "http://127.0.0.1:9"}), replace(RUN, was_struck=True), [], True),
        (Harm(largest_file_bytes=9), replace(RUN, exit_code=-9), [], False),
        (Harm(largest_file_bytes=9), replace(RUN, exit_code=1, told="cannot be written: File too large"), [], True),
        (Harm(memory_bytes=9), RUN, [], False),
        (Harm(memory_bytes=9), replace(RUN, exit_code=1, told="there is no more memory"), [], True),
        (Harm(asks=("dataset",)), RUN, [], False),
        (Harm(asks=("account",)), RUN, [], True),
        (Harm(asks=("/v5.3/train.parquet",)), RUN, [], False),
        (Harm(asks=("/v5.3/live.parquet",)), RUN, [], True),
    ],
)  # fmt: skip
def test_a_trouble_is_met_when_it_really_struck(harm: Harm, run: Run, struck: list[Fault], met: bool) -> None:
    asked = [("POST", "/", "rounds,account"), ("GET", "/files/7/v5.3/live.parquet", "")]
    assert was_met(harm, run, struck, asked) is met


def test_a_harm_leaves_a_mark_only_where_it_strikes(local: LocalTournament, tmp_path: Path) -> None:
    nowhere = {"ERAFLOW_API_URL": f"http://127.0.0.1:{closed_port()}"}
    harms = {
        "a disk that is full at once": (Harm(disk_error=errno.ENOSPC, from_write=0), True),
        "a disk that would be full later": (Harm(disk_error=errno.ENOSPC, from_write=10**6), False),
        "a slow disk": (Harm(write_s=0.001), True),
        "an API that is nowhere": (Harm(environment=nowhere), True),
    }
    for number, (name, (harm, is_struck)) in enumerate(harms.items()):
        week = Week(local, tmp_path / str(number) / "home")
        week.home.mkdir(parents=True)
        run = play_harmed(week.environment, request_of(week), tmp_path / "logs" / str(number), harm)
        assert (run.was_struck, run.hangs) == (is_struck, False), name
        assert not run.says(*NO_MEMORY, *NO_ROOM), name


def test_an_upload_that_is_altered_on_its_way_is_met_and_only_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trouble,) = [one for one in TROUBLES if one.name == "an upload altered on its way"]
    monkeypatch.setattr("tests.behaviour.soak._plan", lambda draw, given: [tuple(given)])
    monkeypatch.setattr("tests.behaviour.soak.TWO_AT_ONCE", 0.0)
    campaign = Campaign(tmp_path, seed=7, branches=1, prefect_every=1000, untrusted="")
    outcome = play_branch("branch", campaign._begin(1), tmp_path / "played", [trouble])
    assert [(one.met, one.exit_code, one.codes) for one in outcome.steps] == [
        ((trouble.name,), 1, ("not-verified",))
    ]  # fmt: skip
    assert (outcome.saved, outcome.wrong) == (True, ())


def test_a_small_file_is_drawn_as_often_as_files_of_which_there_are_many(tmp_path: Path) -> None:
    names = ["data/v5.3/features.json", *(f"rounds/1/{number}.csv" for number in range(98)), "rounds/1/.live.lock",
             "ledger.sqlite", "ledger.sqlite-wal"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    kinds = files_by_kind(tmp_path)
    assert sum(len(files) for files in kinds.values()) == len(names) - 1
    draw = random.Random(0)  # noqa: S311 -- must repeat
    drawn = Counter(path.parent.parent.name for _ in range(300) for path in drawn_of(kinds, draw))
    assert min(drawn[one] for one in ("data", "rounds")) > 70
    assert drawn_of({}, draw) == []
    assert drawn_of({"kind": [tmp_path / LEDGER]}, draw) == [tmp_path / LEDGER]


def test_a_home_that_sends_other_bytes_than_an_empty_one_is_seen(campaign: Campaign, tmp_path: Path) -> None:
    campaign.play(1)
    assert campaign._begin(2).wrong == ()
    # As if somebody had kept other predictions for the round's: the recipe of one slot is the other's.
    path = tmp_path / "week-2-of-7" / "weekly.toml"
    path.write_text(path.read_text().replace("training.seed = 1", "training.seed = 2"))
    assert campaign._begin(2).wrong == ("the week's home sends other bytes than an empty one",)


def test_a_campaign_is_gone_on_with_by_its_own_plan_and_commit_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"branches": 5, "prefect_every": 4}
    monkeypatch.setattr("benchmarks.soak._code", lambda: {"commit": "abc1234", "changes": ""})
    begun = provenance(tmp_path, 7, plan)
    assert provenance(tmp_path, 7, plan) == begun == {**plan, "commit": "abc1234", "changes": ""}
    other_plan = {**plan, "branches": 9}
    with pytest.raises(SystemExit, match="has branches 5 and not 9; go on as it began"):
        provenance(tmp_path, 7, other_plan)
    assert provenance(tmp_path, 7, other_plan, is_replay=True) == begun
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("benchmarks.soak._code", lambda: {"commit": "def5678", "changes": ""})
    with pytest.raises(SystemExit, match="has commit abc1234 and not def5678"):
        provenance(tmp_path, 7, plan)
    assert provenance(tmp_path, 7, plan, is_replay=True) == begun
    assert "the campaign was of abc1234, this is def5678" in capsys.readouterr().out


def test_a_campaign_that_does_not_say_of_which_commit_it_is_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(SystemExit, match="does not say of which commit"):
        provenance(tmp_path, 7, {})
