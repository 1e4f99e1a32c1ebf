"""The loop: against a plain torch loop, against fastai's recorded run, twice the same, and through kills."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import nn

import eraflow.training
from eraflow.errors import InputError, TrainingError
from eraflow.models import Mlp, ModelConfig
from eraflow.optimization import SCHEDULES, era_pearson, optimizer_for, set_rate
from eraflow.recipes import get
from eraflow.rows import Plan, Rows
from eraflow.training import (
    CHECKPOINT,
    FINISHED,
    Fitted,
    TrainingConfig,
    fit,
    initial,
    load_fitted,
    pick_device,
    predict,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "fastai_2_8_12.json").read_text())

SMALL = ModelConfig(hidden=(16, 8), activation="silu", dropout=0.2)
ROWWISE = TrainingConfig(epochs=4, batch_size=64, shuffle=True, learning_rate=3e-3, device="cpu")
ERAWISE = TrainingConfig(
    loss="era_pearson",
    optimizer="adamw",
    schedule="warmup_cosine",
    steps=120,
    eras_per_step=3,
    shuffle=True,
    device="cpu",
)


def market(seed: int = 0, *, eras: int = 10, rows: int = 40, features: int = 12, first_era: int = 1) -> Rows:
    """Rows with a linear signal; one in ten has no target."""
    rng = np.random.default_rng(seed)
    code = rng.integers(-2, 3, (eras * rows, features)).astype(np.int8)
    score = code[:, :3].sum(1) + rng.standard_normal(len(code))
    target = (np.digitize(score, [-3, -1, 1, 3]) / 4).astype(np.float32)
    target[rng.random(len(code)) < 0.1] = np.nan
    return Rows.of(code, target, np.repeat(np.arange(first_era, first_era + eras, dtype=np.int32), rows))


def run(folder: Path, training: TrainingConfig = ROWWISE, seed: int = 0, **more: Any) -> Fitted:
    return fit(more.pop("rows", market()), model=SMALL, training=training, seed=seed, folder=folder, **more)


def same_weights(one: Fitted, other: Fitted) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def mean_spearman(fitted: Fitted, rows: Rows) -> float:
    kept = rows.labelled()
    return float(stats.spearmanr(predict([fitted.model], kept)[0], kept.target_M).statistic)


class Killed(Exception):
    """What a test raises in the middle of a run."""


class KillAfter:
    """A progress that ends the run at the `calls`-th whole epoch."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
        if text.startswith("training loss"):
            self.left -= 1
            if not self.left:
                raise Killed


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


@pytest.mark.parametrize("training", [ROWWISE, ERAWISE])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    tmp_path: Path, training: TrainingConfig, epochs: int
) -> None:
    holdout = market(3, first_era=30)
    whole = run(tmp_path / "whole", training, holdout=holdout)
    with pytest.raises(Killed):
        run(tmp_path / "killed", training, holdout=holdout, progress=KillAfter(epochs))
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    seen: list[float] = []
    resumed = run(
        tmp_path / "killed", training, holdout=holdout, progress=lambda stage, done, total, text="": seen.append(done)
    )
    assert min(seen) > whole.history[epochs - 1]["step"]
    assert same_weights(whole, resumed)
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


def test_a_finished_folder_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path, holdout=market(3, first_era=30))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FINISHED]
    second = run(tmp_path, holdout=market(3, first_era=30), progress=KillAfter(1))
    assert same_weights(first, second)
    assert (second.history, second.steps, second.rows) == (first.history, first.steps, first.rows)
    loaded = load_fitted(tmp_path, SMALL, "cpu")
    assert same_weights(first, loaded)
    assert loaded.history == first.history


@pytest.mark.parametrize("what", ["rows", "seed", "training"])
def test_what_was_made_from_other_things_is_not_gone_on_from(tmp_path: Path, what: str) -> None:
    run(tmp_path)
    values: dict[str, Any] = {
        "rows": market(1),
        "seed": 1,
        "training": dataclasses.replace(ROWWISE, learning_rate=1e-3),
    }
    changed = {what: values[what]}
    assert same_weights(run(tmp_path, **changed), run(tmp_path / "fresh", **changed))


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 100])
def test_a_damaged_checkpoint_is_trained_anew(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "a", progress=KillAfter(2))
    (tmp_path / "a" / CHECKPOINT).write_bytes(damage)
    assert same_weights(run(tmp_path / "a"), run(tmp_path / "b"))


def test_a_missing_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"fitted\.safetensors must hold a trained network"):
        load_fitted(tmp_path, SMALL)


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

    fitted = fit(rows, model=recipe.model, training=training, seed=5, folder=tmp_path)
    assert fitted.steps == len(losses)
    a_pass = len(losses) // 6
    expected = [np.mean(losses[i * a_pass : (i + 1) * a_pass]) for i in range(6)]
    np.testing.assert_allclose([entry["train_loss"] for entry in fitted.history], expected, rtol=1e-4)
    np.testing.assert_allclose(predict([fitted.model], rows)[0], net(x)[:, 0].detach().numpy(), rtol=1e-3, atol=1e-4)


def _from_fastai(names: dict[str, list[Any]]) -> dict[str, torch.Tensor]:
    """fastai's weights under our names."""
    ours = {"bn_cont": "input_norm", "layers.0.0": "layers.0", "layers.0.2": "layers.2"}
    ours |= {"layers.1.0": "layers.3", "layers.1.2": "layers.5", "layers.2.0": "layers.6"}
    return {
        f"{ours[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": torch.tensor(value)
        for name, value in names.items()
    }


def _tiny_fastai() -> tuple[Mlp, TrainingConfig]:
    recipe = get("fastai-tabular")
    return initial(dataclasses.replace(recipe.model, hidden=(3, 3)), 4, 0), recipe.training


def test_architecture_is_fastais() -> None:
    net, _ = _tiny_fastai()
    theirs = {name: list(tensor.shape) for name, tensor in _from_fastai(GOLDEN["start"]).items()}
    assert {name: list(tensor.shape) for name, tensor in net.state_dict().items()} == theirs
    layers = [line.split(": ", 1)[1] for line in GOLDEN["architecture_200"].splitlines() if ": " in line]
    flat = [text for text in layers if not text.endswith("(") and "Dropout" not in text and "ModuleList" not in text]
    ours = str(initial(get("fastai-tabular").model, 4, 0)).replace("ReLU()", "ReLU(inplace=True)").splitlines()
    assert [line.split(": ", 1)[1] for line in ours if ": " in line and not line.endswith("(")] == flat


def test_norms_start_as_fastais() -> None:
    start, net = _from_fastai(GOLDEN["start"]), _tiny_fastai()[0].state_dict()
    for name in ("input_norm.weight", "input_norm.bias", "layers.2.weight", "layers.2.bias", "layers.5.bias"):
        torch.testing.assert_close(net[name], start[name])


def test_a_whole_run_of_fastai_is_reproduced_step_by_step() -> None:
    """Loss, learning rate, momentum and every weight after each of the recorded steps, from fastai's own start."""
    net, training = _tiny_fastai()
    net.load_state_dict(_from_fastai(GOLDEN["start"]))
    net.train()
    optimizer, steps = optimizer_for(training, net), GOLDEN["steps"]
    for number, step in enumerate(steps):
        rate, momentum = SCHEDULES[training.schedule](training, number, len(steps))
        assert [rate, momentum] == [pytest.approx(step["lr"], rel=1e-5), pytest.approx(step["mom"], rel=1e-6)]
        set_rate(optimizer, rate, momentum)
        optimizer.zero_grad()
        code = torch.tensor(step["features"]) * 4 - 2
        loss = nn.functional.mse_loss(net(code).squeeze(1), torch.tensor(step["target"]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        optimizer.step()
        assert loss.item() == pytest.approx(step["loss"], rel=1e-5)
        for name, expected in _from_fastai(step["weights"]).items():
            torch.testing.assert_close(net.state_dict()[name], expected, rtol=1e-4, atol=2e-6)


def test_optimiser_and_schedule_have_fastais_values() -> None:
    _, training = _tiny_fastai()
    for point in GOLDEN["schedule"][:-1]:
        found = SCHEDULES["one_cycle"](training, int(point["position"] * 16), 16)
        assert list(found) == [pytest.approx(point["lr"], rel=1e-5), pytest.approx(point["mom"], rel=1e-6)]
    first = GOLDEN["steps"][0]
    assert (training.eps, training.betas[1], training.weight_decay) == (first["eps"], first["sqr_mom"], first["wd"])
    assert (training.shuffle, training.drop_last) == (GOLDEN["shuffle"], GOLDEN["drop_last"])
    defaults = GOLDEN["defaults"]
    assert [training.cycle_div, training.cycle_div_final, training.cycle_rise_share] == [
        float(defaults["fit_one_cycle"][key]) for key in ("div", "div_final", "pct_start")
    ]
    assert str(training.cycle_momenta) == defaults["Learner"]["moms"]
    assert training.learning_rate == float(defaults["Learner"]["lr"])


def test_norms_and_biases_are_not_decayed() -> None:
    net, training = _tiny_fastai()
    spared = optimizer_for(training, net).param_groups[1]
    assert spared["weight_decay"] == 0
    assert len(spared["params"]) == len(GOLDEN["without_decay"])


def test_era_pearson_is_minus_the_mean_correlation_of_the_eras() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 30)).astype(np.float32)
    parts = [slice(0, 5), slice(5, 25), slice(25, 30)]
    expected = -np.mean([np.corrcoef(prediction[part], target[part])[0, 1] for part in parts])
    found = era_pearson(torch.from_numpy(prediction), torch.from_numpy(target), [5, 20, 5])
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("constant", ["prediction", "target", "one row"])
def test_an_era_without_a_correlation_counts_as_0_and_gives_no_nan(constant: str) -> None:
    prediction = torch.ones(4) if constant == "prediction" else torch.arange(4.0)
    target = torch.ones(4) if constant == "target" else torch.arange(4.0)
    sizes = [1, 3] if constant == "one row" else [4]
    prediction.requires_grad_()
    loss = era_pearson(prediction, target, sizes)
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
    assert loss.item() == pytest.approx(-0.5 if constant == "one row" else 0, abs=1e-6)
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


def test_warm_up_rises_to_the_peak_and_falls_by_a_cosine() -> None:
    rates = [SCHEDULES["warmup_cosine"](ERAWISE, step, 120)[0] for step in range(120)]
    peak = ERAWISE.learning_rate
    assert rates[:7] == pytest.approx([peak * (i + 1) / 6 for i in range(6)] + [peak])
    assert rates[6 + 57] == pytest.approx(peak / 2)
    assert rates[-1] == pytest.approx(peak / 2 * (1 - math.cos(math.pi / 114)))


def test_a_pass_sees_every_row_once_and_shuffles_anew() -> None:
    rows = market().labelled()
    plan = Plan(rows, ROWWISE, 0, None)
    passes = [
        np.concatenate([plan.batch(p * plan.steps_a_pass + i)[0] for i in range(plan.steps_a_pass)]) for p in (0, 1)
    ]
    for seen in passes:
        assert sorted(seen) == list(range(len(rows)))
    assert not np.array_equal(passes[0], passes[1])
    assert plan.steps == 4 * math.ceil(len(rows) / 64)


def test_drop_last_drops_the_partial_batch_unless_it_is_the_only_one() -> None:
    rows = market().labelled()
    dropping = dataclasses.replace(ROWWISE, drop_last=True)
    plan = Plan(rows, dropping, 0, None)
    assert {len(plan.batch(step)[0]) for step in range(plan.steps)} == {64}
    few = Plan(rows.take(np.arange(10)), dropping, 0, None)
    assert (few.steps, len(few.batch(0)[0])) == (4, 10)


def test_steps_are_of_whole_eras() -> None:
    rows = market().labelled().by_era()
    plan = Plan(rows, ERAWISE, 0, None)
    index, sizes = plan.batch(6)
    eras = rows.era_M[index]
    assert len(sizes) == len(np.unique(eras)) == 3
    for era in np.unique(eras):
        assert (eras == era).sum() == (rows.era_M == era).sum()
    assert len(index) <= plan.largest


def test_rows_without_a_target_are_never_trained_on(tmp_path: Path) -> None:
    rows = market()
    labelled = rows.labelled()
    assert len(labelled) < len(rows)
    assert same_weights(run(tmp_path / "a", rows=rows), run(tmp_path / "b", rows=labelled))
    assert run(tmp_path / "a", rows=rows).rows == len(labelled)
    with pytest.raises(TrainingError, match="none of the 400 given has one"):
        run(tmp_path / "c", rows=Rows.of(np.zeros((400, 12), np.int8), None, np.ones(400, np.int32)))


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


def test_rows_of_two_matrices_are_those_of_one(tmp_path: Path) -> None:
    """A refit reads train and validation without joining their matrices; here with columns in different places."""
    one, other = market(1), market(2, first_era=20)
    code = np.empty((800, 12), np.int8)
    one.gather(np.arange(400), code[:400])
    other.gather(np.arange(400), code[400:])
    target, era = np.concatenate([one.target_M, other.target_M]), np.concatenate([one.era_M, other.era_M])
    whole = Rows.of(code, target, era)
    shift: npt.NDArray[np.int64] = np.roll(np.arange(12), 3)
    moved = Rows.of(np.ascontiguousarray(code[400:][:, shift]), target[400:], era[400:], columns=np.argsort(shift))
    both = Rows.joined([one, moved])
    assert same_weights(run(tmp_path / "a", rows=whole), run(tmp_path / "b", rows=both))
    chosen = np.array([799, 0, 400, 5])
    found = np.empty((4, 12), np.int8)
    both.take(np.arange(800)[::-1]).gather(799 - chosen, found)
    np.testing.assert_array_equal(found, code[chosen])


def test_several_networks_predict_in_one_pass_as_each_alone(tmp_path: Path) -> None:
    fits, rows = [run(tmp_path / str(seed), seed=seed) for seed in (0, 1)], market(4)
    together = predict([fitted.model for fitted in fits], rows)
    assert together.dtype == np.float32
    for k, fitted in enumerate(fits):
        np.testing.assert_array_equal(together[k], predict([fitted.model], rows)[0])


def test_a_checkpoint_of_another_kind_of_device_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "a", progress=KillAfter(2))
    read = eraflow.training._read

    def as_from_cuda(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, told = read(path)
        return tensors | {"masks": torch.zeros(16, dtype=torch.uint8)}, told | {"device": "cuda"}

    monkeypatch.setattr(eraflow.training, "_read", as_from_cuda)
    seen: list[float] = []
    run(tmp_path / "a", progress=lambda stage, done, total, text="": seen.append(done))
    assert min(seen) == 6


def test_a_single_row_in_a_step_is_refused_with_batch_norm(tmp_path: Path) -> None:
    rows = market().labelled().take(np.arange(65))
    normed = dataclasses.replace(SMALL, batch_norm=True)
    with pytest.raises(TrainingError, match=r"single row; set training\.drop_last=true"):
        fit(rows, model=normed, training=ROWWISE, seed=0, folder=tmp_path)
    dropping = dataclasses.replace(ROWWISE, drop_last=True)
    assert fit(rows, model=normed, training=dropping, seed=0, folder=tmp_path).steps == 4


def test_device_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(InputError, match="must be auto, cuda, mps or cpu, however it is 'gpu'"):
        pick_device("gpu")
    with pytest.raises(InputError, match="this machine has only"):
        pick_device("cuda:99")
    with pytest.raises(InputError, match="this machine has only"):
        pick_device("meta")


def test_weights_on_disk_are_plain_safetensors(tmp_path: Path) -> None:
    fitted = run(tmp_path)
    stored = load_file(tmp_path / FINISHED)
    assert stored.keys() == {f"model.{name}" for name in fitted.model.state_dict()}


def test_models_and_training_import_with_torch_and_numpy_alone() -> None:
    script = (
        "import sys, eraflow.models, eraflow.training;"
        "print([name for name in ('prefect', 'pandas', 'safetensors', 'pyarrow', 'matplotlib', 'filelock',"
        " 'requests', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
