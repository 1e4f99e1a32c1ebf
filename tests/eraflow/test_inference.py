"""Prediction in blocks with folded weights against the plain network in evaluation mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from eraflow.inference import INFERENCE_ROWS, predict
from eraflow.models import Mlp, ModelConfig
from eraflow.recipes import RECIPES, get
from eraflow.rows import Rows
from eraflow.training import initial

FEATURES = 12
EVERYTHING = ModelConfig(
    hidden=(16, 8), activation="silu", dropout=0.5, batch_norm=True, input_norm=True, input="centred"
)
MODELS = {name: get(name).model for name in RECIPES} | {"all": EVERYTHING}


def rows_of(count: int, **more: np.ndarray) -> Rows:
    code = np.random.default_rng(0).integers(-2, 3, (count, FEATURES)).astype(np.int8)
    return Rows.of(code, None, (np.arange(count) // 7).astype(np.int32), **more)


def trained_like(model: ModelConfig, seed: int) -> Mlp:
    """A network whose norms are not those that it starts with."""
    net, draw = initial(model, FEATURES, seed), torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data = 0.2 + torch.rand(tensor.shape, generator=draw)
    return net


def plain(nets: list[Mlp], rows: Rows) -> np.ndarray:
    """The same by the module itself, all rows at once."""
    code = np.empty((len(rows), FEATURES), np.int8)
    rows.gather(np.arange(len(rows)), code)
    with torch.no_grad():
        return torch.cat([net.eval()(torch.from_numpy(code).float()).T for net in nets]).numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("members", [1, 3])
def test_predictions_are_those_of_the_plain_network(name: str, members: int) -> None:
    nets, rows = [trained_like(MODELS[name], seed) for seed in range(members)], rows_of(50)
    found = predict(nets, rows)
    assert found.dtype == np.float32
    assert found.shape == (members, 50)
    np.testing.assert_allclose(found, plain(nets, rows), rtol=1e-4, atol=1e-5)
    assert found.std(1).min() > 1e-3


@pytest.mark.parametrize("count", [1, 7, INFERENCE_ROWS, INFERENCE_ROWS + 1])
def test_one_row_one_era_and_a_last_partial_block_are_predicted(count: int) -> None:
    nets, rows = [trained_like(EVERYTHING, seed) for seed in (0, 1)], rows_of(count)
    np.testing.assert_allclose(predict(nets, rows), plain(nets, rows), rtol=1e-4, atol=1e-5)


def test_chosen_rows_and_columns_are_predicted_in_their_order() -> None:
    columns = np.random.default_rng(1).permutation(FEATURES)
    for rows in (rows_of(300).take(np.random.default_rng(2).permutation(300)[:200]), rows_of(200, columns=columns)):
        nets = [trained_like(EVERYTHING, 0)]
        np.testing.assert_allclose(predict(nets, rows), plain(nets, rows), rtol=1e-4, atol=1e-5)


def test_a_network_in_training_is_predicted_with_as_in_evaluation_and_stays_as_it_is() -> None:
    net, rows = trained_like(EVERYTHING, 0).train(), rows_of(50)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = predict([net], rows)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    np.testing.assert_allclose(found, plain([net], rows), rtol=1e-4, atol=1e-5)


def test_no_rows_give_no_predictions() -> None:
    assert predict([trained_like(EVERYTHING, 0)], rows_of(0)).shape == (1, 0)


def test_progress_is_told_after_each_block() -> None:
    told: list[tuple[str, float, float]] = []
    rows = rows_of(INFERENCE_ROWS + 1)
    predict([trained_like(EVERYTHING, 0)], rows, progress=lambda *given: told.append(given[:3]), stage="validate")
    assert told == [("validate", INFERENCE_ROWS, len(rows)), ("validate", len(rows), len(rows))]
