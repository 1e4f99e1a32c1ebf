"""A week of the campaign of faults, and that it sees what must not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Campaign, summed, told
from eraflow.rehearsal import LocalTournament
from tests.behaviour.harmed import Run
from tests.behaviour.soak import Begun, Branch, look_at, look_from_outside, secrets_in
from tests.behaviour.week import SLOTS, Week
from tests.eraflow.raw_server import closed_port

BRANCHES = 3


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(
        tmp_path, seed=7, branches=BRANCHES, prefect_every=1000, untrusted=f"https://127.0.0.1:{closed_port()}"
    )


def test_a_week_of_faults_ends_with_every_round_saved_once(campaign: Campaign, tmp_path: Path) -> None:
    campaign.play(1)
    entries = campaign.entries()
    assert [(one["saved"] or not one["could_be_saved"], one["wrong"]) for one in entries] == [(True, [])] * BRANCHES
    assert all(one["steps"] for one in entries)
    assert "0 things wrong" in summed(entries)
    assert "| process |" in told(entries)
    # What was played is not played again.
    before = (tmp_path / "journal.jsonl").read_text()
    campaign.play(1)
    assert (tmp_path / "journal.jsonl").read_text() == before


@pytest.fixture
def branch(local: LocalTournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Branch:
    begun = Begun(folder=tmp_path, duration_s=1.0, points=1, sha256="meant", untrusted="")
    (tmp_path / "home").mkdir()
    found = Branch("branch", begun, tmp_path, local)
    for name, value in Week(local, tmp_path / "home").environment.items():
        monkeypatch.setenv(name, value)
    return found


def test_two_submissions_and_other_bytes_are_seen_from_outside(branch: Branch) -> None:
    assert branch.week.play().exit_code == 0
    assert branch.week.play(branch.week.request(slots=SLOTS[:1], resubmit=True)).exit_code == 0
    look_from_outside(branch, saved=True)
    assert any("2 submissions in place of one" in one for one in branch.wrong)
    assert any("other bytes" in one for one in branch.wrong)


def test_a_submission_that_the_ledger_does_not_know_is_seen(branch: Branch) -> None:
    assert branch.week.play().exit_code == 0
    (branch.folder / "home" / "ledger.sqlite").unlink()
    look_from_outside(branch, saved=False)
    assert branch.wrong == ["1 submissions that the ledger does not know"]


@pytest.mark.parametrize(
    ("run", "seen"),
    [
        (Run(exit_code=1, result=None, told="Traceback (most recent call last):\nKeyError", seconds=0), "traceback"),
        (Run(exit_code=0, result={"submissions": [{"model": "a", "sha256": "b", "verified": False}]}, told="",
             seconds=0), "without a verified receipt"),
        (Run(exit_code=1, result={"submissions": [{"model": "a", "sha256": "b", "verified": "bytes"}]}, told="",
             seconds=0), "no bytes"),
        (Run(exit_code=1, result={"submissions": [], "error": {"code": "unexpected", "message": "m"}}, told="",
             seconds=0), "nobody expected"),
    ],
)  # fmt: skip
def test_what_the_user_must_not_see_is_seen(branch: Branch, run: Run, seen: str) -> None:
    look_at(branch, run)
    assert [seen in one for one in branch.wrong] == [True]


def test_a_secret_in_any_file_but_the_tournaments_is_seen(tmp_path: Path) -> None:
    for name in ("home/prefect/prefect.db", "logs/1/told.txt", "tournament/keys.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\0 the-key \0 signature=12")
    assert secrets_in(tmp_path, "the-key") == ["prefect.db holds a secret"] * 2 + ["told.txt holds a secret"] * 2
