"""Several targets: a step is autograd's, what is not known counts nothing, and the first output alone predicts."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from eraflow import batches
from eraflow.batches import Batches, Way
from eraflow.errors import InputError
from eraflow.inference import predict
from eraflow.members import Members
from eraflow.models import Mlp, ModelConfig
from eraflow.optimization import LOSSES, loss_of
from eraflow.recipes import get
from eraflow.rows import Plan, Rows
from eraflow.runs import CHECKPOINT
from eraflow.stored import StoredDataset
from eraflow.trained import load, predict_live, train
from eraflow.training import TrainingConfig, fit, initial, load_fitted
from tests.eraflow.fitting import (
    ERAWISE,
    ROWWISE,
    SMALL,
    KillAfter,
    Killed,
    assert_close_weights,
    market,
    plain_loss,
    run,
    run_members,
    same_weights,
)
from tests.eraflow.test_models_members import NETWORKS
from tests.eraflow.test_trained import FEATURES, recipe, store, table

BOTH = pytest.mark.parametrize("training", [ROWWISE, ERAWISE], ids=["mse", "era_pearson"])
# An era each of which nothing, one row, one value and everything is known, and one with gaps; in that order.
SIZES = [6, 5, 7, 8, 10]


def with_extra(rows: Rows, seed: int = 7) -> Rows:
    """The same rows with two targets more: like the target with noise and gaps, and noise alone."""
    rng, made = np.random.default_rng(seed), copy.copy(rows)
    near_M = made.target_M + rng.standard_normal(len(rows)) / 4
    near_M[rng.random(len(rows)) < 0.3] = np.nan
    near_M[made.era_M == made.era_M[-1]] = np.nan
    made.extra_MX = np.column_stack([near_M, rng.random(len(rows))]).astype(np.float32)
    return made


def targets_with_gaps() -> Tensor:
    """`[B, T]` of eras of `SIZES`: the first known everywhere, the second with gaps, the third nowhere known."""
    drawn = torch.Generator().manual_seed(3)
    target_BT = torch.rand(sum(SIZES), 3, generator=drawn)
    nothing, one, equal, _, gaps = torch.split(target_BT[:, 1], SIZES)
    nothing[:], one[1:], equal[:], gaps[::3] = torch.nan, torch.nan, 0.3, torch.nan
    equal[2] = torch.nan
    target_BT[:, 2] = torch.nan
    return target_BT


def plain_loss_of_targets(
    training: TrainingConfig, prediction_BT: Tensor, target_BT: Tensor, sizes: list[int]
) -> Tensor:
    """The mean over the targets, each on the rows that are picked because they are known."""
    return torch.stack(
        [_plain_of_known(training, p_B, t_B, sizes) for p_B, t_B in zip(prediction_BT.T, target_BT.T, strict=True)]
    ).mean()


def _plain_of_known(training: TrainingConfig, prediction_B: Tensor, target_B: Tensor, sizes: list[int]) -> Tensor:
    parts = sizes if training.loss == "era_pearson" else [len(target_B)]
    found = []
    for p_B, t_B in zip(torch.split(prediction_B, parts), torch.split(target_B, parts), strict=True):
        known_B = ~t_B.isnan()
        p_B, t_B = p_B[known_B], t_B[known_B]
        nothing = len(t_B) == 0 or (training.loss == "era_pearson" and bool((t_B == t_B[:1]).all()))
        found.append(0 * prediction_B.sum() if nothing else plain_loss(training, p_B, t_B, [len(t_B)]))
    return torch.stack(found).mean()


@BOTH
def test_the_loss_of_several_targets_is_their_mean_over_known_rows_and_its_slope_autograds(
    training: TrainingConfig,
) -> None:
    target_BT = targets_with_gaps()
    prediction_BKT = torch.randn(len(target_BT), 2, 3, generator=torch.Generator().manual_seed(0))
    loss_K, slope_BKT = loss_of(training.loss, 3)(prediction_BKT.clone(), target_BT, SIZES)
    assert slope_BKT.shape == prediction_BKT.shape
    for k in range(2):
        alone_BT = prediction_BKT[:, k].clone().requires_grad_()
        expected = plain_loss_of_targets(training, alone_BT, target_BT, SIZES)
        expected.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        assert loss_K[k].item() == pytest.approx(expected.item(), abs=1e-6)
        torch.testing.assert_close(slope_BKT[:, k], alone_BT.grad, rtol=1e-4, atol=1e-7)


@BOTH
def test_a_row_whose_extra_target_is_not_known_gives_exactly_no_slope_by_it(training: TrainingConfig) -> None:
    target_BT = targets_with_gaps()
    prediction_BKT = torch.randn(len(target_BT), 2, 3, generator=torch.Generator().manual_seed(0))
    _, slope_BKT = loss_of(training.loss, 3)(prediction_BKT, target_BT, SIZES)
    assert not slope_BKT.transpose(1, 2)[target_BT.isnan()].any()
    if training.loss == "era_pearson":
        assert not slope_BKT[SIZES[0] : sum(SIZES[:3]), :, 1].any()  # one known row, then one value
    assert slope_BKT[-SIZES[-1] + 1, :, 1].all()


@BOTH
def test_what_is_not_known_of_extra_targets_leaves_the_targets_own_loss_to_the_bit(training: TrainingConfig) -> None:
    target_BT = targets_with_gaps()[:, [0, 2]]
    prediction_BKT = torch.randn(len(target_BT), 2, 2, generator=torch.Generator().manual_seed(0))
    loss_K, slope_BKT = loss_of(training.loss, 2)(prediction_BKT, target_BT, SIZES)
    alone_K, alone_BK = LOSSES[training.loss](prediction_BKT[:, :, 0], target_BT[:, 0], SIZES)
    assert torch.equal(2 * loss_K, alone_K)
    assert torch.equal(2 * slope_BKT[:, :, 0], alone_BK)


@BOTH
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_networks_with_several_outputs_is_autograds(name: str, count: int, training: TrainingConfig) -> None:
    config, target_BT = ModelConfig(**NETWORKS[name]), targets_with_gaps()
    plain, nets = ([initial(config, 30, seed, 3) for seed in range(count)] for _ in range(2))
    for seed, net in enumerate(plain):
        net.draw_masks_from(torch.Generator().manual_seed(100 + seed))
    members = Members(nets, 64, [torch.Generator().manual_seed(100 + seed) for seed in range(count)])
    code_BF = torch.randint(-2, 3, (len(target_BT), 30), generator=torch.Generator().manual_seed(5)).float()
    found_BKT = members.forward(code_BF.clone())
    assert found_BKT.shape == (len(target_BT), count, 3)
    loss_K, slope_BKT = loss_of(training.loss, 3)(found_BKT, target_BT, SIZES)
    members.backward(slope_BKT)
    for k, net in enumerate(plain):
        loss = plain_loss_of_targets(training, net(code_BF), target_BT, SIZES)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        assert loss_K[k].item() == pytest.approx(loss.item(), abs=1e-5)
        for key, parameter in net.named_parameters():
            grad = members.parameters[key].grad
            assert grad is not None
            torch.testing.assert_close(grad[k], parameter.grad, rtol=1e-3, atol=1e-5, msg=f"{key} of {k}")


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_with_several_targets_reads_nothing_from_the_device(loss: str) -> None:
    nets = [initial(SMALL, 30, seed, 3).to("meta") for seed in range(2)]
    members = Members(nets, 64, [torch.Generator() for _ in nets])
    code_BF, target_BT = torch.empty(60, 30, device="meta"), torch.empty(60, 3, device="meta")
    value, slope = loss_of(loss, 3)(members.forward(code_BF), target_BT, [20, 40])
    members.backward(slope)
    assert {tensor.device.type for tensor in (value, slope, *members.parameters.values())} == {"meta"}


@BOTH
def test_the_loop_with_extra_targets_gives_what_the_plain_one_does(tmp_path: Path, training: TrainingConfig) -> None:
    # A correlation does not know the last bias: its slope is rounding, of which Adam would make whole steps.
    training, rows = (
        dataclasses.replace(training, optimizer="adam", schedule="constant", eps=1e-3),
        with_extra(market()),
    )
    fits = run_members([tmp_path / "0", tmp_path / "1"], training, [0, 1], rows=rows, steps=12)
    for seed, fitted in enumerate(fits):
        assert fitted.model.n_targets == 3
        assert_close_weights(fitted.model, plain_fit_of_targets(rows, training, seed, 12))


def plain_fit_of_targets(rows: Rows, training: TrainingConfig, seed: int, steps: int) -> Mlp:
    kept = rows.labelled().by_era() if training.eras_per_step else rows.labelled()
    code_MF, net, plan = codes(kept), initial(SMALL, rows.n_features, seed, 3), Plan(kept, training, steps)
    net.draw_masks_from(torch.Generator().manual_seed(seed + 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=training.learning_rate, eps=training.eps, foreach=False)
    for step in range(steps):
        index_B, sizes = plan.batch(step)
        target_BT = torch.from_numpy(np.column_stack([kept.target_M[index_B], kept.extra_MX[index_B]]))
        optimizer.zero_grad()
        loss = plain_loss_of_targets(training, net(code_MF[torch.from_numpy(index_B)]), target_BT, sizes)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        optimizer.step()
    return net.eval()


def codes(rows: Rows) -> Tensor:
    code_MF = np.empty((len(rows), rows.n_features), np.int8)
    rows.gather(np.arange(len(rows)), code_MF)
    return torch.from_numpy(code_MF).float()


# Recorded before networks could learn extra targets (two cores, AVX-512); other machines round otherwise.
BEFORE = {"mse": 0.12167389939228694, "era_pearson": -0.5674503594636917}


@BOTH
def test_without_extra_targets_all_is_as_before_there_were_any(tmp_path: Path, training: TrainingConfig) -> None:
    rows = market()
    assert rows.digest() == "9ee9556c9e43aac476a7ea5ba7b7004f"  # so that checkpoints of then are gone on from
    assert loss_of(training.loss, 1) is LOSSES[training.loss]
    fitted = run_members([tmp_path / "0", tmp_path / "1"], training, [0, 1])[0]
    assert fitted.history[-1]["train_loss"] == pytest.approx(BEFORE[training.loss], rel=1e-3)


def test_extra_targets_decide_what_is_learned_and_only_that_is_gone_on_from(tmp_path: Path) -> None:
    plain, rows, other = market(), with_extra(market()), with_extra(market(), seed=8)
    assert len({each.digest() for each in (plain, rows, other)}) == 3
    first = run(tmp_path / "a", rows=rows)
    assert same_weights(first, run(tmp_path / "a", rows=rows, progress=KillAfter(1)))  # loaded
    second = run(tmp_path / "a", rows=other)
    assert same_weights(second, run(tmp_path / "b", rows=other))
    assert not torch.equal(first.model.get_parameter("layers.0.weight"), second.model.get_parameter("layers.0.weight"))


@BOTH
def test_a_killed_run_with_extra_targets_ends_with_the_same_bits(tmp_path: Path, training: TrainingConfig) -> None:
    rows, holdout = with_extra(market()), with_extra(market(3, first_era=30))
    whole = run(tmp_path / "whole", training, rows=rows, holdout=holdout)
    with pytest.raises(Killed):
        run(tmp_path / "killed", training, rows=rows, holdout=holdout, progress=KillAfter(1))
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    seen: list[float] = []
    resumed = run(
        tmp_path / "killed",
        training,
        rows=rows,
        holdout=holdout,
        progress=lambda stage, done, total, text="": seen.append(done),
    )
    assert min(seen) > whole.history[0]["step"]
    assert same_weights(whole, resumed)
    assert same_weights(load_fitted(tmp_path / "killed", SMALL, "cpu"), whole)


@BOTH
def test_a_member_with_extra_targets_is_what_it_would_be_alone(tmp_path: Path, training: TrainingConfig) -> None:
    training, rows = dataclasses.replace(training, eps=1e-3), with_extra(market())
    together = run_members([tmp_path / f"{m}" for m in range(3)], training, [0, 1, 2], rows=rows)
    for seed in (0, 2):
        alone = run(tmp_path / f"alone{seed}", training, seed, rows=rows)
        assert_close_weights(alone.model, together[seed].model)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_output_alone_predicts(name: str) -> None:
    nets, rows = [initial(ModelConfig(**NETWORKS[name]), 12, seed, 3) for seed in (0, 1)], with_extra(market())
    with torch.no_grad():
        expected_KMT = torch.stack([net.eval()(codes(rows)) for net in nets]).numpy()
    found_KM = predict(nets, rows)
    np.testing.assert_allclose(found_KM, expected_KMT[:, :, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(found_KM - expected_KMT[:, :, 1]).max() > 1e-2


def test_the_hold_out_judges_the_first_output(tmp_path: Path) -> None:
    holdout = with_extra(market(3, first_era=30))
    fitted = run(tmp_path, rows=with_extra(market()), holdout=holdout)
    kept = holdout.labelled()
    miss_M = predict([fitted.model], kept)[0] - kept.target_M
    assert fitted.history[-1]["validation_loss"] == pytest.approx(np.mean(miss_M**2), rel=1e-5)


@pytest.mark.parametrize("way", batches.WAYS)
def test_a_batch_has_all_targets_of_its_rows_in_every_way(way: Way) -> None:
    rows = with_extra(market())
    index: npt.NDArray[np.int64] = np.random.default_rng(0).permutation(len(rows))[:50]
    _, target_BT = Batches(rows, 50, torch.device("cpu"), way).load(index)
    expected = np.column_stack([rows.target_M[index], rows.extra_MX[index]])
    np.testing.assert_array_equal(target_BT.numpy(), expected)


@dataclasses.dataclass(frozen=True)
class Files:
    train: StoredDataset
    validation: StoredDataset
    live: StoredDataset


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Of these `target` equals `target_x_20`, and `target_y_60` has gaps."""
    folder, seen = tmp_path_factory.mktemp("targets"), table(range(1, 41))
    seen.loc[::7, "target_y_60"] = np.nan
    return Files(
        train=store(folder, "train", seen),
        validation=store(folder, "validation", table(range(41, 51), seed=1)),
        live=store(folder, "live", table([0], rows=50, seed=2, live=True)),
    )


def test_a_recipe_with_an_extra_target_is_trained_refitted_loaded_and_predicts_with_its_first_output(
    files: Files, tmp_path: Path
) -> None:
    wanted = recipe(data__extra_targets='["target_y_60"]', training__refit="true")
    found = train(wanted, train=files.train, validation=files.validation, features=FEATURES, folder=tmp_path)
    # The extra target reaches further than the target, so its horizon decides the purge.
    assert (found.target_equals, found.purged_eras, found.eras, found.rows) == ("target_x_20", 16, 24, 24 * 30)
    assert found.refit_rows == 50 * 30
    assert found.validation.spearman_mean is not None
    assert found.validation.spearman_mean > 0.5
    (net,) = load(tmp_path).members()
    assert net.n_targets == 2
    live = Rows.of(files.live.codes_NF, None, files.live.era_N, columns=files.live.columns(FEATURES))
    with torch.no_grad():
        first_N = net(codes(live))[:, 0].numpy()
    prediction_N = predict_live(found, files.live)
    np.testing.assert_array_equal(np.argsort(prediction_N, kind="stable"), np.argsort(first_N, kind="stable"))


def test_an_extra_target_that_is_not_there_is_refused_before_any_training(files: Files, tmp_path: Path) -> None:
    wanted = recipe(data__extra_targets='["target_z_20"]')
    with pytest.raises(InputError, match="must be one of target, target_x_20, target_y_60, however 'target_z_20'"):
        train(wanted, train=files.train, validation=files.validation, features=FEATURES, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_l1_is_the_slope_of_the_absolute_weights_of_linear_layers_alone(tmp_path: Path) -> None:
    """One step of the loop on a network with norms, against autograd of the loss and the penalty."""
    rows, fastai = market().labelled(), get("fastai-tabular").model
    model = dataclasses.replace(fastai, hidden=(16, 8))
    # With so large an eps a step is about as large as its slope.
    training = TrainingConfig(steps=1, batch_size=len(rows), learning_rate=0.1, eps=1.0, l1=0.05, device="cpu")
    (fitted,) = fit(rows, model=model, training=training, seeds=[3], folders=[tmp_path])
    net = initial(model, rows.n_features, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, eps=1.0)
    weights = [module.weight for module in net.modules() if isinstance(module, torch.nn.Linear)]
    assert len(weights) == 3
    miss_M = net(codes(rows))[:, 0] - torch.from_numpy(rows.target_M)
    loss = miss_M.square().mean() + 0.05 * sum(weight.abs().sum() for weight in weights)
    loss.backward()
    optimizer.step()
    for (name, ours), theirs in zip(fitted.model.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)
