"""Losses, optimisers and schedules by name: the tables that `TrainingConfig` chooses from.

A loss gives its value for each member and its slope by the predictions, written out: autograd's own work would be a
tenth of a small step. A test holds both against autograd. `loss_of` finds the one of a configuration, and where a
network learns several targets makes it the mean over them.

Shape letters: B batch, K members, E eras, T targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from eraflow.training import TrainingConfig

# Keeps the root's slope finite in an era whose predictions or targets are all equal; such an era then counts as 0.
_TINY = 1e-12

Tensors = Sequence[Tensor]
Loss = Callable[[Tensor, Tensor, Sequence[int]], tuple[Tensor, Tensor]]


def mse(prediction_BK: Tensor, target_B: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Mean squared error over the rows `[K]`, and its slope `[B, K]`."""
    miss_BK = prediction_BK - target_B[:, None]
    return miss_BK.square().mean(0), miss_BK.mul_(2 / len(target_B))


def era_pearson(prediction_BK: Tensor, target_B: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Minus the mean over eras of Pearson's correlation `[K]`, and its slope; `sizes` are each era's rows, in order."""
    parts = list(sizes)
    eras = zip(torch.split(prediction_BK, parts), torch.split(target_B, parts), strict=True)
    value_EK, slope_EBK = zip(*(_pearson(p_BK, t_B) for p_BK, t_B in eras), strict=True)
    return -torch.stack(value_EK).mean(0), torch.cat(slope_EBK).div_(-len(parts))


def loss_of(name: str, n_targets: int) -> Loss:
    """The loss called `name`; for several targets of predictions `[B, K, T]` and targets `[B, T]`, with slope alike.

    It is the mean over the targets of each one's loss. The first target is known in every row; where another is NaN
    the row counts nothing for it: mse is the mean over the known rows, 0 without any, and era_pearson correlates those
    of each era, 0 where they are fewer than two or all equal.
    """
    return LOSSES[name] if n_targets == 1 else partial(_mean_over_targets, LOSSES[name], LOSSES_OF_KNOWN[name])


def add_l1(matrices: Tensors, l1: float) -> None:
    """Add the slope of `l1` times the sum of the absolute weights to the weights' slopes; 0 at a weight of 0.

    Adam divides it by the slopes' spread, so small weights come near 0 and are not set to it.
    """
    for weight in matrices:
        if weight.grad is not None:
            weight.grad.add_(weight.sign(), alpha=l1)


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


def optimizer_for(training: TrainingConfig, matrices: Tensors, vectors: Tensors) -> torch.optim.Optimizer:
    """The optimiser that `training` names, fused where torch has that.

    `matrices` are the weights of linear layers, `vectors` all other parameters: biases, and scales and shifts of norms.
    """
    options: dict[str, Any] = {"lr": training.learning_rate, "betas": tuple(training.betas), "eps": training.eps}
    options["fused"] = True if matrices[0].device.type in ("cpu", "cuda") else None
    return OPTIMIZERS[training.optimizer](matrices, vectors, training.weight_decay, options)


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None) -> float:
    """Give all groups this learning rate, and this first beta unless it is None; returns the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if momentum is not None:
            group["betas"] = (momentum, group["betas"][1])
    return rate


def _adam(matrices: Tensors, vectors: Tensors, decay: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam([*matrices, *vectors], weight_decay=decay, **options)


def _adamw(matrices: Tensors, vectors: Tensors, decay: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW([*matrices, *vectors], weight_decay=decay, **options)


def _fastai_adam(matrices: Tensors, vectors: Tensors, decay: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    """fastai's Adam is torch's AdamW but for what it decays: neither norms nor biases (`wd_bn_bias=False`)."""
    groups = [{"params": [*matrices], "weight_decay": decay}, {"params": [*vectors], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **options)


def _mean_over_targets(
    first: Loss, other: Loss, prediction_BKT: Tensor, target_BT: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """`first` is the loss of the first target, `other` that of each further one, of which some rows may be NaN."""
    columns = zip(prediction_BKT.unbind(2), target_BT.unbind(1), strict=True)
    found = [(other if t else first)(p_BK, t_B, sizes) for t, (p_BK, t_B) in enumerate(columns)]
    value_TK, slope_TBK = zip(*found, strict=True)
    return torch.stack(value_TK).mean(0), torch.stack(slope_TBK, 2).div_(len(found))


# What is not known is a mask and never an index, whose length a GPU would have to tell the host in each step.
def _mse_of_known(prediction_BK: Tensor, target_B: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    known_B1 = ~target_B.isnan()[:, None]
    miss_BK = torch.where(known_B1, prediction_BK - target_B[:, None], 0.0)
    rows = known_B1.sum().clamp(min=1)
    return miss_BK.square().sum(0) / rows, miss_BK * (2 / rows)


def _era_pearson_of_known(prediction_BK: Tensor, target_B: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    parts, found = list(sizes), list[tuple[Tensor, Tensor]]()
    for p_BK, t_B in zip(torch.split(prediction_BK, parts), torch.split(target_B, parts), strict=True):
        known_B1 = ~t_B.isnan()[:, None]
        found.append(_pearson_of_centred(_centred(p_BK, known_B1), _centred(t_B[:, None], known_B1)[:, 0]))
    value_EK, slope_EBK = zip(*found, strict=True)
    return -torch.stack(value_EK).mean(0), torch.cat(slope_EBK).div_(-len(parts))


def _centred(x_BK: Tensor, known_B1: Tensor) -> Tensor:
    """The known rows less their mean, the others 0; exactly 0 where all that are known are equal."""
    # From the largest on: a mean of equal numbers may differ from them by rounding, their differences do not.
    below_BK = torch.where(known_B1, x_BK - torch.where(known_B1, x_BK, -torch.inf).amax(0), 0.0)
    return torch.where(known_B1, below_BK - below_BK.sum(0) / known_B1.sum().clamp(min=1), 0.0)


def _pearson(prediction_BK: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """One era's correlation `[K]` and its slope `[B, K]`."""
    return _pearson_of_centred(prediction_BK - prediction_BK.mean(0), target_B - target_B.mean())


def _pearson_of_centred(p_BK: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
    square, product_K = t_B @ t_B, t_B @ p_BK
    root_K = (p_BK.square().sum(0) * square + _TINY).sqrt()
    slope_BK = torch.outer(t_B, 1 / root_K) - p_BK * (product_K * square / root_K**3)
    return product_K / root_K, slope_BK


def _cosine(start: float, end: float, share: float) -> float:
    return start + (1 - math.cos(math.pi * share)) * (end - start) / 2


LOSSES: dict[str, Loss] = {"mse": mse, "era_pearson": era_pearson}
LOSSES_OF_KNOWN: dict[str, Loss] = {"mse": _mse_of_known, "era_pearson": _era_pearson_of_known}
OPTIMIZERS: dict[str, Callable[[Tensors, Tensors, float, dict[str, Any]], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "fastai_adam": _fastai_adam,
}
SCHEDULES: dict[str, Callable[[TrainingConfig, int, int], tuple[float, float | None]]] = {
    "constant": constant,
    "one_cycle": one_cycle,
    "warmup_cosine": warmup_cosine,
}
