"""Losses and schedules: by hand, against numpy, and against autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eraflow.optimization import LOSSES, SCHEDULES, era_pearson
from eraflow.training import TrainingConfig
from tests.eraflow.fitting import ERAWISE, ROWWISE, plain_loss


def test_era_pearson_is_minus_the_mean_correlation_of_the_eras() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 30)).astype(np.float32)
    parts = [slice(0, 5), slice(5, 25), slice(25, 30)]
    expected = -np.mean([np.corrcoef(prediction[part], target[part])[0, 1] for part in parts])
    found, _ = era_pearson(torch.from_numpy(prediction)[:, None], torch.from_numpy(target), [5, 20, 5])
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("constant", ["prediction", "target", "one row"])
def test_an_era_without_a_correlation_counts_as_0_and_gives_no_nan(constant: str) -> None:
    prediction = torch.ones(4) if constant == "prediction" else torch.arange(4.0)
    target = torch.ones(4) if constant == "target" else torch.arange(4.0)
    sizes = [1, 3] if constant == "one row" else [4]
    loss, slope = era_pearson(prediction[:, None], target, sizes)
    assert loss.item() == pytest.approx(-0.5 if constant == "one row" else 0, abs=1e-6)
    assert torch.isfinite(slope).all()


def test_warm_up_rises_to_the_peak_and_falls_by_a_cosine() -> None:
    rates = [SCHEDULES["warmup_cosine"](ERAWISE, step, 120)[0] for step in range(120)]
    peak = ERAWISE.learning_rate
    assert rates[:7] == pytest.approx([peak * (i + 1) / 6 for i in range(6)] + [peak])
    assert rates[6 + 57] == pytest.approx(peak / 2)
    assert rates[-1] == pytest.approx(peak / 2 * (1 - math.cos(math.pi / 114)))


@pytest.mark.parametrize("training", [ROWWISE, ERAWISE], ids=["mse", "era_pearson"])
@pytest.mark.parametrize("sizes", [[5, 20, 5], [30], [1, 29]], ids=str)
def test_a_loss_and_its_slope_are_those_of_autograd_for_each_member(training: TrainingConfig, sizes: list[int]) -> None:
    rng = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(30, 3, generator=rng), torch.rand(30, generator=rng)
    loss, slope = LOSSES[training.loss](prediction.clone(), target, sizes)
    for k in range(3):
        alone = prediction[:, k].clone().requires_grad_()
        expected = plain_loss(training, alone, target, sizes)
        expected.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        assert loss[k].item() == pytest.approx(expected.item(), abs=1e-6)
        torch.testing.assert_close(slope[:, k], alone.grad, rtol=1e-4, atol=1e-7)
