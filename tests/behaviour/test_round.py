"""A round that goes well, run once, twice, from two homes, and with nothing to send."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from eraflow.weekly import plain_steps
from tests.behaviour.week import SLOTS, Week, by_slot, tree


def test_two_slots_are_verified_and_the_same_command_again_sends_nothing(week: Week) -> None:
    first = week.play()
    assert first.exit_code == 0
    assert [(r.status, r.verified, r.origin) for r in first.receipts] == [("submitted", "bytes", "own")] * 2
    assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1)
    assert week.sent() == ["submissionUploadAuth", "PUT", "createSubmission"] * 2

    second = week.play()
    assert second.exit_code == 0
    assert [(r.status, r.verified, r.origin) for r in second.receipts] == [("already-submitted", "bytes", "own")] * 2
    assert [r.submission_id for r in second.receipts] == [r.submission_id for r in first.receipts]
    assert week.sent() == []
    assert second.models == ()


def test_a_second_run_keeps_the_page_of_the_one_that_submitted(week: Week) -> None:
    page = week.play(steps=plain_steps()).report
    assert page is not None
    drawn = page.read_bytes()
    assert week.play(steps=plain_steps()).report == page
    assert page.read_bytes() == drawn
    week.play(week.request(submit=False), steps=plain_steps())
    assert page.read_bytes() == drawn


def test_the_ledger_keeps_how_long_each_stage_took(week: Week) -> None:
    week.play()
    with sqlite3.connect(week.home / "ledger.sqlite") as connection:
        kept = connection.execute(
            "SELECT DISTINCT stage, recipe FROM stages WHERE round = 1401 AND seconds > 0"
        ).fetchall()
    connection.close()
    assert {stage for stage, _ in kept} == {"round", "download", "dataset", "training", "prediction", "submission"}
    assert ("training", "simple-mlp") in kept


def test_the_receipt_names_the_bytes_that_the_tournament_has(week: Week) -> None:
    receipt = by_slot(week.play())["rehearsal_one"]
    (made,) = week.accepted()["rehearsal_one"]
    assert (receipt.submission_id, receipt.sha256, receipt.round) == (made.id, made.sha256, 1401)
    assert receipt.sha256
    assert made.filename.startswith(f"eraflow-r1401-{receipt.sha256[:12]}")
    assert receipt.left_s is not None
    assert receipt.left_s > 3600
    assert all(check.passed for check in receipt.checks)


def test_two_slots_with_one_recipe_share_one_training_and_are_told(
    week: Week, caplog: pytest.LogCaptureFixture
) -> None:
    result = week.play()
    assert [model.recipe for model in result.models] == ["simple-mlp"]
    assert len(list((week.home / "models").glob("simple-mlp-*"))) == 1
    assert by_slot(result)["rehearsal_one"].sha256 == by_slot(result)["rehearsal_two"].sha256
    said = [note for note in result.models[0].notes if "same predictions" in note]
    assert len(said) == 1
    assert "rehearsal_one" in said[0]
    assert "rehearsal_two" in said[0]
    assert said[0] in caplog.text


def test_two_recipes_train_two_models_and_send_two_different_files(week: Week, tmp_path: Path) -> None:
    config = tmp_path / "weekly.toml"
    config.write_text('[slots]\nrehearsal_one = "simple-mlp"\nrehearsal_two = "fastai-tabular"\n')
    result = week.play(week.request(slots=(), recipe=None, config_file=config))
    assert result.exit_code == 0
    assert [model.recipe for model in result.models] == ["simple-mlp", "fastai-tabular"]
    assert [receipt.recipe for receipt in result.receipts] == ["simple-mlp", "fastai-tabular"]
    assert len({receipt.sha256 for receipt in result.receipts}) == 2
    assert not any("same predictions" in note for model in result.models for note in model.notes)


def test_a_recipe_that_cannot_be_trained_costs_only_its_own_slot(week: Week, tmp_path: Path) -> None:
    rows = week.play(week.request(submit=False)).models[0].rows
    config = tmp_path / "weekly.toml"
    config.write_text('[slots]\nrehearsal_one = "fastai-tabular"\nrehearsal_two = "simple-mlp"\n')
    # The last step has a single row, which is too few for batch norm and enough for a network without it.
    assignments = {"training.batch_size": str(rows - 1), "training.drop_last": "false"}
    result = week.play(week.request(slots=(), recipe=None, config_file=config, assignments=assignments))
    broken, sound = result.receipts
    assert (broken.status, broken.error_code, sound.status) == ("failed", "training", "submitted")
    assert (result.exit_code, result.error) == (1, None)
    assert list(week.accepted()) == ["rehearsal_two"]


def test_without_submitting_nothing_is_sent_and_no_keys_are_needed(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMERAI_PUBLIC_ID")
    monkeypatch.delenv("NUMERAI_SECRET_KEY")
    result = week.play(week.request(submit=False))
    assert (result.exit_code, result.round) == (0, 1401)
    assert [receipt.status for receipt in result.receipts] == ["skipped"] * 2
    assert len(result.models) == 1
    assert week.sent() == []
    assert week.local.accepted() == []


def test_a_folder_without_submitting_never_contacts_the_tournament_and_stays_as_it_was(
    week: Week, market_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMERAI_PUBLIC_ID")
    monkeypatch.delenv("NUMERAI_SECRET_KEY")
    before = {path: path.stat().st_mtime_ns for path in market_folder.rglob("*")}
    result = week.play(week.request(slots=["mine"], data_from=market_folder, submit=False))
    assert (result.exit_code, result.round, result.error) == (0, None, None)
    assert [(receipt.slot, receipt.status) for receipt in result.receipts] == [("mine", "skipped")]
    assert result.models[0].validation["spearman_mean"] is not None
    assert week.local.requests == []
    assert {path: path.stat().st_mtime_ns for path in market_folder.rglob("*")} == before


def test_a_folder_can_be_submitted_from_where_the_tournament_has_the_same_live_rows(
    week: Week, market_folder: Path
) -> None:
    result = week.play(week.request(data_from=market_folder))
    assert result.exit_code == 0
    # Only the live file is fetched, to see that the folder's is of this round.
    fetched = [path for method, path, _ in week.local.requests if method == "GET" and path.startswith("/files")]
    assert fetched == ["/files/1401/v5.3/live.parquet"]
    assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1)


def test_the_next_round_fetches_only_what_changed_and_trains_again(weeks: Week) -> None:
    first = weeks.play()
    asked = len(weeks.local.requests)
    assert weeks.local.open_next_round() == 1402
    second = weeks.play()
    assert (first.exit_code, second.exit_code, second.round) == (0, 0, 1402)
    assert first.receipts[0].sha256 != second.receipts[0].sha256
    fetched = [path.rpartition("/")[2] for method, path, _ in weeks.local.requests[asked:] if method == "GET"]
    assert fetched.count("live.parquet") == 1
    assert fetched.count("train.parquet") == 1  # one byte, to see that it has not changed
    assert fetched.count("validation.parquet") == 2  # one byte, then all of it
    assert {slot: len(made) for slot, made in weeks.accepted().items()} == dict.fromkeys(SLOTS, 1)


def test_a_lost_ledger_makes_the_submissions_foreign_and_nothing_is_sent(week: Week) -> None:
    first = week.play()
    week.sent()
    (week.home / "ledger.sqlite").unlink()
    second = week.play()
    assert second.exit_code == 0
    assert [(r.status, r.origin, r.verified) for r in second.receipts] == [
        ("already-submitted", "foreign", "listed")
    ] * 2
    assert [r.sha256 for r in second.receipts] == [r.sha256 for r in first.receipts]
    assert week.sent() == []


def test_a_second_home_sees_foreign_submissions_until_it_is_told_to_replace_them(week: Week, tmp_path: Path) -> None:
    first = week.play()
    week.sent()
    other = tmp_path / "other"
    looked = week.play(week.request(home=other))
    assert (looked.exit_code, [r.origin for r in looked.receipts]) == (0, ["foreign"] * 2)
    assert week.sent() == []
    # Nothing was fetched or trained for that.
    assert tree(other) == {"ledger.sqlite"}

    replaced = week.play(week.request(home=other, resubmit=True))
    assert [(r.status, r.origin, r.verified) for r in replaced.receipts] == [("submitted", "own", "bytes")] * 2
    assert week.sent() == ["submissionUploadAuth", "PUT", "createSubmission"] * 2
    made = week.accepted()["rehearsal_one"]
    assert [one.id for one in made] == [first.receipts[0].submission_id, replaced.receipts[0].submission_id]
    assert [one.selected for one in made] == [False, True]
    # The first home did not make what counts now, and leaves it alone.
    again = week.play()
    assert (again.exit_code, [r.origin for r in again.receipts]) == (0, ["foreign"] * 2)
    assert week.sent() == []


def test_a_slot_added_later_is_the_only_one_that_is_sent(week: Week) -> None:
    week.play(week.request(slots=["rehearsal_one"]))
    week.sent()
    result = week.play()
    assert [r.status for r in result.receipts] == ["already-submitted", "submitted"]
    assert week.sent() == ["submissionUploadAuth", "PUT", "createSubmission"]
    assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1)


def test_keys_that_may_not_download_verify_by_the_list(week: Week) -> None:
    week.local.set_scopes(["read_submission_info", "read_user_info", "upload_submission"])
    result = week.play()
    assert result.exit_code == 0
    assert [(r.status, r.verified) for r in result.receipts] == [("submitted", "listed")] * 2


def test_a_report_is_drawn_and_one_that_cannot_be_costs_nothing(
    week: Week, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    result = week.play(steps=plain_steps())
    assert result.report == week.home / "rounds" / "1401" / "report.html"
    assert result.report.read_text().startswith("<!")

    def broken(*_: object) -> Path:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("eraflow.report.write_report", broken)
    week.local.open_next_round()
    result = week.play(steps=plain_steps())
    assert (result.exit_code, result.report) == (0, None)
    assert "no fonts" in caplog.text
