"""What happens when a fresh model cannot be there in time: cut, replaced by an older one or a benchmark, or said."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from eraflow.budget import Budget
from eraflow.ledger import Ledger
from eraflow.rehearsal import Fault
from eraflow.request import Request
from eraflow.result import ModelReport, RoundResult
from eraflow.steps import Prepared
from eraflow.store import Store, exclusive
from eraflow.submission import _slot_lock
from eraflow.tournament import Slot, Tournament
from eraflow.trained import MODEL, SUMS
from eraflow.weekly import Steps
from tests.behaviour.week import Week, by_slot, without_report

ONE = ["rehearsal_one"]
BENCHMARK = {"fallback.benchmark": "v53_lgbm_ender60"}
# Epochs of this recipe are many and short, so that it can be stopped between two of them.
MANY_EPOCHS = {"training.epochs": "400"}


def with_time(stop: Callable[[], bool]) -> Steps:
    """The plain steps with a budget that is over as soon as `stop` says so, in place of the clock."""
    steps = without_report()

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Told(Budget):
        def is_over(self) -> bool:
            return stop()

    def find_budget(request: Request, recipe_of_slots: tuple[str, ...]) -> Budget:
        return Told(round=steps.find_budget(request, recipe_of_slots).round)

    return dataclasses.replace(steps, find_budget=find_budget)


def after_epochs(week: Week, epochs: int) -> Callable[[], bool]:
    """Time is over once some checkpoint holds that many epochs."""

    def over() -> bool:
        return any(_epochs(path) >= epochs for path in week.home.glob("models/*/holdout-0/checkpoint.safetensors"))

    return over


def _epochs(path: Path) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return len(json.loads(file.metadata()["eraflow"])["history"])
    except (OSError, SafetensorError):
        return 0  # it is being replaced


def the_receipt(result: RoundResult) -> tuple[str, str | None, str | bool]:
    receipt = by_slot(result)["rehearsal_one"]
    return receipt.status, receipt.source, receipt.verified


def trained_before(week: Week, **changes: object) -> str:
    """A round was played with the simple recipe, and the next one is open; returns the model's id."""
    first = week.play(week.request(slots=ONE))
    assert first.exit_code == 0
    path = next(week.home.glob(f"models/*/{MODEL}"))
    path.with_name(SUMS).unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made_at_utc": _weeks_ago(week, 1)} | changes))
    week.local.open_next_round(delay_s=0)
    return first.models[0].model_id


def _weeks_ago(week: Week, weeks: float) -> str:
    return (week.local.now_utc() - timedelta(weeks=weeks)).isoformat(timespec="seconds")


def test_training_that_would_overrun_the_deadline_is_cut_at_its_last_whole_epoch(week: Week) -> None:
    request = week.request(slots=ONE, assignments={**MANY_EPOCHS, "fallback.min_spearman": "-1"})
    result = week.play(request, steps=with_time(after_epochs(week, 2)))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
    assert result.models[0].cut
    assert by_slot(result)["rehearsal_one"].note == "its training was cut to be in time"
    assert len(week.accepted()["rehearsal_one"]) == 1


def test_a_cut_training_is_gone_on_with_when_there_is_time_again(week: Week) -> None:
    request = week.request(slots=ONE, assignments={**MANY_EPOCHS, "fallback.min_spearman": "-1"})
    cut = week.play(request, steps=with_time(after_epochs(week, 2)))
    week.local.open_next_round(delay_s=0)
    whole = week.play(week.request(slots=ONE, assignments=MANY_EPOCHS))
    assert (cut.models[0].cut, whole.models[0].cut) == (True, False)
    assert cut.models[0].model_id == whole.models[0].model_id, "the folder serves the same files in each round"


def test_without_time_for_an_epoch_the_newest_good_model_predicts_and_the_receipt_says_so(week: Week) -> None:
    model_id = trained_before(week, **{"validation": _validation(week, 0.05)})
    request = week.request(slots=ONE, assignments={"training.epochs": "7"})
    result = week.play(request, steps=with_time(lambda: True))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")
    receipt = by_slot(result)["rehearsal_one"]
    assert receipt.model_id == model_id
    assert model_id in str(receipt.note)


def _validation(week: Week, mean: float) -> dict[str, object]:
    return {
        "eras": 20, "undefined": 0, "spearman_mean": mean, "spearman_std": 0.1, "sharpe": 1.0, "max_drawdown": 0.0,
        "numerai_corr_mean": mean, "per_era": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_version": "v5.2"}, "is of data version v5.2, not v5.3"),
        ({"made_at_utc": "2020-01-01T00:00:00+00:00"}, "weeks old, above fallback.max_age_weeks"),
        ({"cut": True}, "was never finished"),
        ({"validation": "low"}, "not above fallback.min_spearman"),
        ({"validation": "undefined"}, "not above fallback.min_spearman"),
        ({"features": "gone"}, "needs feature_that_is_gone, which the live data no longer have"),
    ],
)
def test_a_model_that_is_not_good_never_stands_in(week: Week, changes: dict[str, object], said: str) -> None:
    made: dict[str, object] = {"validation": _validation(week, 0.05), **changes}
    if changes.get("validation"):
        made["validation"] = _validation(week, -0.01) | (
            {"spearman_mean": None} if changes["validation"] == "undefined" else {}
        )
    if "features" in changes:
        made["features"] = ["feature_that_is_gone"]
    trained_before(week, **made)
    result = week.play(week.request(slots=ONE, assignments={"training.epochs": "7"}), steps=with_time(lambda: True))
    receipt = by_slot(result)["rehearsal_one"]
    assert (receipt.status, receipt.error_code, result.exit_code) == ("failed", "no-stand-in", 1)
    assert said in str(receipt.error_message)
    assert week.accepted() == {}


def test_a_model_that_has_lost_its_weights_never_stands_in(week: Week) -> None:
    trained_before(week, **{"validation": _validation(week, 0.05)})
    for path in week.home.glob("models/*/holdout-0/fitted.safetensors"):
        path.unlink()
    result = week.play(week.request(slots=ONE, assignments={"training.epochs": "7"}), steps=with_time(lambda: True))
    assert "has lost its weights" in str(by_slot(result)["rehearsal_one"].error_message)


def test_a_model_that_was_trained_as_it_is_configured_goes_before_a_newer_experiment(week: Week) -> None:
    model_id = trained_before(week, **{"validation": _validation(week, 0.05)})
    tried = week.play(week.request(slots=[], submit=False, assignments={"training.epochs": "2"}))
    path = week.home / "models" / tried.models[0].model_id / MODEL
    path.with_name(SUMS).unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"validation": _validation(week, 0.9)}))
    result = week.play(dataclasses.replace(week.request(slots=ONE), train=False))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")
    assert by_slot(result)["rehearsal_one"].model_id == model_id


def test_a_model_of_a_gpu_that_has_gone_stands_in_all_the_same(week: Week) -> None:
    model_id = trained_before(week, **{"validation": _validation(week, 0.05)})
    path = week.home / "models" / model_id / "recipe.toml"
    path.write_text(path.read_text().replace('device = "cpu"', 'device = "cuda:7"'))
    result = week.play(dataclasses.replace(week.request(slots=ONE), train=False))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")


def test_where_no_older_model_can_predict_the_benchmark_is_sent_if_that_was_allowed(week: Week) -> None:
    trained_before(week, **{"validation": _validation(week, 0.05)})
    for path in week.home.glob("models/*/*/fitted.safetensors"):
        path.write_bytes(b"damaged")
    result = week.play(dataclasses.replace(week.request(slots=ONE, assignments=BENCHMARK), train=False))
    assert the_receipt(result) == ("submitted", "benchmark", "bytes")


def test_without_a_model_the_benchmark_is_sent_if_that_was_allowed(week: Week) -> None:
    result = week.play(week.request(slots=ONE, assignments=BENCHMARK), steps=with_time(lambda: True))
    assert the_receipt(result) == ("submitted", "benchmark", "bytes")
    assert by_slot(result)["rehearsal_one"].model_id is None


def test_a_benchmark_that_does_not_exist_is_refused_with_those_that_do(week: Week) -> None:
    request = week.request(slots=ONE, assignments={"fallback.benchmark": "v53_lgbm_typo"})
    result = week.play(request, steps=with_time(lambda: True))
    assert "has only: v53_lgbm_ender20, v53_lgbm_ender60" in str(by_slot(result)["rehearsal_one"].error_message)


def test_a_better_older_model_goes_before_a_cut_one(week: Week) -> None:
    model_id = trained_before(week, **{"validation": _validation(week, 0.9)})
    request = week.request(slots=ONE, assignments={**MANY_EPOCHS, "training.learning_rate": "0.002"})
    result = week.play(request, steps=with_time(after_epochs(week, 1)))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")
    assert by_slot(result)["rehearsal_one"].model_id == model_id


def test_a_slow_recipe_is_cut_in_time_by_the_clock_itself(week: Week) -> None:
    """No clock is stood in for: the deadline is seconds away and the whole training would take hours."""
    ledger = Ledger(Store.open(week.home).ledger_path, week.local.url)
    for stage in ("prediction", "submission"):
        ledger.note_stage(1400, stage, "simple-mlp", 1.0)
    closes_at_utc = Tournament.from_environment(week.environment).current_round().closes_at_utc
    week.local.move_clock((closes_at_utc - week.local.now_utc()).total_seconds() - 25)
    slow = {"training.epochs": "1000000", "fallback.min_spearman": "-1", "fallback.reserve_s": "12"}
    started = time.monotonic()
    result = week.play(week.request(slots=ONE, assignments=slow))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
    assert result.models[0].cut
    assert time.monotonic() - started < 25
    assert not week.accepted()["rehearsal_one"][0].late


def test_nothing_is_trained_in_a_run_that_was_told_so(week: Week) -> None:
    trained_before(week, **{"validation": _validation(week, 0.05)})
    before = len(week.local.requests)

    def fails(request: Request, prepared: Prepared, budget: Budget) -> ModelReport:
        raise AssertionError("it trains")

    request = dataclasses.replace(week.request(slots=ONE), train=False)
    result = week.play(request, steps=dataclasses.replace(without_report(), train=fails))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")
    fetched = {path.rpartition("/")[2] for method, path, _ in week.local.requests[before:] if method == "GET"}
    assert {name for name in fetched if name.endswith((".parquet", ".json"))} == {"live.parquet"}


def test_where_no_model_is_there_yet_one_is_trained_even_in_a_run_that_was_told_not_to(week: Week) -> None:
    result = week.play(dataclasses.replace(week.request(slots=ONE), train=False))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")


def test_a_round_that_opens_late_is_waited_for(week: Week) -> None:
    week.local.close_round()
    opening = threading.Timer(1.0, lambda: week.local.open_next_round(delay_s=0))
    opening.start()
    request = dataclasses.replace(week.request(slots=ONE), wait_s=60.0)
    result = week.play(request)
    opening.join()
    assert the_receipt(result) == ("submitted", "fresh", "bytes")


def test_where_late_ones_are_sent_a_run_that_waits_waits_for_the_next_round_all_the_same(week: Week) -> None:
    week.local.close_round()
    opening = threading.Timer(1.0, lambda: week.local.open_next_round(delay_s=0))
    opening.start()
    result = week.play(dataclasses.replace(week.request(slots=ONE, late="submit"), wait_s=60.0))
    opening.join()
    assert result.round == 1402
    assert the_receipt(result) == ("submitted", "fresh", "bytes")


def test_a_round_that_never_opens_is_given_up_after_the_time_that_was_asked_for(week: Week) -> None:
    week.local.close_round()
    result = week.play(dataclasses.replace(week.request(slots=ONE), wait_s=0.5))
    assert (result.exit_code, [r.status for r in result.receipts]) == (3, ["skipped"])


def test_a_stopped_run_that_holds_the_live_file_holds_nobody_up(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eraflow.files.LIVE_LOCK_S", 0.2, raising=False)
    trained_before(week, **{"validation": _validation(week, 0.05)})
    with exclusive(Store.open(week.home).round_folder(1402) / "live.parquet"):
        result = week.play(dataclasses.replace(week.request(slots=ONE), train=False))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")


def test_a_stopped_run_that_holds_a_slot_is_said(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eraflow.submission.SLOT_LOCK_S", 0.2, raising=False)
    slot = Slot(name=ONE[0], model_id="", hosted=False)
    opened = Tournament.from_environment().current_round()
    with exclusive(_slot_lock(Store.open(week.home), opened, slot)):
        result = week.play(week.request(slots=ONE))
    assert "in use by another process" in str(by_slot(result)[ONE[0]].error_message)
    assert week.accepted() == {}


HIGH_FLOOR = {"fallback.min_spearman": "0.99", "training.epochs": "2"}


def test_a_good_older_model_goes_before_a_fresh_one_that_is_not_good(week: Week) -> None:
    model_id = trained_before(week, **{"validation": _validation(week, 0.995)})
    result = week.play(week.request(slots=ONE, assignments=HIGH_FLOOR))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")
    receipt = by_slot(result)["rehearsal_one"]
    assert receipt.model_id == model_id
    assert "not above fallback.min_spearman = 0.99" in str(receipt.note)


def test_a_fresh_model_that_is_not_good_goes_before_one_of_another_recipe(week: Week) -> None:
    trained_before(week, **{"validation": _validation(week, 0.995)})
    result = week.play(week.request(slots=ONE, recipe="fastai-tabular", assignments=HIGH_FLOOR))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
    assert by_slot(result)["rehearsal_one"].recipe == "fastai-tabular"


def test_a_fresh_model_that_is_not_good_is_sent_where_nothing_stands_in_and_the_receipt_says_so(week: Week) -> None:
    result = week.play(week.request(slots=ONE, assignments=HIGH_FLOOR))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
    assert "not above fallback.min_spearman = 0.99" in str(by_slot(result)["rehearsal_one"].note)


def test_a_model_that_is_not_good_predicts_where_nothing_is_sent(week: Week) -> None:
    trained_before(week, **{"validation": _validation(week, 0.995)})
    result = week.play(week.request(slots=[], submit=False, assignments=HIGH_FLOOR))
    assert [model.epochs for model in result.models] == [2]


def test_a_fresh_model_that_is_not_good_is_sent_though_looking_for_another_fails(week: Week) -> None:
    """What stands in begins with the live file, asked for once more."""
    fail = Fault(where="get:live.parquet", what="status", code=403, times=None, after=1)
    week.local.faults.add(fail)
    result = week.play(week.request(slots=ONE, assignments=HIGH_FLOOR))
    assert week.struck(fail)
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
