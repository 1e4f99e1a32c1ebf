"""How much memory a run of the loop takes, and what would fit where there is less.

Shape letters: B batch, F features, H hidden, K members, T targets.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eraflow.errors import TrainingError
from eraflow.models import ModelConfig

if TYPE_CHECKING:
    from eraflow.batches import Way
    from eraflow.rows import Plan, Rows
    from eraflow.training import TrainingConfig

# The rest is for the matrices' pages, for the examination of the hold-out and for other processes.
SHARE = 0.8

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def bytes_a_row(model: ModelConfig, n_features: int, members: int, n_targets: int = 1) -> int:
    """What one more row in a step takes in the buffers of `members` and `batches.Batches` [bytes]."""
    floats, kept = sum(model.hidden) + n_targets, 0  # what each linear layer gives
    for units in model.hidden:
        floats += units if model.activation == "silu" or not model.batch_norm else 0  # its way back
        floats += 2 * units if model.batch_norm else 0
        kept += units if model.dropout else 0
    # A batch as float32 and as int8: the second int8 buffer is taken on CUDA alone, where codes are streamed.
    return n_features * (4 + 2) + members * (4 * floats + kept)


def bytes_of_weights(model: ModelConfig, n_features: int, members: int, n_targets: int = 1) -> int:
    """Weights, slopes and moments, and a checkpoint while it is written [bytes]."""
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise([n_features, *model.hidden, n_targets]))
    parameters += 2 * sum(model.hidden) if model.batch_norm else 0
    parameters += 2 * n_features if model.input_norm else 0
    folded = n_features * model.hidden[0] if model.input_norm else 0
    return members * 4 * (parameters * (4 + 2 * 3) + folded)


def members_that_fit(
    model: ModelConfig, rows: Rows, members: int, plan: Plan, training: TrainingConfig, device: torch.device
) -> int:
    """How many of `members` are to be trained on `rows` in one pass: all, or fewer where that does not fit into memory.

    Raises `TrainingError` where not even one fits, with the batch that would.
    """
    free = free_bytes(device)
    if free is None:
        return members
    usable = round(SHARE * free)
    for wanted in range(members, 0, -1):
        if _bytes_of_a_step(model, rows, wanted, plan) <= usable:
            return wanted
    left = usable - bytes_of_weights(model, rows.n_features, 1, rows.n_targets)
    fitting = max(0, left) // bytes_a_row(model, rows.n_features, 1, rows.n_targets)
    needed = _bytes_of_a_step(model, rows, 1, plan)
    raise TrainingError(
        f"a step of {plan.largest:,} rows of {rows.n_features} features must fit into the memory of device {device},"
        f" however it takes {_size(needed)} of {_size(usable)} that may be used; {_advice(fitting, plan, training)}"
    )


def way_to(device: torch.device, rows: Rows, model: ModelConfig, members: int, plan: Plan) -> Way:
    """How the codes of `rows` reach the device (`batches`): resident where a step of `members` leaves room for all."""
    free = free_bytes(device) if device.type == "cuda" else None
    if free is None:
        return "plain"
    needed = len(rows) * (rows.n_features + 4 * rows.n_targets) + _bytes_of_a_step(model, rows, members, plan)
    return "resident" if needed <= round(SHARE * free) else "streamed"


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device now, a container's limit included; None where nobody tells [bytes]."""
    if device.type == "cuda":
        # What torch keeps of earlier runs is free for this one.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type != "cpu":
        return None
    free = _kilobytes(MEMINFO, "MemAvailable:")
    if free is None:
        return None
    limit, used = _text(CGROUP / "memory.max"), _kilobytes(CGROUP / "memory.stat", "anon ", unit=1)
    return min(free, int(limit) - used) if limit.isdigit() and used is not None else free


def _bytes_of_a_step(model: ModelConfig, rows: Rows, members: int, plan: Plan) -> int:
    a_row = bytes_a_row(model, rows.n_features, members, rows.n_targets)
    return bytes_of_weights(model, rows.n_features, members, rows.n_targets) + plan.largest * a_row


def _advice(rows: int, plan: Plan, training: TrainingConfig) -> str:
    if training.eras_per_step is None:
        fits = f"training.batch_size={rows}" if rows else ""
    else:
        eras = rows * plan.a_step // plan.largest
        fits = f"training.eras_per_step={eras}" if eras else ""
    other = "a smaller data.feature_set or model.hidden"
    return f"{fits} would fit, and so may {other}" if fits else f"set {other}"


def _kilobytes(path: Path, name: str, unit: int = 1024) -> int | None:
    line = next((line for line in _text(path).splitlines() if line.startswith(name)), None)
    return None if line is None else int(line.split()[1]) * unit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
