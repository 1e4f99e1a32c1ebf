"""The loop: it learns, against the plain loop, twice the same, and what it tells and refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from eraflow.errors import InputError, TrainingError
from eraflow.inference import predict
from eraflow.models import ModelConfig
from eraflow.recipes import get
from eraflow.rows import Rows
from eraflow.runs import CHECKPOINT, read
from eraflow.speed import flop_a_row, flop_a_second
from eraflow.training import Fitted, TrainingConfig, fit, initial, pick_device
from tests.eraflow.fitting import (
    ERAWISE,
    ROWWISE,
    SMALL,
    assert_close_weights,
    market,
    plain_fit,
    run,
    run_members,
    same_weights,
)


def mean_spearman(fitted: Fitted, rows: Rows) -> float:
    kept = rows.labelled()
    return float(stats.spearmanr(predict([fitted.model], kept)[0], kept.target_M).statistic)


@pytest.mark.parametrize("training", [ROWWISE, ERAWISE])
def test_training_learns_the_signal(tmp_path: Path, training: TrainingConfig) -> None:
    unseen = market(5, first_era=40)
    fitted = run(tmp_path, training)
    untrained = dataclasses.replace(fitted, model=initial(SMALL, 12, 0))
    assert mean_spearman(fitted, unseen) > 0.5
    assert abs(mean_spearman(untrained, unseen)) < 0.4


@pytest.mark.parametrize("training", [ROWWISE, ERAWISE])
def test_a_seed_gives_the_same_weights_whatever_the_global_generator_holds(
    tmp_path: Path, training: TrainingConfig
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = run(tmp_path / "a", training)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        other = run(tmp_path / "b", training)
        assert torch.equal(torch.get_rng_state(), state)
    assert same_weights(one, other)
    assert not same_weights(one, run(tmp_path / "c", training, seed=1))


def test_simple_mlp_is_the_plain_torch_loop(tmp_path: Path) -> None:
    """The write-up's loop in our words: float rows in order, MSE, Adam, from the same initial weights."""
    recipe, rows = get("simple-mlp"), market(eras=12, rows=50).labelled()
    training = dataclasses.replace(recipe.training, batch_size=64, device="cpu")
    x = torch.empty((len(rows), 12))
    code = np.empty((len(rows), 12), np.int8)
    rows.gather(np.arange(len(rows)), code)
    x.copy_(torch.from_numpy(code)).div_(4).add_(0.5)
    y = torch.from_numpy(rows.target_M)[:, None]

    net = nn.Sequential(nn.Linear(12, 256), nn.ReLU(), nn.Linear(256, 1))
    start = initial(recipe.model, 12, 5).state_dict()
    net.load_state_dict({name.removeprefix("layers."): tensor for name, tensor in start.items()})
    adam, losses = torch.optim.Adam(net.parameters()), []
    for _ in range(6):
        for part_x, part_y in zip(torch.split(x, 64), torch.split(y, 64), strict=True):
            adam.zero_grad()
            loss = nn.functional.mse_loss(net(part_x), part_y)
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            adam.step()
            losses.append(loss.item())

    fitted = fit(rows, model=recipe.model, training=training, seeds=[5], folders=[tmp_path])[0]
    assert fitted.steps == len(losses)
    a_pass = len(losses) // 6
    expected = [np.mean(losses[i * a_pass : (i + 1) * a_pass]) for i in range(6)]
    np.testing.assert_allclose([entry["train_loss"] for entry in fitted.history], expected, rtol=1e-4)
    np.testing.assert_allclose(predict([fitted.model], rows)[0], net(x)[:, 0].detach().numpy(), rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_epoch(tmp_path: Path) -> None:
    rows = market().labelled()
    mine = dataclasses.replace(ROWWISE, shuffle=False, batch_size=len(rows) // 3, drop_last=True)
    wrong = rows.take(np.arange(len(rows)))
    wrong.target_M[len(rows) // 2] = np.inf
    with pytest.raises(TrainingError, match=r"it was inf at step 2 of 12; lower training\.learning_rate"):
        run(tmp_path / "a", mine, rows=wrong)
    hot = dataclasses.replace(mine, learning_rate=1e30)
    with pytest.raises(TrainingError, match="must be finite"):
        run(tmp_path / "b", hot, rows=rows, holdout=market(2))


def test_history_tells_each_epoch(tmp_path: Path) -> None:
    holdout = market(3, first_era=30)
    fitted = run(tmp_path, holdout=holdout)
    assert [entry["epoch"] for entry in fitted.history] == [1, 2, 3, 4]
    assert [entry["step"] for entry in fitted.history] == [6, 12, 18, 24]
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]
    kept = holdout.labelled()
    prediction = predict([fitted.model], kept)[0]
    last = fitted.history[-1]
    assert last["validation_loss"] == pytest.approx(np.mean((prediction - kept.target_M) ** 2), rel=1e-5)
    each = [
        stats.spearmanr(prediction[kept.era_M == era], kept.target_M[kept.era_M == era]).statistic
        for era in np.unique(kept.era_M)
    ]
    assert last["spearman_mean"] == pytest.approx(np.mean(each), abs=1e-12)
    assert last["undefined"] == 0
    json.dumps(fitted.history, allow_nan=False)


def test_eras_that_define_no_score_are_counted(tmp_path: Path) -> None:
    holdout = market(3, eras=2, first_era=30).labelled()
    holdout.target_M[holdout.era_M == 31] = 0.5
    assert {entry["undefined"] for entry in run(tmp_path, holdout=holdout).history} == {1}


def test_steps_rule_where_they_are_given(tmp_path: Path) -> None:
    fitted = run(tmp_path / "a", steps=9)
    assert (fitted.steps, [entry["step"] for entry in fitted.history]) == (9, [6, 9])
    fitted = run(tmp_path / "b", ERAWISE)
    assert [entry["step"] for entry in fitted.history] == [50, 100, 120]


def test_several_networks_predict_in_one_pass_as_each_alone(tmp_path: Path) -> None:
    fits, rows = [run(tmp_path / str(seed), seed=seed) for seed in (0, 1)], market(4)
    together = predict([fitted.model for fitted in fits], rows)
    assert together.dtype == np.float32
    for k, fitted in enumerate(fits):
        np.testing.assert_array_equal(together[k], predict([fitted.model], rows)[0])


def test_a_single_row_in_a_step_is_refused_with_batch_norm(tmp_path: Path) -> None:
    rows = market().labelled().take(np.arange(65))
    normed = dataclasses.replace(SMALL, batch_norm=True)
    with pytest.raises(TrainingError, match=r"single row; set training\.drop_last=true"):
        run(tmp_path, rows=rows, model=normed)
    dropping = dataclasses.replace(ROWWISE, drop_last=True)
    assert run(tmp_path, dropping, rows=rows, model=normed).steps == 4


def test_device_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(InputError, match="must be auto, cuda, mps or cpu, however it is 'gpu'"):
        pick_device("gpu")
    with pytest.raises(InputError, match="this machine has only"):
        pick_device("cuda:99")
    with pytest.raises(InputError, match="this machine has only"):
        pick_device("meta")


def test_models_and_training_import_with_torch_and_numpy_alone() -> None:
    script = (
        "import sys, eraflow.models, eraflow.training;"
        "print([name for name in ('prefect', 'pandas', 'safetensors', 'pyarrow', 'matplotlib', 'filelock',"
        " 'requests', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


# What the fast path must give whatever the shape: batches that are larger than the data, of one row, the last partial.
SHAPES: dict[str, tuple[Rows, TrainingConfig]] = {
    "batches of 64, the last partial": (market(), ROWWISE),
    "in order": (market(), dataclasses.replace(ROWWISE, shuffle=False)),
    "a batch larger than the data": (market(eras=2), dataclasses.replace(ROWWISE, batch_size=5000)),
    "one row": (market().labelled().take(np.arange(1)), ROWWISE),
    "a last batch of one row": (market().labelled().take(np.arange(65)), ROWWISE),
    "steps of a row": (market().labelled().take(np.arange(9)), dataclasses.replace(ROWWISE, batch_size=1)),
    "whole eras": (market(), ERAWISE),
    "one era": (market(eras=1), ERAWISE),
    "more eras a step than there are": (market(eras=2), ERAWISE),
    "an era of one row": (market().take(np.arange(39, 400)), ERAWISE),
    "decay": (market(), dataclasses.replace(ROWWISE, optimizer="adamw", weight_decay=0.1)),
}


@pytest.mark.parametrize("model", [SMALL, ModelConfig(hidden=(16,), input="unit")], ids=["deep", "write-up"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loop_gives_what_the_plain_one_does(tmp_path: Path, shape: str, model: ModelConfig) -> None:
    rows, training = SHAPES[shape]
    # A correlation does not know the last bias: its slope is rounding, of which Adam would make whole steps.
    training = dataclasses.replace(training, schedule="constant", eps=1e-3)
    fits = run_members([tmp_path / "0", tmp_path / "1"], training, [0, 1], rows=rows, model=model, steps=12)
    for seed, fitted in enumerate(fits):
        assert_close_weights(fitted.model, plain_fit(rows, model, training, seed, 12))


def test_on_a_processor_a_loss_that_is_not_finite_ends_the_run_at_that_step(tmp_path: Path) -> None:
    rows = market().labelled()
    in_order = dataclasses.replace(ROWWISE, shuffle=False, batch_size=30)
    run(tmp_path / "a", in_order, steps=24, rows=rows)
    wrong = rows.take(np.arange(len(rows)))
    wrong.target_M[30 * 3 + 1] = np.inf
    asked: list[int] = []

    def never() -> bool:
        asked.append(1)
        return False

    with pytest.raises(TrainingError, match=r"it was inf at step 4 of 24"):
        run(tmp_path / "b", in_order, steps=24, rows=wrong, enough=never)
    assert len(asked) == 4


def test_the_last_good_checkpoint_outlives_a_run_that_diverges(tmp_path: Path) -> None:
    seen = market().labelled()

    class Spoil:
        """After the second epoch a weight is no longer finite, as when a slope overflows in the last step of one."""

        def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
            if text.startswith("training loss") and done == 12:
                seen.target_M[:] = 3e38

    with pytest.raises(TrainingError, match="finite"):
        run(tmp_path, dataclasses.replace(ROWWISE, learning_rate=1e3), rows=seen, progress=Spoil())
    tensors, told = read(tmp_path / CHECKPOINT)
    assert told["step"] == 12
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_a_weight_that_is_not_finite_is_never_kept(tmp_path: Path) -> None:
    """The loss of the last step of an epoch may be finite where the weights after it are not."""
    rows = market().labelled()
    hot = dataclasses.replace(ROWWISE, learning_rate=3e38, batch_size=len(rows))
    with pytest.raises(TrainingError, match=r"all weights must be finite after step 1, however"):
        run(tmp_path, hot, rows=rows)
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_tells_its_share_of_the_machines_own_speed_and_a_short_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def watch(stage: str, done: float, total: float, text: str = "") -> None:
        told.append(text)

    run(tmp_path / "a", ERAWISE, progress=watch)
    assert not any("matrix products" in text for text in told)
    monkeypatch.setattr("eraflow.speed.WORTH_MEASURING_FLOP", 0)
    run(tmp_path / "b", ERAWISE, progress=watch)
    assert any(
        re.search(r"loss -?[\d.]+, [\d,]+ rows/s, \d+% of this machine's matrix products", text) for text in told
    )


def test_what_a_row_costs_in_products_is_counted() -> None:
    # 10 x 4 forward and weights, 4 x 1 forward, weights and input; two operations each, two members.
    assert flop_a_row(ModelConfig(hidden=(4,)), 10, 2) == 2 * 2 * (2 * 40 + 3 * 4)
    assert flop_a_second(torch.device("cpu")) > 1e8
