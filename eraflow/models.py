"""The networks, nothing else: what is computed from the features, and how the weights start.

A network takes the stored codes -2..2 as float32 and brings them to its own scale, so that a batch need not be
touched before. All chance (weights, dropout) comes from generators that are passed in; torch's global one is
neither used nor altered. Imports torch and the standard library alone.

Shape letters: B batch, F features, H hidden, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["relu", "silu"]
Scale = Literal["unit", "centred"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}

# fastai's layers.BatchNorm starts the shift at this; torch's own (used on the inputs) at 0.
FASTAI_SHIFT = 1e-3


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A fully connected network."""

    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    activation: Activation = "relu"
    dropout: float = 0.0
    """Share of hidden units dropped after each hidden layer."""
    batch_norm: bool = False
    """Batch norm after each activation, as fastai places it; the linear layer before it then has no bias."""
    input_norm: bool = False
    """Batch norm on the features."""
    input: Scale = "centred"
    """Scale of the features: "centred" is -2..2 as stored, "unit" is 0..1 (`code/4 + 1/2`)."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be one or more layers of 1 or more units, however it is {list(self.hidden)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, however it is {self.dropout}")


class Mlp(nn.Module):
    """`ModelConfig` as a network: float32 codes `[B, F]` in -2..2 -> float32 `[B, T]`.

    Weights are drawn from `generator` (on the CPU) in torch's default distributions and order, so that the same
    seed gives what `nn.Linear` layers would have under `torch.manual_seed`. Until `draw_masks_from` is called,
    dropout draws from it too.
    """

    def __init__(self, config: ModelConfig, n_features: int, n_targets: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.n_features, self.n_targets = config, n_features, n_targets
        self.input_norm = nn.BatchNorm1d(n_features) if config.input_norm else None
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([n_features, *config.hidden]):
            layers += _hidden_layer(config, n_in, n_out, generator)
        layers.append(_linear(config.hidden[-1], n_targets, bias=True, generator=generator))
        self.layers = nn.Sequential(*layers)

    def forward(self, code_BF: Tensor) -> Tensor:
        unit = self.config.input == "unit"
        if self.input_norm is not None:
            x_BF = torch.add(torch.full((), 0.5, device=code_BF.device), code_BF, alpha=0.25) if unit else code_BF
            output: Tensor = self.layers(self.input_norm(x_BF))
            return output
        first, *rest = self.layers.children()
        x_BH = _linear_of_unit(first, code_BF) if unit and isinstance(first, nn.Linear) else first(code_BF)
        for layer in rest:
            x_BH = layer(x_BH)
        return x_BH

    def draw_masks_from(self, generator: torch.Generator) -> None:
        """Let dropout draw from `generator`, which must be on the network's device."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.generator = generator


class Dropout(nn.Module):
    """Dropout whose masks come from a generator of its own."""

    def __init__(self, share: float, generator: torch.Generator) -> None:
        super().__init__()
        self.share, self.generator = share, generator

    def forward(self, x_BH: Tensor) -> Tensor:
        if not self.training:
            return x_BH
        kept_BH = torch.empty_like(x_BH, dtype=torch.bool)
        scale = draw_kept(kept_BH, self.share, self.generator)
        return x_BH * (kept_BH * scale)

    def extra_repr(self) -> str:
        return f"share={self.share}"


def draw_kept(kept_BH: Tensor, share: float, generator: torch.Generator) -> float:
    """Fill a contiguous bool tensor: True for a unit that is kept. Returns what a kept unit is multiplied by.

    On the CPU a unit takes 16 of the generator's bits, 7 times as fast as `bernoulli_`, and `share` is rounded to
    2^-16. Two calls for n and m rows draw what one call for n + m rows does, if n times the units divides by 4.
    """
    if kept_BH.device.type != "cpu":
        kept_BH.bernoulli_(1 - share, generator=generator)
        return 1 / (1 - share)
    dropped = min(round(share * 2**16), 2**16 - 1)
    draws = torch.empty(-(-kept_BH.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    torch.ge(draws.view(torch.int16)[: kept_BH.numel()].view_as(kept_BH), dropped - 2**15, out=kept_BH)
    return 2**16 / (2**16 - dropped)


def parameter_count(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in model.parameters())


def _hidden_layer(config: ModelConfig, n_in: int, n_out: int, generator: torch.Generator) -> list[nn.Module]:
    layers: list[nn.Module] = [_linear(n_in, n_out, bias=not config.batch_norm, generator=generator)]
    layers.append(_ACTIVATIONS[config.activation]())
    if config.batch_norm:
        norm = nn.BatchNorm1d(n_out)
        nn.init.constant_(norm.bias, FASTAI_SHIFT)
        layers.append(norm)
    if config.dropout:
        layers.append(Dropout(config.dropout, generator))
    return layers


def _linear(n_in: int, n_out: int, *, bias: bool, generator: torch.Generator) -> nn.Linear:
    """A linear layer started as `nn.Linear.reset_parameters` does, but from `generator`."""
    # Made without storage first: its own start would draw from the global generator.
    layer = nn.Linear(n_in, n_out, bias=bias, device="meta").to_empty(device="cpu")
    nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
    if bias:
        bound = n_in**-0.5
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def _linear_of_unit(layer: nn.Linear, code_BF: Tensor) -> Tensor:
    """`layer(code/4 + 1/2)` with the scale folded into the weights: F x H numbers a step instead of B x F."""
    shift_H = layer.weight.sum(1) * 0.5
    bias_H = shift_H if layer.bias is None else layer.bias + shift_H
    return functional.linear(code_BF, layer.weight * 0.25, bias_H)
