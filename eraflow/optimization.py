"""Losses, optimisers and schedules by name: the tables that `TrainingConfig` chooses from.

Shape letters: B batch, E eras.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from eraflow.training import TrainingConfig

# Keeps the root's slope finite in an era whose predictions or targets are all equal; such an era then counts as 0.
_TINY = 1e-12


def mse(prediction_B: Tensor, target_B: Tensor, sizes: Sequence[int]) -> Tensor:  # noqa: ARG001 - the table's signature
    """Mean squared error over the rows."""
    return functional.mse_loss(prediction_B, target_B)


def era_pearson(prediction_B: Tensor, target_B: Tensor, sizes: Sequence[int]) -> Tensor:
    """Minus the mean over eras of Pearson's correlation; `sizes` are the rows of each era, in order."""
    parts = list(sizes)
    eras = zip(torch.split(prediction_B, parts), torch.split(target_B, parts), strict=True)
    return -torch.stack([_pearson(p_B, t_B) for p_B, t_B in eras]).mean()


def constant(training: TrainingConfig, step: int, steps: int) -> tuple[float, float | None]:  # noqa: ARG001
    """The learning rate as it is."""
    return training.learning_rate, None


def warmup_cosine(training: TrainingConfig, step: int, steps: int) -> tuple[float, float | None]:
    """A straight rise over the first share of the steps, then half a cosine down to 0."""
    warm = max(1, round(training.warmup_share * steps))
    if step < warm:
        return training.learning_rate * (step + 1) / warm, None
    return _cosine(training.learning_rate, 0.0, (step - warm) / max(1, steps - warm)), None


def one_cycle(training: TrainingConfig, step: int, steps: int) -> tuple[float, float | None]:
    """Learning rate and first beta as fastai 2.8.12 `fit_one_cycle` sets them before each batch.

    Both go by half a cosine to the peak and by another to the end, over `step/steps`.
    """
    peak, share, rise = training.learning_rate, step / steps, training.cycle_rise_share
    start, middle, end = training.cycle_momenta
    if share < rise:
        part = share / rise
        return _cosine(peak / training.cycle_div, peak, part), _cosine(start, middle, part)
    part = (share - rise) / (1 - rise)
    return _cosine(peak, peak / training.cycle_div_final, part), _cosine(middle, end, part)


def optimizer_for(training: TrainingConfig, net: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that `training` names, over the parameters of `net`, fused where torch has that."""
    options: dict[str, Any] = {"lr": training.learning_rate, "betas": tuple(training.betas), "eps": training.eps}
    device = next(net.parameters()).device
    options["fused"] = True if device.type in ("cpu", "cuda") else None
    return OPTIMIZERS[training.optimizer](net, training.weight_decay, options)


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None) -> float:
    """Give all groups this learning rate, and this first beta unless it is None; returns the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if momentum is not None:
            group["betas"] = (momentum, group["betas"][1])
    return rate


def _adam(net: nn.Module, decay: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), weight_decay=decay, **options)


def _adamw(net: nn.Module, decay: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), weight_decay=decay, **options)


def _fastai_adam(net: nn.Module, decay: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    """fastai's Adam is torch's AdamW but for what it decays: neither norms nor biases (`wd_bn_bias=False`)."""
    parameters = list(net.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **options)


def _pearson(prediction_B: Tensor, target_B: Tensor) -> Tensor:
    p_B, t_B = prediction_B - prediction_B.mean(), target_B - target_B.mean()
    return (p_B @ t_B) / ((p_B @ p_B) * (t_B @ t_B) + _TINY).sqrt()


def _cosine(start: float, end: float, share: float) -> float:
    return start + (1 - math.cos(math.pi * share)) * (end - start) / 2


LOSSES: dict[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = {"mse": mse, "era_pearson": era_pearson}
OPTIMIZERS: dict[str, Callable[[nn.Module, float, dict[str, Any]], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "fastai_adam": _fastai_adam,
}
SCHEDULES: dict[str, Callable[[TrainingConfig, int, int], tuple[float, float | None]]] = {
    "constant": constant,
    "one_cycle": one_cycle,
    "warmup_cosine": warmup_cosine,
}
