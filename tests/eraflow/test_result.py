"""What a round came to, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eraflow.errors import ClosedError, DataError
from eraflow.measure import Cost
from eraflow.receipt import Receipt
from eraflow.result import ModelReport, RoundResult, error_entry, json_object, summary_text


def model(**changed: Any) -> ModelReport:
    values: dict[str, Any] = {
        "recipe": "simple-mlp", "model_id": "abc", "folder": Path("/models/abc"), "device": "cpu", "rows": 12345,
        "features": 780, "target": "target_ender_60", "epochs": 6, "refit": False, "untrained_spearman": 0.001,
        "validation": {
            "eras": 20, "undefined": 1, "spearman_mean": 0.0123, "spearman_std": 0.02, "sharpe": 0.6,
            "max_drawdown": 0.1, "numerai_corr_mean": 0.011,
        },
    }  # fmt: skip
    return ModelReport(**{**values, **changed})


def receipt(**changed: Any) -> Receipt:
    values: dict[str, Any] = {
        "round": 7, "slot": "one", "recipe": "simple-mlp", "source": "fresh", "status": "submitted",
        "submission_id": "s1", "sha256": "ab12", "verified": "bytes", "origin": "own",
        "sent_at_utc": "2026-08-22T12:04:08+00:00",
    }  # fmt: skip
    return Receipt(**{**values, **changed})


def lost(**changed: Any) -> Receipt:
    nothing: dict[str, Any] = {
        "submission_id": None, "sha256": None, "verified": False, "origin": None, "source": None, "sent_at_utc": None,
    }  # fmt: skip
    return receipt(**{**nothing, **changed})


CLOSED = lost(status="skipped", error_code="round-closed", error_message="too late", exit_code=3)
DAMAGED = lost(slot="two", status="failed", error_code="data-refused", error_message="no rows", exit_code=5)


def test_the_json_has_the_keys_of_the_contract() -> None:
    result = RoundResult(
        round=7, models=(model(rows_a_second=21000.0, share_of_products=0.84),), receipts=(receipt(),),
        costs={"training": Cost(seconds=1.23456, peak_rss_bytes=5, peak_anonymous_bytes=3), "report": Cost()},
        wall_s=1.5, peak_rss_bytes=5, peak_anonymous_bytes=4, report=Path("/rounds/7/report.md"),
    )  # fmt: skip
    found = json.loads(json.dumps(json_object(result), allow_nan=False))
    assert set(found) == {
        "round", "models", "submissions", "report", "seconds", "wall_s", "peak_bytes", "peak_rss_bytes",
        "peak_anonymous_bytes",
    }  # fmt: skip
    assert {"recipe", "device", "rows", "features", "target", "epochs", "refit", "validation"} <= set(
        found["models"][0]
    )
    assert {"eras", "undefined", "spearman_mean", "spearman_std", "sharpe", "max_drawdown", "numerai_corr_mean"} == set(
        found["models"][0]["validation"]
    )
    assert found["submissions"] == [
        {
            "model": "one", "recipe": "simple-mlp", "source": "fresh", "model_id": None, "submission_id": "s1",
            "sha256": "ab12", "status": "submitted", "verified": "bytes", "origin": "own",
            "sent_at_utc": "2026-08-22T12:04:08+00:00",
        }
    ]  # fmt: skip
    assert (found["seconds"], found["report"]) == ({"training": 1.235, "report": 0.0}, "/rounds/7/report.md")
    assert found["wall_s"] == 1.5
    assert found["peak_bytes"] == {
        "training": {"rss": 5, "anonymous": 3}, "report": {"rss": None, "anonymous": None},
    }  # fmt: skip
    assert (found["models"][0]["rows_a_second"], found["models"][0]["share_of_products"]) == (21000.0, 0.84)


def test_nothing_is_null_and_not_verified_is_false() -> None:
    found = json_object(RoundResult(round=None, models=(model(epochs=None),), receipts=(lost(status="skipped"),)))
    assert (found["round"], found["report"], found["models"][0]["epochs"]) == (None, None, None)
    assert found["submissions"][0]["verified"] is False
    assert "error" not in found
    assert "error" not in found["submissions"][0]


def test_the_error_of_a_slot_stands_beside_it_and_at_the_top() -> None:
    found = json_object(RoundResult(round=7, receipts=(receipt(), CLOSED)))
    assert found["submissions"][1]["error"] == found["error"] == {"code": "round-closed", "message": "too late"}


def test_the_error_of_the_round_comes_before_that_of_a_slot() -> None:
    result = RoundResult(round=7, receipts=(CLOSED,), error=error_entry(DataError("damaged", code="special")))
    assert json_object(result)["error"] == {"code": "special", "message": "damaged"}


@pytest.mark.parametrize(
    ("receipts", "exit_code"),
    [
        ((), 0), ((receipt(),), 0), ((receipt(status="already-submitted"),), 0), ((lost(status="skipped"),), 0),
        ((receipt(), CLOSED), 3), ((CLOSED, DAMAGED), 5), ((receipt(verified=False, exit_code=1), CLOSED), 3),
    ],
)  # fmt: skip
def test_the_exit_code_is_the_worst_of_all_slots(receipts: tuple[Receipt, ...], exit_code: int) -> None:
    assert RoundResult(round=7, receipts=receipts).exit_code == exit_code


def test_the_rounds_own_error_counts_too() -> None:
    result = RoundResult(round=7, receipts=(CLOSED,), error=error_entry(DataError("damaged")))
    assert result.exit_code == 5
    assert RoundResult(round=None, error=error_entry(ClosedError("closed"))).exit_code == 3


def test_people_are_told_the_receipt_in_full() -> None:
    text = summary_text(
        RoundResult(round=7, models=(model(notes=("a note",)),), receipts=(receipt(),), report=Path("/r/report.md"))
    )
    for part in (
        "round 7", "12,345 rows x 780 features", "target target_ender_60", "0.0123 (untrained 0.0010)",
        "20 eras scored", "1 undefined", "note: a note", "slot one: submitted, verified by bytes",
        "submission s1, sha256 ab12",
        "report /r/report.md",
    ):  # fmt: skip
        assert part in text


def test_people_are_told_how_fast_it_was_and_where_the_time_and_the_memory_went() -> None:
    fast = model(rows_a_second=21000.0, share_of_products=0.84)
    costs = {
        stage: Cost(seconds=s) for stage, s in (("round", 0.1), ("dataset", 9.0), ("training", 70.0), ("refit", 60.0))
    }
    text = summary_text(RoundResult(round=7, models=(fast,), costs=costs, wall_s=140.0, peak_rss_bytes=3 << 30))
    assert "    trained at 21,000 rows/s, 84% of this machine's matrix products\n" in text
    assert "  time 140.0 s (training 70.0, refit 60.0, dataset 9.0), memory 3,072 MiB at most" in text
    assert "trained at" not in summary_text(RoundResult(round=7, models=(model(),)))


def test_people_are_told_what_is_not_verified_or_not_ours() -> None:
    text = summary_text(RoundResult(round=7, receipts=(receipt(verified=False, sha256=None),)))
    assert "NOT VERIFIED" in text
    assert "sha256 unknown" in text
    foreign = summary_text(RoundResult(round=7, receipts=(receipt(status="already-submitted", origin="foreign"),)))
    assert "already-submitted, made by somebody else, verified by bytes" in foreign


def test_figures_that_are_undefined_are_said_so() -> None:
    found = {**model().validation, "spearman_mean": None, "sharpe": None}
    text = summary_text(RoundResult(round=None, models=(model(validation=found, untrained_spearman=None),)))
    assert text.startswith("no round")
    assert "Spearman undefined (untrained undefined), Sharpe undefined" in text
