"""How fast this machine multiplies matrices, so that anyone sees when a training is slower than it should be.

Shape letters: B batch, F features, H hidden, K members.
"""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from eraflow.models import ModelConfig

if TYPE_CHECKING:
    from eraflow.rows import Plan

# Of a run that takes some seconds on a laptop; a shorter one is not worth the measurement.
WORTH_MEASURING_FLOP = 2e12

ROUNDS, B, F, H = 12, 2048, 1024, 512


def full_rows_a_second(
    model: ModelConfig, n_features: int, members: int, plan: Plan, device: torch.device
) -> float | None:
    """The rows/s of a step that had only its matrix products to do; None for a run that is over in a moment."""
    a_row = flop_a_row(model, n_features, members)
    if plan.steps * plan.largest * a_row < WORTH_MEASURING_FLOP:
        return None
    return flop_a_second(device) / a_row


def flop_a_row(model: ModelConfig, n_features: int, members: int) -> float:
    """Of the products a row needs: forward and the weights' slope in each layer, the input's in all but the first."""
    first, *rest = (2.0 * n_in * n_out for n_in, n_out in pairwise([n_features, *model.hidden, 1]))
    return members * (2 * first + 3 * sum(rest))


@cache
def flop_a_second(device: torch.device) -> float:
    """Of float32 matrix products on the device, in the best of some rounds, measured once in a process."""
    x_BF, weight_HF = torch.ones(B, F, device=device), torch.ones(H, F, device=device)
    out_BH, best_s = torch.empty(B, H, device=device), float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        torch.mm(x_BF, weight_HF.t(), out=out_BH)
        out_BH[0, 0].item()  # waits for a GPU
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * B * F * H / best_s
