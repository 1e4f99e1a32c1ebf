"""fastai's recorded run: the same architecture, the same start, the same numbers after each step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eraflow.members import Members
from eraflow.models import Mlp
from eraflow.optimization import SCHEDULES, mse, optimizer_for, set_rate
from eraflow.recipes import get
from eraflow.training import TrainingConfig, initial

GOLDEN = json.loads((Path(__file__).parent / "golden" / "fastai_2_8_12.json").read_text())


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


def _plain_optimizer(training: TrainingConfig, net: Mlp) -> torch.optim.Optimizer:
    parameters = list(net.parameters())
    return optimizer_for(training, [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2])


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
    optimizer, steps = _plain_optimizer(training, net), GOLDEN["steps"]
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


def test_members_reproduce_the_run_of_fastai_step_by_step() -> None:
    """The same, through the forward and backward that the loop uses, for two members at once."""
    nets, training = [_tiny_fastai()[0] for _ in range(2)], _tiny_fastai()[1]
    for net in nets:
        net.load_state_dict(_from_fastai(GOLDEN["start"]))
    members, steps = Members(nets, max(len(step["target"]) for step in GOLDEN["steps"]), []), GOLDEN["steps"]
    optimizer = optimizer_for(training, members.matrices, members.vectors)
    for number, step in enumerate(steps):
        set_rate(optimizer, *SCHEDULES[training.schedule](training, number, len(steps)))
        code, target = torch.tensor(step["features"]) * 4 - 2, torch.tensor(step["target"])
        loss, slope = mse(members.forward(code), target, [len(target)])
        members.backward(slope)
        optimizer.step()
        assert loss.tolist() == [pytest.approx(step["loss"], rel=1e-5)] * 2
        for net in nets:
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
    spared = _plain_optimizer(training, net).param_groups[1]
    assert spared["weight_decay"] == 0
    assert len(spared["params"]) == len(GOLDEN["without_decay"])
