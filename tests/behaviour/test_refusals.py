"""Rounds that must not be submitted: closed, without keys, for slots that are none, or with damaged live data."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eraflow import transport
from eraflow.budget import Budget
from eraflow.errors import CredentialsError, InputError
from eraflow.rehearsal import Fault
from eraflow.request import Request
from eraflow.result import ModelReport
from eraflow.rounds import Clock
from eraflow.steps import Prepared
from tests.behaviour.week import SLOTS, Week, by_slot, tree, without_report

LIVE = "v5.3/live.parquet"


def test_a_closed_round_is_skipped_and_nothing_is_sent(week: Week) -> None:
    week.local.close_round()
    result = week.play()
    assert result.exit_code == 3
    assert [(r.status, r.error_code) for r in result.receipts] == [("skipped", "round-closed")] * 2
    assert "deadline of round 1401" in str(result.receipts[0].error_message)
    assert week.sent() == []
    assert week.local.submissions() == []


def test_between_rounds_everything_is_skipped(week: Week) -> None:
    week.local.close_round()
    week.local.move_clock(2 * 3600)
    assert week.local.current_round() is None
    result = week.play()
    assert result.exit_code == 3
    assert [(r.status, r.error_code) for r in result.receipts] == [("skipped", "no-round")] * 2
    assert week.sent() == []


def test_no_rounds_at_all_is_between_rounds(week: Week) -> None:
    week.local.faults.add(Fault(where="query:rounds", what="empty-rounds", times=None))
    result = week.play()
    assert (result.exit_code, [r.status for r in result.receipts]) == (3, ["skipped"] * 2)
    assert week.sent() == []


@pytest.mark.parametrize("passed_s", [0, 2 * 3600], ids=["just closed", "between rounds"])
def test_a_late_submission_is_sent_on_request_and_called_late(week: Week, passed_s: int) -> None:
    week.local.close_round()
    week.local.move_clock(passed_s)
    result = week.play(week.request(late="submit"))
    assert result.exit_code == 0
    assert [(r.status, r.verified, r.origin) for r in result.receipts] == [("late", "bytes", "own")] * 2
    assert all(r.left_s is not None and r.left_s < 0 for r in result.receipts)
    assert [(one.slot, one.late) for one in week.local.accepted(1401)] == [(slot, True) for slot in SLOTS]
    week.sent()
    again = week.play(week.request(late="submit"))
    assert (again.exit_code, [r.status for r in again.receipts]) == (0, ["already-submitted"] * 2)
    assert week.sent() == []


def test_a_late_submission_carried_over_is_not_the_next_rounds_own(weeks: Week) -> None:
    weeks.local.close_round()
    assert weeks.play(weeks.request(late="submit")).exit_code == 0
    weeks.sent()
    weeks.local.open_next_round()
    carried = [one for one in weeks.local.accepted(1402) if one.carried_over]
    assert [one.slot for one in carried] == list(SLOTS)
    assert all(one.selected for one in carried)

    result = weeks.play()
    assert [(r.round, r.status, r.origin, r.verified) for r in result.receipts] == [
        (1402, "submitted", "own", "bytes")
    ] * 2
    assert weeks.sent() == ["submissionUploadAuth", "PUT", "createSubmission"] * 2
    assert {slot: len(made) for slot, made in weeks.accepted().items()} == dict.fromkeys(SLOTS, 1)
    assert [r.status for r in weeks.play().receipts] == ["already-submitted"] * 2


def test_a_round_that_closes_during_training_is_skipped(week: Week) -> None:
    def closing(stage: str, done: float, total: float, text: str = "") -> None:
        if stage.startswith("train "):
            week.local.close_round()

    result = week.play(steps=without_report(closing))
    assert (result.exit_code, [r.status for r in result.receipts]) == (3, ["skipped"] * 2)
    assert week.local.submissions() == []
    assert "PUT" not in week.sent()


def test_a_round_that_closes_between_put_and_create_is_skipped(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    put, passed_s = transport.put, [0.0]

    def slow(url: str, data: bytes, what: str) -> int:
        status = put(url, data, what)
        week.local.close_round()
        passed_s[0] = 2 * 24 * 3600.0
        return status

    now_utc = Clock.now_utc
    monkeypatch.setattr(Clock, "now_utc", lambda clock: now_utc(clock) + timedelta(seconds=passed_s[0]))
    monkeypatch.setattr("eraflow.transport.put", slow)
    result = week.play(week.request(slots=["rehearsal_one"]))
    assert (result.exit_code, [r.status for r in result.receipts]) == (3, ["skipped"])
    assert week.sent() == ["submissionUploadAuth", "PUT"]
    assert week.local.submissions() == []


@pytest.mark.parametrize("late", ["skip", "submit"])
def test_a_round_that_opens_meanwhile_makes_the_run_start_over_on_it(weeks: Week, late: str) -> None:
    opened: list[int] = []

    def next_week(stage: str, done: float, total: float, text: str = "") -> None:
        if stage.startswith("train ") and not opened:
            opened.append(weeks.local.open_next_round())

    result = weeks.play(weeks.request(late=late), steps=without_report(next_week))
    assert (result.round, result.exit_code) == (1402, 0)
    assert [(r.round, r.status) for r in result.receipts] == [(1402, "submitted")] * 2
    # The local tournament judges ids, so what it accepted was made for that round.
    assert [one.round for one in weeks.local.submissions()] == [1402, 1402]


def test_a_run_that_is_overtaken_again_and_again_gives_up(weeks: Week) -> None:
    def next_week(stage: str, done: float, total: float, text: str = "") -> None:
        if stage.startswith("train ") and done < total:
            weeks.local.open_next_round()

    result = weeks.play(weeks.request(), steps=without_report(next_week))
    assert (result.exit_code, [r.status for r in result.receipts]) == (3, ["skipped"] * 2)
    assert {r.error_code for r in result.receipts} == {"round-overtaken"}
    assert "PUT" not in weeks.sent()


def test_a_folder_of_another_round_is_refused_before_training(week: Week, market_folder: Path, tmp_path: Path) -> None:
    folder = _copy(market_folder, tmp_path / "other")
    table = pq.read_table(folder / "live.parquet")
    ids = pa.array([f"other{i:06d}" for i in range(table.num_rows)])
    pq.write_table(table.set_column(table.column_names.index("id"), "id", ids), folder / "live.parquet")
    result = week.play(week.request(data_from=folder))
    assert (result.exit_code, result.models) == (5, ())
    assert str(folder / "live.parquet") in str(result.receipts[0].error_message)
    assert "of another round" in str(result.receipts[0].error_message)
    assert week.sent() == []


def test_a_folder_that_lacks_some_of_the_rounds_ids_is_refused(week: Week, market_folder: Path, tmp_path: Path) -> None:
    folder = _copy(market_folder, tmp_path / "short")
    table = pq.read_table(folder / "live.parquet")
    pq.write_table(table.slice(3), folder / "live.parquet")
    result = week.play(week.request(data_from=folder))
    assert result.exit_code == 5
    assert "3 of this round's are missing" in str(result.receipts[0].error_message)
    assert week.sent() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("CUDA error"), "unexpected"),
        (TimeoutError("task timed out"), "unexpected"),
        (MemoryError(), "no-memory"),
        (RuntimeError("can't start new thread"), "no-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "no-memory"),
        (RuntimeError("CUDA out of memory."), "no-memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "no-memory"),
    ],
)
def test_an_unexpected_error_costs_its_own_slots_and_no_other(
    week: Week, tmp_path: Path, error: Exception, code: str
) -> None:
    steps = without_report()

    def fails(request: Request, prepared: Prepared, budget: Budget) -> ModelReport:
        if prepared.recipe.name == "simple-mlp":
            raise error
        return steps.train(request, prepared, budget)

    toml = tmp_path / "weekly.toml"
    toml.write_text('[slots]\nrehearsal_one = "simple-mlp"\nrehearsal_two = "fastai-tabular"\n')
    request = week.request(slots=(), recipe=None, config_file=toml)
    result = week.play(request, steps=dataclasses.replace(steps, train=fails))
    assert [(r.status, r.error_code) for r in result.receipts] == [("failed", code), ("submitted", None)]
    assert result.exit_code == 1
    assert type(error).__name__ in str(result.receipts[0].error_message)


@pytest.mark.parametrize("scopes", [["upload_submission"], ["read_user_info", "read_submission_info"]])
def test_keys_that_may_not_do_what_is_needed_end_with_4(week: Week, scopes: list[str]) -> None:
    week.local.set_scopes(scopes)
    result = week.play()
    assert (result.exit_code, {r.error_code for r in result.receipts}) == (4, {"credentials"})
    assert [r.status for r in result.receipts] == ["failed"] * 2
    assert week.local.submissions() == []


def test_wrong_keys_end_with_4_and_one_question(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAI_SECRET_KEY", "not-the-key-at-all")
    result = week.play()
    assert (result.exit_code, [r.error_code for r in result.receipts]) == (4, ["credentials"] * 2)
    assert "not-the-key-at-all" not in str(result)
    assert len(week.local.requests) == 1


@pytest.mark.parametrize(
    "missing", [["NUMERAI_PUBLIC_ID", "NUMERAI_SECRET_KEY"], ["NUMERAI_SECRET_KEY"]], ids=["both", "one"]
)
def test_missing_keys_end_with_4_before_any_question(
    week: Week, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    result = week.play()
    assert result.exit_code == CredentialsError.exit_code
    assert all("NUMERAI_PUBLIC_ID" in str(r.error_message) for r in result.receipts)
    assert week.local.requests == []


def test_an_unknown_slot_ends_with_2_before_any_download(week: Week) -> None:
    result = week.play(week.request(slots=["rehearsal_one", "rehearsal_ten"]))
    assert result.exit_code == InputError.exit_code
    assert "rehearsal_ten" in str(by_slot(result)["rehearsal_ten"].error_message)
    assert "rehearsal_two" in str(by_slot(result)["rehearsal_ten"].error_message)
    _nothing_downloaded(week)


def test_a_slot_of_another_tournament_is_unknown(week: Week) -> None:
    assert week.play(week.request(slots=["rehearsal_signals"])).exit_code == 2
    _nothing_downloaded(week)


def test_a_hosted_slot_ends_with_2_before_any_download(week: Week) -> None:
    week.local.add_slot("rehearsal_hosted", hosted=True)
    result = week.play(week.request(slots=["rehearsal_hosted"]))
    assert result.exit_code == 2
    assert "hosted" in str(result.receipts[0].error_message)
    _nothing_downloaded(week)


def _twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def _emptied(table: pa.Table) -> pa.Table:
    for name in _features(table):
        table = table.set_column(table.column_names.index(name), name, pa.nulls(table.num_rows, table[name].type))
    return table


Damage = Callable[[pa.Table], pa.Table]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "duplicate ids": (_twice, "id"),
    "a missing feature": (lambda table: table.drop_columns([_features(table)[3]]), "feature_"),
    "no rows": (lambda table: table.slice(0, 0), "row"),
    "an era that is not X": (
        lambda table: table.set_column(
            table.column_names.index("era"), "era", pa.array(["1234"] * table.num_rows, pa.string())
        ),
        "era",
    ),
    "a feature value that there is not": (
        lambda table: table.set_column(
            table.column_names.index(_features(table)[0]), _features(table)[0],
            pa.array([9] * table.num_rows, pa.int8()),
        ),
        "feature_",
    ),
    "features without a value": (
        _emptied,
        "all are missing",
    ),
    "no ids": (lambda table: table.drop_columns(["id"]), "id"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "named"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_live_file_ends_with_5_and_nothing_is_sent(
    week: Week, market_folder: Path, tmp_path: Path, damage: Damage, named: str
) -> None:
    damaged = tmp_path / "damaged.parquet"
    pq.write_table(damage(pq.read_table(market_folder / "live.parquet")), damaged)
    week.local.set_file(LIVE, damaged)
    result = week.play()
    assert result.exit_code == 5, result.receipts[0].error_message
    text = str(result.receipts[0].error_message)
    assert "live.parquet" in text
    assert named in text
    assert result.models == ()  # it is found before hours of training
    assert week.sent() == []

    week.local.set_file(LIVE, None)
    assert week.play().exit_code == 0


def test_what_cannot_be_meant_is_refused_before_any_work(week: Week, tmp_path: Path) -> None:
    for wrong, text in (
        ({"slots": ()}, "no slot"),
        ({"recipe": "simple"}, "simple-mlp"),
        ({"assignments": {"training.epoch": "3"}}, "epochs"),
        ({"assignments": {"submission.later": "x"}}, "late"),
        ({"late": "perhaps"}, "skip, submit"),
        ({"submit": False, "resubmit": True}, "exclude each other"),
        ({"data_from": tmp_path / "nowhere"}, "must name a folder"),
        ({"config_file": tmp_path / "nowhere.toml"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=text):
            week.request(**wrong)
    assert week.local.requests == []
    assert not week.home.exists()


def test_a_refused_round_leaves_no_half_written_file(week: Week) -> None:
    week.local.faults.add(Fault(where="get:train.parquet", what="html-200", times=None))
    assert week.play().exit_code == 5
    assert not any(".partial-" in name for name in tree(week.home))
    assert not (week.home / "data" / "v5.3" / "train.parquet").exists()


def _features(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name.startswith("feature_")]


def _copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for name in ("features.json", "train.parquet", "validation.parquet", "live.parquet"):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def _nothing_downloaded(week: Week) -> None:
    assert week.sent() == []
    assert not any(method == "GET" or root == "dataset" for method, _, root in week.local.requests)
