"""Runs that are killed at every kind of place, and two at once: each slot has exactly one submission in the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from eraflow.ledger import Ledger
from eraflow.rehearsal import Fault, LocalTournament
from eraflow.store import ABANDONED_S
from eraflow.training import CHECKPOINT
from tests.behaviour.week import SLOTS, Hold, Week, half_written, tree, wait_until, without_report

ONE_EACH = dict.fromkeys(SLOTS, 1)


@dataclass(frozen=True)
class Place:
    """Where a run is killed: while one request hangs."""

    name: str
    fault: Fault
    reached: Callable[[Week], bool] = lambda week: True
    """What must hold besides the request having come."""
    known: tuple[str, ...] = ()
    """States of the attempts in the ledger at that moment, slot by slot."""


def _partial(week: Week) -> bool:
    return any(path.stat().st_size for path in half_written(week.home))


PLACES = (
    Place("while it asks for the slots", Fault(where="query:account", what="hang")),
    Place("while it asks for the round", Fault(where="query:rounds", what="hang")),
    Place("while it asks what is there", Fault(where="query:model", what="hang")),
    Place("while it asks for a file", Fault(where="query:dataset", what="hang", after=2)),
    Place("before a file comes", Fault(where="get:live.parquet", what="hang")),
    Place("in the middle of a file", Fault(where="get:train.parquet", what="slow", n=20_000), _partial),
    Place("before the upload is granted", Fault(where="query:submissionUploadAuth", what="hang"), known=("started",)),
    Place("before the bytes are up", Fault(where="put", what="hang"), known=("started",)),
    Place("before create has an effect", Fault(where="query:createSubmission", what="hang"), known=("sending",)),
    Place(
        "after create had its effect and before its answer",
        Fault(where="query:createSubmission", what="slow", n=1),
        lambda week: len(week.local.accepted()) == 1,
        known=("sending",),
    ),
    Place("before it is read back", Fault(where="query:submissionDownloadAuth", what="hang"), known=("submitted",)),
    Place("while it is read back", Fault(where="get:submission", what="hang"), known=("submitted",)),
    Place(
        "between the slots", Fault(where="query:submissionUploadAuth", what="hang", after=1),
        known=("verified", "started"),
    ),
    Place(
        "in the second slot after create had its effect",
        Fault(where="query:createSubmission", what="slow", n=1, after=1),
        lambda week: len(week.local.accepted()) == 2,
        known=("verified", "sending"),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory, market_folder: Path) -> tuple[set[str], str | None]:
    """Files and sha256 of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("unharmed")
    with (
        LocalTournament(folder / "tournament", data_from=market_folder) as local,
        pytest.MonkeyPatch.context() as patch,
    ):
        local.open_next_round(delay_s=0)
        week = Week(local, folder / "home")
        for name, value in week.environment.items():
            patch.setenv(name, value)
        result = week.play()
    assert result.exit_code == 0
    return tree(week.home), result.receipts[0].sha256


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_run_killed_anywhere_and_started_again_submits_once_a_slot(
    week: Week, unharmed: tuple[set[str], str | None], place: Place
) -> None:
    week.local.faults.add(place.fault)
    week.kill_when(lambda: week.struck(place.fault) and place.reached(week))
    assert _states(week) == place.known

    _ends_as_if_unharmed(week, unharmed)


@pytest.mark.parametrize(
    ("stage", "call", "text"),
    [("decode", 2, ""), ("train ", 2, "training loss"), ("train ", 6, "training loss"), ("validate", 1, "")],
    ids=["decoding", "after the second epoch", "after the last epoch", "validating"],
)
def test_a_run_killed_at_work_and_started_again_submits_once_a_slot(
    week: Week, tmp_path: Path, unharmed: tuple[set[str], str | None], stage: str, call: int, text: str
) -> None:
    hold = Hold(stage, tmp_path / "marker", call, text)
    week.kill_when(hold.marker.exists, hold=hold)
    assert _states(week) == ()
    _ends_as_if_unharmed(week, unharmed)


def test_training_goes_on_from_the_last_epoch_before_the_kill(week: Week, tmp_path: Path) -> None:
    hold = Hold("train ", tmp_path / "marker", 2, "training loss")
    week.kill_when(hold.marker.exists, hold=hold)
    (checkpoint,) = (week.home / "models").rglob(CHECKPOINT)
    epochs: list[str] = []

    def watched(stage: str, done: float, total: float, text: str = "") -> None:
        if stage.startswith("train ") and text.startswith("training loss"):
            epochs.append(text)

    assert week.play(steps=without_report(watched)).exit_code == 0
    assert len(epochs) == 4
    assert not checkpoint.exists()
    (told,) = (week.home / "models").rglob("model.json")
    history = json.loads(told.read_text())["histories"][0]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_twice_in_the_same_round_still_submits_once(week: Week) -> None:
    first = Fault(where="query:createSubmission", what="slow", n=1)
    week.local.faults.add(first)
    week.kill_when(lambda: week.struck(first) and len(week.local.accepted()) == 1)
    second = Fault(where="query:submissions", what="hang")
    week.local.faults.add(second)
    week.kill_when(lambda: week.struck(second))
    assert _states(week) == ("sending",)
    result = week.play()
    assert [(r.status, r.verified) for r in result.receipts] == [
        ("already-submitted", "bytes"),
        ("submitted", "bytes"),
    ]
    assert _accepted(week) == ONE_EACH


def test_what_a_killed_run_left_half_written_is_never_read_and_swept_after_a_day(week: Week) -> None:
    slow = Fault(where="get:train.parquet", what="slow", n=20_000)
    week.local.faults.add(slow)
    week.kill_when(lambda: week.struck(slow) and _partial(week))
    left = half_written(week.home)
    assert left
    # Whoever read this would fail.
    for path in left:
        path.write_bytes(b"not a parquet file")
    assert week.play().exit_code == 0
    assert all(path.exists() for path in left)
    long_ago = time.time() - ABANDONED_S - 60
    for path in left:
        os.utime(path, (long_ago, long_ago))
    assert week.play(week.request(submit=False)).exit_code == 0
    assert half_written(week.home) == []


def test_of_two_runs_at_once_the_second_waits_and_finds_it_submitted(week: Week) -> None:
    both = [week.start(), week.start()]
    wait_until(lambda: not any(child.is_alive() for child in both))
    assert [child.exitcode for child in both] == [0, 0]
    assert _accepted(week) == ONE_EACH
    assert week.sent() == ["submissionUploadAuth", "PUT", "createSubmission"] * 2


def test_a_second_run_waits_for_the_first_one_that_is_sending(week: Week) -> None:
    # The answer to create trickles for some seconds, so the first run surely holds the slot.
    slow = Fault(where="query:createSubmission", what="slow", n=40)
    week.local.faults.add(slow)
    first = week.start(week.request(slots=["rehearsal_one"]))
    wait_until(lambda: week.struck(slow))
    result = week.play(week.request(slots=["rehearsal_one"], resubmit=False))
    first.join(30)
    assert first.exitcode == 0
    assert [(r.status, r.origin, r.verified) for r in result.receipts] == [("already-submitted", "own", "bytes")]
    assert _accepted(week) == {"rehearsal_one": 1}


def _ends_as_if_unharmed(week: Week, unharmed: tuple[set[str], str | None]) -> None:
    files, sha256 = unharmed
    left = half_written(week.home)
    result = week.play()
    assert result.exit_code == 0
    assert _accepted(week) == ONE_EACH
    assert [receipt.verified for receipt in result.receipts] == ["bytes"] * 2
    assert {receipt.sha256 for receipt in result.receipts} == {sha256}
    assert tree(week.home) - {str(path.relative_to(week.home)) for path in left} == files
    assert [receipt.status for receipt in week.play().receipts] == ["already-submitted"] * 2
    assert _accepted(week) == ONE_EACH


def _accepted(week: Week) -> dict[str, int]:
    return {slot: len(made) for slot, made in week.accepted().items()}


def _states(week: Week) -> tuple[str, ...]:
    """States of all attempts that the ledger knows, by slot and time."""
    path = week.home / "ledger.sqlite"
    if not path.exists():
        return ()
    ledger = Ledger(path, week.local.url)
    return tuple(attempt.state for slot in SLOTS for attempt in reversed(ledger.attempts(1401, slot)))
