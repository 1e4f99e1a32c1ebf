"""Which predicts, a fresh model that is cut or not good or an older one, and what cannot keep either from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from eraflow.fallback import StandIn
from eraflow.request import Request
from eraflow.result import ModelReport
from eraflow.rounds import Round
from eraflow.trained import MODEL, SUMS
from eraflow.weekly import Steps
from tests.behaviour.test_deadline import (
    HIGH_FLOOR,
    MANY_EPOCHS,
    ONE,
    _validation,
    after_epochs,
    the_receipt,
    trained_before,
    with_time,
)
from tests.behaviour.week import Week, by_slot, without_report

OTHER_TARGET = {**HIGH_FLOOR, "data.target": "target_ender_20"}


def test_an_older_model_of_another_target_never_goes_before_a_fresh_one_that_may_be_sent(week: Week) -> None:
    trained_before(week, **{"validation": _validation(week, 0.995)})
    result = week.play(week.request(slots=ONE, assignments=OTHER_TARGET))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
    assert result.models[-1].target == "target_ender_20"


def test_a_better_older_model_of_another_target_never_goes_before_a_cut_one(week: Week) -> None:
    trained_before(week, **{"validation": _validation(week, 0.9)})
    cut = {**MANY_EPOCHS, "fallback.min_spearman": "-1", "data.target": "target_ender_20"}
    result = week.play(week.request(slots=ONE, assignments=cut), steps=with_time(after_epochs(week, 1)))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
    assert result.models[-1].cut


def test_the_target_of_an_older_model_is_compared_with_the_one_that_the_data_had(week: Week, tmp_path: Path) -> None:
    toml = tmp_path / "weekly.toml"
    toml.write_text('[variants.mine]\nrecipe = "simple-mlp"\ndata.target = "target_that_is_gone"\n')
    week.play(week.request(slots=ONE, recipe="mine", config_file=toml))
    path = next(week.home.glob(f"models/*/{MODEL}"))
    path.with_name(SUMS).unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"validation": _validation(week, 0.995)}))
    week.local.open_next_round(delay_s=0)
    result = week.play(week.request(slots=ONE, recipe="mine", config_file=toml, assignments=HIGH_FLOOR))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")
    assert [model.target for model in result.models] == ["target", "target"]


def looking_for_another(raises: Exception, steps: Steps) -> Steps:
    def fails(request: Request, opened: Round, recipe: str, why: str, fresh: ModelReport | None) -> StandIn:
        raise raises

    return dataclasses.replace(steps, stand_in=fails)


@pytest.mark.parametrize("cut", [False, True], ids=["not good", "cut"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        TimeoutError("the task took more than 1800 s"),
        AttributeError("'NoneType' object has no attribute 'pop'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fresh_model_that_may_be_sent_predicts_whatever_is_raised_where_another_is_looked_for(
    week: Week, error: Exception, cut: bool, caplog: pytest.LogCaptureFixture
) -> None:
    few = {**MANY_EPOCHS, "fallback.min_spearman": "-1"} if cut else HIGH_FLOOR
    steps = with_time(after_epochs(week, 1)) if cut else without_report()
    result = week.play(week.request(slots=ONE, assignments=few), steps=looking_for_another(error, steps))
    assert the_receipt(result) == ("submitted", "fresh", "bytes")
    assert result.models[0].cut == cut
    told = [message for message in caplog.messages if "it predicts all the same" in message]
    assert len(told) == 1
    assert type(error).__name__ in told[0]


def cut_and_not_good(week: Week) -> Request:
    return week.request(slots=ONE, assignments={**MANY_EPOCHS, "fallback.min_spearman": "0.99"})


def test_a_fresh_model_that_is_cut_and_not_good_is_not_sent_even_where_nothing_stands_in(week: Week) -> None:
    result = week.play(cut_and_not_good(week), steps=with_time(after_epochs(week, 1)))
    receipt = by_slot(result)["rehearsal_one"]
    assert (receipt.status, receipt.error_code, result.models[0].cut) == ("failed", "no-stand-in", True)
    assert week.accepted() == {}


def test_a_fresh_model_that_is_cut_and_not_good_is_not_sent_though_looking_for_another_fails(week: Week) -> None:
    steps = looking_for_another(MemoryError(), with_time(after_epochs(week, 1)))
    result = week.play(cut_and_not_good(week), steps=steps)
    receipt = by_slot(result)["rehearsal_one"]
    assert (receipt.status, receipt.error_code) == ("failed", "no-memory")
    assert week.accepted() == {}


@pytest.mark.parametrize("raises", [None, MemoryError()], ids=["nothing", "MemoryError"])
def test_a_round_that_opens_where_another_model_is_looked_for_is_started_over_on(
    weeks: Week, raises: Exception | None
) -> None:
    steps, opened = without_report(), list[int]()

    def stand_in(request: Request, number: Round, recipe: str, why: str, fresh: ModelReport | None) -> StandIn:
        if not opened:
            opened.append(weeks.local.open_next_round())
            if raises is not None:
                raise raises
        return steps.stand_in(request, number, recipe, why, fresh)

    result = weeks.play(weeks.request(assignments=HIGH_FLOOR), steps=dataclasses.replace(steps, stand_in=stand_in))
    assert (result.round, result.exit_code) == (1402, 0)
    assert [one.round for one in weeks.local.submissions()] == [1402, 1402]


@pytest.mark.parametrize("damaged", ["null", "[]", '{"features": 3}', "times"])
def test_a_damaged_model_keeps_no_other_from_standing_in(week: Week, damaged: str) -> None:
    model_id = trained_before(week, **{"validation": _validation(week, 0.05)})
    whole = week.home / "models" / model_id
    other = whole.with_name("damaged")
    other.mkdir()
    (other / "recipe.toml").write_bytes((whole / "recipe.toml").read_bytes())
    without_time = json.dumps(json.loads((whole / MODEL).read_text()) | {"made_at_utc": None})
    (other / MODEL).write_text(without_time if damaged == "times" else damaged)
    result = week.play(dataclasses.replace(week.request(slots=ONE), train=False))
    assert the_receipt(result) == ("submitted", "older-model", "bytes")
    assert by_slot(result)["rehearsal_one"].model_id == model_id
