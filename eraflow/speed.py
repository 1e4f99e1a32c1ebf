"""How fast this machine multiplies matrices, so that anyone sees when a training is slower than it should be (`pace`).

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

# Of a run that takes ten seconds or more on a laptop; a shorter one is not worth the measurement.
WORTH_MEASURING_FLOP = 4e12
# For this long products are tried, and the fastest counts: it has to find a moment in which nothing else has the
# cores. With two to four other processes at work on two cores, rounds of 1.3 ms for half a second found at least 85 %
# of 415 GFLOP/s in 16 of 18 tries; twelve rounds of 5 ms, as they were before, found 40 %, and so hid all of it.
MEASURE_S = 0.5
ROWS_A_THREAD, F, H = 256, 1024, 512
# Twelve rounds of a few milliseconds fill a GPU.
ROUNDS, LARGE = 12, 4096


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


def flop_a_second(device: torch.device) -> float:
    """Of float32 matrix products on the device, with the threads that torch uses; measured once in a process."""
    return _measured(device, torch.get_num_threads() if device.type == "cpu" else 0)


@cache
def _measured(device: torch.device, threads: int) -> float:
    B, n_in, n_out = (ROWS_A_THREAD * threads, F, H) if threads else (LARGE, LARGE, LARGE)
    x_BF, weight_HF = torch.ones(B, n_in, device=device), torch.ones(n_out, n_in, device=device)
    out_BH, best_s, began, rounds = torch.empty(B, n_out, device=device), float("inf"), time.perf_counter(), 0
    while rounds < ROUNDS or (threads and time.perf_counter() - began < MEASURE_S):
        started = time.perf_counter()
        torch.mm(x_BF, weight_HF.t(), out=out_BH)
        out_BH[0, 0].item()  # waits for a GPU
        best_s, rounds = min(best_s, time.perf_counter() - started), rounds + 1
    return 2.0 * B * n_in * n_out / best_s
