"""Members trained as one: forward, backward, running values and masks are those of the plain network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eraflow.layers import moments
from eraflow.members import Members
from eraflow.models import Mlp, ModelConfig, draw_kept
from eraflow.training import TrainingConfig
from tests.eraflow.fitting import ERAWISE, ROWWISE, assert_close_weights, run_members, same_weights

NETWORKS: dict[str, dict[str, Any]] = {
    "the write-up's": {"hidden": (16,), "input": "unit"},
    "centred": {"hidden": (16,), "input": "centred"},
    "era-pearson's": {"hidden": (20, 12, 8), "activation": "silu", "dropout": 0.2},
    "relu with dropout": {"hidden": (20, 12), "dropout": 0.3, "input": "unit"},
    "fastai's": {"hidden": (16, 8), "batch_norm": True, "input_norm": True, "input": "unit"},
    "norms and dropout": {"hidden": (16, 8), "batch_norm": True, "dropout": 0.2, "activation": "silu"},
    "normed input": {"hidden": (16, 8), "input_norm": True, "input": "centred"},
}


def networks(config: ModelConfig, members: int) -> tuple[list[Mlp], list[torch.Generator]]:
    nets = [Mlp(config, 30, 1, torch.Generator().manual_seed(k)) for k in range(members)]
    return nets, [torch.Generator().manual_seed(100 + k) for k in range(members)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_members_are_the_plain_networks_forward_and_backward(name: str, count: int) -> None:
    config = ModelConfig(**NETWORKS[name])
    plain, generators = networks(config, count)
    for net, generator in zip(plain, generators, strict=True):
        net.draw_masks_from(generator)
    nets, generators = networks(config, count)
    members, chance = Members(nets, 64, generators), torch.Generator().manual_seed(5)
    for rows in (64, 7, 2 if config.batch_norm or config.input_norm else 1, 64):
        code = torch.randint(-2, 3, (rows, 30), generator=chance).float()
        slope = torch.randn(rows, count, generator=chance)
        found = members.forward(code.clone())
        for k, net in enumerate(plain):
            net.zero_grad()
            expected = net(code)
            torch.testing.assert_close(found[:, k : k + 1], expected, rtol=1e-4, atol=1e-5)
            expected.backward(slope[:, k : k + 1])
        members.backward(slope.clone())
        for k, net in enumerate(plain):
            for key, parameter in net.named_parameters():
                grad = members.parameters[key].grad
                assert grad is not None
                torch.testing.assert_close(grad[k], parameter.grad, rtol=1e-4, atol=5e-5, msg=f"{key} at {rows} rows")
            buffers = zip(net.buffers(), nets[k].buffers(), strict=True)
            for theirs, ours in buffers:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_networks_are_views_of_what_is_trained() -> None:
    nets, generators = networks(ModelConfig(hidden=(4,)), 2)
    before = [net.get_parameter("layers.0.weight").detach().clone() for net in nets]
    members = Members(nets, 8, generators)
    assert torch.equal(members.parameters["layers.0.weight"], torch.stack(before))
    members.parameters["layers.0.weight"][1].add_(1)
    assert torch.equal(nets[0].get_parameter("layers.0.weight"), before[0])
    assert torch.equal(nets[1].get_parameter("layers.0.weight"), before[1] + 1)


@pytest.mark.parametrize("training", [ROWWISE, ERAWISE], ids=["by rows", "by eras"])
def test_a_member_is_what_it_would_be_alone(tmp_path: Path, training: TrainingConfig) -> None:
    # A correlation does not know the last bias: its slope is rounding, of which Adam would make whole steps.
    training = dataclasses.replace(training, eps=1e-3)
    together = run_members([tmp_path / f"{m}" for m in range(3)], training, [0, 1, 2])
    for seed in (0, 2):
        (alone,) = run_members([tmp_path / f"alone{seed}"], training, [seed])
        assert_close_weights(alone.model, together[seed].model)
        for one, other in zip(alone.history, together[seed].history, strict=True):
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
    assert not same_weights(together[0], together[1])


def test_masks_drawn_in_pieces_are_those_drawn_at_once() -> None:
    whole, pieces = torch.empty(20, 6, dtype=torch.bool), torch.empty(20, 6, dtype=torch.bool)
    scale = draw_kept(whole, 0.3, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    for start in (0, 8, 16):
        draw_kept(pieces[start : start + 8], 0.3, generator)
    assert torch.equal(whole, pieces)
    assert scale == pytest.approx(1 / 0.7, rel=1e-5)


@pytest.mark.parametrize("share", [1e-9, 0.5, 1 - 1e-9])
def test_as_many_units_are_kept_as_asked_for(share: float) -> None:
    kept = torch.empty(1000, 101, dtype=torch.bool)
    scale = draw_kept(kept, share, torch.Generator().manual_seed(1))
    assert kept.float().mean().item() == pytest.approx(1 / scale, abs=0.01)
    assert 1 / scale == pytest.approx(1 - share, abs=2e-5)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_moments_of_codes_are_exact(rows: int) -> None:
    code = torch.randint(-2, 3, (rows, 700), generator=torch.Generator().manual_seed(0)).float()
    mean, variance = moments(code)
    torch.testing.assert_close(mean.double(), code.double().mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(variance.double(), code.double().var(0, correction=0), rtol=1e-5, atol=1e-6)


def test_unknown_layers_are_refused() -> None:
    nets, generators = networks(ModelConfig(hidden=(4,)), 1)
    nets[0].layers[1] = nn.Tanh()
    with pytest.raises(TypeError, match="Tanh"):
        Members(nets, 8, generators)
