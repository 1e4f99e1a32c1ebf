"""The networks: their start, their scale, their chance."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from eraflow.models import Mlp, ModelConfig, parameter_count


def _codes(rows: int = 64, features: int = 30) -> torch.Tensor:
    return torch.randint(-2, 3, (rows, features), generator=torch.Generator().manual_seed(1)).float()


def _mlp(config: ModelConfig, seed: int = 7, features: int = 30) -> Mlp:
    return Mlp(config, features, 1, torch.Generator().manual_seed(seed))


def test_weights_start_as_those_of_torch_would_and_leave_the_global_generator_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        plain = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))
    before = torch.get_rng_state()
    model = _mlp(ModelConfig(hidden=(16,)))
    assert torch.equal(torch.get_rng_state(), before)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("input_norm", [False, True])
def test_unit_input_is_the_plain_network_on_features_from_0_to_1(input_norm: bool) -> None:
    unit = _mlp(ModelConfig(hidden=(16, 8), input="unit", input_norm=input_norm))
    centred = _mlp(ModelConfig(hidden=(16, 8), input="centred", input_norm=input_norm))
    code = _codes()
    torch.testing.assert_close(unit(code), centred(code / 4 + 0.5), rtol=1e-5, atol=1e-6)


def test_folding_the_scale_gives_the_plain_networks_gradients() -> None:
    folded, plain = _mlp(ModelConfig(hidden=(16,), input="unit")), _mlp(ModelConfig(hidden=(16,)))
    code = _codes()
    folded(code).square().mean().backward()
    plain(code / 4 + 0.5).square().mean().backward()
    for ours, theirs in zip(folded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_the_batch_is_not_written_to() -> None:
    code = _codes()
    before = code.clone()
    _mlp(ModelConfig(hidden=(16,), input="unit", input_norm=True, batch_norm=True, dropout=0.5))(code)
    assert torch.equal(code, before)


def test_dropout_draws_from_its_own_generator_alone() -> None:
    config = ModelConfig(hidden=(64,), dropout=0.5)
    model, before = _mlp(config), torch.get_rng_state()
    first, second = model(_codes()), model(_codes())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    again = _mlp(config)
    assert torch.equal(first, again(_codes()))
    again.draw_masks_from(torch.Generator().manual_seed(3))
    expected = again(_codes())
    again.draw_masks_from(torch.Generator().manual_seed(3))
    assert torch.equal(expected, again(_codes()))


def test_dropout_keeps_the_mean_and_is_off_in_evaluation() -> None:
    model = _mlp(ModelConfig(hidden=(64,), dropout=0.3))
    layer = model.layers[2]
    kept = layer(torch.ones(1000, 100))
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0, 1 / 0.7], rel=1e-5)
    model.eval()
    assert torch.equal(model(_codes()), model(_codes()))


def test_batch_norm_stands_after_the_activation_and_replaces_the_bias() -> None:
    model = _mlp(ModelConfig(hidden=(8, 4), batch_norm=True, input_norm=True))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Linear", "ReLU", "BatchNorm1d", "Linear", "ReLU", "BatchNorm1d", "Linear"]
    assert [layer.bias is None for layer in model.layers if isinstance(layer, nn.Linear)] == [True, True, False]
    assert parameter_count(model) == 2 * 30 + 30 * 8 + 2 * 8 + 8 * 4 + 2 * 4 + 4 + 1


@pytest.mark.parametrize(
    ("values", "text"), [({"hidden": ()}, "one or more"), ({"hidden": (3,), "dropout": 1.0}, "below 1")]
)
def test_impossible_networks_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ModelConfig(**values)  # type: ignore[arg-type]  # the mistake under test


def test_a_network_can_be_copied() -> None:
    model = _mlp(ModelConfig(hidden=(8,), input="unit"))
    assert torch.equal(copy.deepcopy(model)(_codes()), model(_codes()))
