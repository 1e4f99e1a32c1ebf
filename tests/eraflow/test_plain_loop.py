"""A user's own loop over `NumeraiDataset` in torch's `DataLoader` gives what `fit` gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from eraflow.batches import Batches
from eraflow.dataset import NumeraiDataset, StoredDataset, decode
from eraflow.recipes import get
from eraflow.rows import Plan, Rows
from eraflow.store import sha256_of
from eraflow.training import fit, initial
from tests.eraflow.fitting import assert_close_weights
from tests.eraflow.tables import FEATURES, write

RECIPE = get("simple-mlp")
TRAINING = dataclasses.replace(RECIPE.training, epochs=3, batch_size=32, shuffle=True, seed=4, device="cpu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredDataset:
    """210 rows of seven eras with a linear signal; one in ten has no target."""
    folder, rng = tmp_path_factory.mktemp("plain"), np.random.default_rng(0)
    codes = {name: rng.integers(0, 5, 210).astype(np.int8) for name in FEATURES}
    score = sum(code.astype(float) for code in codes.values()) + rng.standard_normal(210)
    target = (np.digitize(score, [3, 5, 7, 9]) / 4).astype(np.float32)
    content: dict[str, Any] = {
        "id": [f"n{row:015x}" for row in range(210)],
        "era": [f"{1 + row // 30:04d}" for row in range(210)],
        "data_type": ["train"] * 210,
        "target": pa.array(target, mask=rng.random(210) < 0.1),
    }
    path = write(folder, pa.table(content | codes))
    return decode(path, into=folder / "decoded", sha256=sha256_of(path), features=FEATURES)


@pytest.mark.parametrize("features", [FEATURES, ("feature_c", "feature_a")])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_batches_of_the_loop(stored: StoredDataset, features: tuple[str, ...], workers: int) -> None:
    dataset, rows = NumeraiDataset(stored, features=features), rows_of(stored, features)
    plan = Plan(rows, TRAINING, None)
    batches, found = Batches(rows, plan.largest, torch.device("cpu")), loader(dataset, plan, workers)
    steps = 0
    for step, (x, y, era) in enumerate(found):
        index, steps = plan.batch(step)[0], steps + 1
        code, target = batches.load(index)
        assert torch.equal(x, code / 4 + 0.5)
        assert torch.equal(y[:, 0], target)
        np.testing.assert_array_equal(era.numpy(), rows.era_M[index])
    assert steps == plan.steps


def test_a_loop_of_ones_own_ends_with_the_weights_of_the_fast_one(stored: StoredDataset, tmp_path: Path) -> None:
    dataset, rows = NumeraiDataset(stored), rows_of(stored, FEATURES)
    net = nn.Sequential(nn.Linear(3, 256), nn.ReLU(), nn.Linear(256, 1))
    start = initial(RECIPE.model, 3, 7).state_dict()
    net.load_state_dict({name.removeprefix("layers."): tensor for name, tensor in start.items()})
    adam, losses = torch.optim.Adam(net.parameters(), lr=TRAINING.learning_rate), []
    for x, y, _ in loader(dataset, Plan(rows, TRAINING, None)):
        adam.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        adam.step()
        losses.append(loss.item())

    (fitted,) = fit(rows, model=RECIPE.model, training=TRAINING, seeds=[7], folders=[tmp_path])
    assert_close_weights(fitted.model.layers, net)
    by_epoch = np.reshape(losses, (3, -1)).mean(1)
    np.testing.assert_allclose([entry["train_loss"] for entry in fitted.history], by_epoch, rtol=1e-4)
    assert by_epoch[-1] < 0.7 * by_epoch[0]


def rows_of(stored: StoredDataset, features: tuple[str, ...]) -> Rows:
    found = Rows.of(stored.codes_NF, stored.column("target"), stored.era_N, columns=stored.columns(features))
    return found.labelled()


def loader(dataset: NumeraiDataset, plan: Plan, workers: int = 0) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Whole batches in the order of the loop; any iterable of them is a sampler."""
    order = [plan.batch(step)[0].tolist() for step in range(plan.steps)]
    return DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers, pin_memory=False)  # type: ignore[arg-type]
