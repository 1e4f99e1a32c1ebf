"""The loop on a GPU; without one, on torch's "meta" device, which has no values that a step could wait for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eraflow.members import Members
from eraflow.models import ModelConfig
from eraflow.optimization import LOSSES, OPTIMIZERS, optimizer_for, set_rate
from eraflow.training import TrainingConfig, initial, pick_device
from tests.eraflow.fitting import (
    ERAWISE,
    ROWWISE,
    SMALL,
    KillAfter,
    Killed,
    assert_close_weights,
    market,
    run,
)
from tests.eraflow.test_models_members import NETWORKS

META = torch.device("meta")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_reads_nothing_from_the_device_and_puts_nothing_elsewhere(name: str, loss: str) -> None:
    """Otherwise the host would wait in each step for a GPU to end it."""
    nets = [initial(ModelConfig(**NETWORKS[name]), 30, seed).to(META) for seed in range(3)]
    chance = [torch.Generator() for _ in nets]  # unused here: that of a GPU cannot be made without one
    members = Members(nets, 64, chance)
    for optimizer_name in OPTIMIZERS:
        training = TrainingConfig(epochs=1, batch_size=64, optimizer=optimizer_name)  # type: ignore[arg-type]
        optimizer = optimizer_for(training, members.matrices, members.vectors)
        code, target = torch.empty(60, 30, device=META), torch.empty(60, device=META)
        value, slope = LOSSES[loss](members.forward(code), target, [20, 40])
        members.backward(slope)
        set_rate(optimizer, 1e-3, 0.9)
        optimizer.step()
        assert {tensor.device for tensor in (value, slope, *members.parameters.values())} == {META}
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        value.mean().item()


@pytest.mark.skipif(pick_device("auto").type == "cpu", reason="no GPU")
@pytest.mark.parametrize("training", [ROWWISE, replace(ERAWISE, steps=60)])
def test_a_gpu_ends_with_the_weights_of_a_processor(training: TrainingConfig, tmp_path: Path) -> None:
    """Without dropout, whose masks each kind of device draws in its own way; then killed and gone on with."""
    there = replace(training, device="auto")
    more: dict[str, Any] = {"model": replace(SMALL, dropout=0), "holdout": market(3, first_era=30)}
    here, found = run(tmp_path / "cpu", training, **more), run(tmp_path / "gpu", there, **more)
    assert_close_weights(found.model.cpu(), here.model)
    for ours, theirs in zip(found.history, here.history, strict=True):
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-2)
    with pytest.raises(Killed):
        run(tmp_path / "killed", there, progress=KillAfter(1), **more)
    resumed = run(tmp_path / "killed", there, **more)
    assert_close_weights(resumed.model.cpu(), found.model)
