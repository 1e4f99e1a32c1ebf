"""The loop: a recipe's members fitted to rows of the stored matrix, for N epochs or N steps, on the device there is.

Read `fit` first; it knows no recipe, loss or optimiser by name: those are small functions in tables, chosen by
`TrainingConfig`. Batches are gathered from the int8 matrix into buffers that are reused, without a DataLoader; all
members are trained on them at once (`members`). Which rows a step sees depends on the configuration's seed and the
step alone, while weights and dropout come from each member's own seed: so a member is, to float tolerance, what it
would be alone. A run that was killed goes on from its last epoch and ends with the same weights (`runs`); one that is
told `enough` is cut at that epoch. torch's global state is not touched.

Imports torch, numpy and the standard library alone.

Shape letters: N rows of a matrix, M rows chosen, F features, B batch, K members, E eras, T targets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from eraflow import read_ahead
from eraflow.batches import Batches
from eraflow.errors import InputError, TrainingError
from eraflow.exam import Exam
from eraflow.footprint import members_that_fit, way_to
from eraflow.gauge import Gauge
from eraflow.inference import predict
from eraflow.members import Members
from eraflow.models import Mlp, ModelConfig
from eraflow.optimization import LOSSES, SCHEDULES, add_l1, loss_of, optimizer_for, set_rate
from eraflow.progress import Progress, silent
from eraflow.rows import Plan, Rows
from eraflow.runs import CHECKPOINT, FINISHED, FORMAT, Run, are_finished, drop_checkpoint, part, read
from eraflow.speed import full_rows_a_second

__all__ = [
    "CHECKPOINT",
    "FINISHED",
    "Fitted",
    "TrainingConfig",
    "fit",
    "initial",
    "load_fitted",
    "members_at_once",
    "pick_device",
    "predict",
]


# On a CPU a step is shared by members as long as a member's activations stay in the caches [numbers]. Beyond, its
# products are all that counts: 3 members of `era-pearson` together took 1.02 times as long as one after the other, and
# three times the memory (two cores, AVX-512).
LARGE_STEP = 2_000_000


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is fitted."""

    loss: Literal["mse", "era_pearson"] = "mse"
    """"era_pearson" is minus the mean Pearson correlation of the eras in a batch."""
    optimizer: Literal["adam", "adamw", "fastai_adam"] = "adam"
    """"fastai_adam" is AdamW whose decay spares norms and biases."""
    learning_rate: float = 1e-3
    """Of the whole run for a constant schedule, otherwise its peak."""
    weight_decay: float = 0.0
    """"adam" adds it to the slope as an L2 penalty; "adamw" and "fastai_adam" take it from the weights directly."""
    l1: float = 0.0
    """L1 penalty: this times the sum of the absolute weights of all linear layers, biases left out."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the gradient's mean and of its square; a one-cycle schedule replaces the first."""
    eps: float = 1e-8
    schedule: Literal["constant", "one_cycle", "warmup_cosine"] = "constant"
    warmup_share: float = 0.05
    """Share of the steps that "warmup_cosine" takes to reach the peak."""
    cycle_rise_share: float = 0.25
    """Share of the steps that "one_cycle" takes to reach the peak."""
    cycle_div: float = 25.0
    """"one_cycle" starts at the peak divided by this."""
    cycle_div_final: float = 1e5
    """"one_cycle" ends at the peak divided by this."""
    cycle_momenta: tuple[float, float, float] = (0.95, 0.85, 0.95)
    """"one_cycle": the first beta at the start, at the peak and at the end."""
    epochs: int | None = None
    """Passes over the rows; either this or `steps` (0 is as not given)."""
    steps: int | None = None
    """Optimiser steps; either this or `epochs`."""
    batch_size: int | None = None
    """Rows a step; either this or `eras_per_step`."""
    eras_per_step: int | None = None
    """Whole eras a step; either this or `batch_size`."""
    shuffle: bool = False
    """Draw rows or eras in a new random order in each pass."""
    shuffle_block_rows: int | None = None
    """Shuffle blocks of this many neighbouring rows and mix the rows of 16 blocks at a time: for data larger than
    memory, whose single rows are slow to read. 0 or not given: shuffle all rows singly."""
    drop_last: bool = False
    """Leave out a pass's last, smaller batch (unless it is the only one)."""
    refit: bool = True
    """Fit again on all labelled eras for the same number of steps after the hold-out is reported."""
    seed: int = 0
    """Of the first member, whose successors count up, and of the order in which all of them see the rows."""
    device: str = "auto"
    """"auto" is CUDA, then MPS, then the CPU; or a device of torch by its name."""

    def __post_init__(self) -> None:
        for one, other in (("epochs", "steps"), ("batch_size", "eras_per_step")):
            values = {name: getattr(self, name) or 0 for name in (one, other)}
            if min(values.values()) < 0 or sum(value > 0 for value in values.values()) != 1:
                told = " and ".join(f"{name} is {value}" for name, value in values.items())
                raise ValueError(
                    f"exactly one of {one} and {other} must be above 0, however {told}; set the other to 0"
                )
            for name, value in values.items():
                object.__setattr__(self, name, value or None)
        if self.loss == "era_pearson" and self.eras_per_step is None:
            raise ValueError("loss era_pearson needs whole eras: give eras_per_step in place of batch_size")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, however it is {self.learning_rate}")
        for name in ("weight_decay", "l1"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, however it is {getattr(self, name)}")
        if self.shuffle_block_rows is not None:
            if self.shuffle_block_rows < 0:
                raise ValueError(f"shuffle_block_rows must be 0 or more, however it is {self.shuffle_block_rows}")
            if self.shuffle_block_rows and not (self.shuffle and self.batch_size):
                raise ValueError("shuffle_block_rows is of batches of shuffled rows: set shuffle=true and batch_size")
            object.__setattr__(self, "shuffle_block_rows", self.shuffle_block_rows or None)
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, however it is {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A network and how it came about."""

    model: Mlp
    """In evaluation mode, on `device`."""
    history: tuple[dict[str, Any], ...]
    """An entry an epoch: epoch, step, train_loss (the mean over the targets that are learned), learning_rate, seconds
    (its share of the time so far), and of a hold-out's examined eras, for the first target alone, validation_loss,
    spearman_mean, undefined, eras."""
    steps: int
    rows: int
    """Distinct training rows."""
    device: str
    complete: bool = True
    """False where it was cut at an epoch because there was no time for more."""


def fit(
    rows: Rows,
    *,
    model: ModelConfig,
    training: TrainingConfig,
    seeds: Sequence[int],
    folders: Sequence[Path],
    holdout: Rows | None = None,
    steps: int | None = None,
    enough: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
    stage: str = "train",
) -> list[Fitted]:
    """Fit a member for each of `seeds` to the labelled ones of `rows`; what is in `folders` is loaded or gone on from.

    Where `rows` have extra targets the networks have an output for each beside that of the target. `steps` replaces the
    length that `training` gives. With a `holdout`, loss and mean Spearman by era are taken on a sample of its eras
    after each epoch. `enough` is asked before each step: once it says so, what the last whole epoch gave is returned.
    Raises `TrainingError` for no labelled rows, too little memory, or a loss or weight that is not finite; `InputError`
    for a device that is not there; `OutOfTimeError` if there is no whole epoch to return.
    """
    device, rows = pick_device(training.device), _usable(rows, training)
    plan = Plan(rows, training, steps)
    identities = _identities(model, training, seeds, rows, plan.steps)
    if are_finished(folders, identities):
        drop_checkpoint(folders)
        return [load_fitted(folder, model, training.device) for folder in folders]
    _require_fit(plan, model, training, rows, len(seeds), device)
    masks = [torch.Generator(device).manual_seed(seed + 1) for seed in seeds]
    nets = [initial(model, rows.n_features, seed, rows.n_targets).to(device) for seed in seeds]
    members = Members(nets, plan.largest, masks)
    optimizer = optimizer_for(training, members.matrices, members.vectors)
    run = Run(members.nets, optimizer, masks, folders, identities, len(rows))
    loss, schedule = loss_of(training.loss, rows.n_targets), SCHEDULES[training.schedule]
    exam = None if holdout is None else Exam(holdout, LOSSES[training.loss], plan.rows_an_epoch)
    batches = Batches(rows, plan.largest, device, way_to(device, rows, model, len(seeds), plan))
    full_speed = full_rows_a_second(model, rows.n_features, len(seeds), plan, device)
    gauge = Gauge(progress, stage, steps=plan.steps, seconds=run.seconds, device=device, full_speed=full_speed)

    for step, sizes, code_BF, target in batches.of(read_ahead.steps(rows, plan, run.step, batches.way)):
        if enough():
            run.cut(stage)
            return _fitted(run, complete=False)
        rate = set_rate(optimizer, *schedule(training, step, plan.steps))
        loss_K, slope = loss(members.forward(code_BF), target, sizes)
        members.backward(slope)
        if training.l1:
            add_l1(members.matrices, training.l1)
        optimizer.step()
        gauge.add(step, loss_K, len(target))
        if plan.ends_epoch(step):
            entries = gauge.entries(step, rate, [] if exam is None else exam.of(members.nets))
            run.keep(step + 1, entries)
            gauge.show(step, entries)
    run.finish()
    return _fitted(run)


def initial(model: ModelConfig, n_features: int, seed: int, n_targets: int = 1) -> Mlp:
    """The network before any training, on the CPU: what `fit` starts from with this seed, an output a target."""
    return Mlp(model, n_features, n_targets, torch.Generator().manual_seed(seed))


def load_fitted(folder: Path, model: ModelConfig, device: str = "auto") -> Fitted:
    """What `fit` finished, or was cut at, in `folder`. Raises `TrainingError` if it is not there, or not of `model`."""
    tensors, told = read(folder / FINISHED)
    net = initial(model, told["features"], 0, told.get("targets", 1))  # which older files do not tell
    try:
        net.load_state_dict(part(tensors, "model."))
    except RuntimeError as error:  # torch's for tensors of other names or shapes
        why = str(error).splitlines()[-1].strip()
        raise TrainingError(
            f"{folder / FINISHED} must be of its recipe's layers, however: {why}; train again"
        ) from error
    net.to(pick_device(device)).eval()
    return Fitted(
        model=net,
        history=tuple(told["history"]),
        steps=told["step"],
        rows=told["rows"],
        device=told["device"],
        complete=told["complete"],
    )


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the best one that is there. Raises `InputError` if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"training.device must be auto, cuda, mps or cpu, however it is {name!r}") from error
    there = available.get(device.type, False)
    if not there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        found = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise InputError(
            f"training.device is {name!r}, however this machine has only: {found}; use one of these or auto"
        )
    return device


def members_at_once(rows: Rows, model: ModelConfig, training: TrainingConfig, members: int) -> int:
    """How many of `members` are best trained in one pass over `rows`. Raises as `fit` does where not even one fits."""
    device, rows = pick_device(training.device), _usable(rows, training)
    plan = Plan(rows, training, None)
    fitting = members_that_fit(model, rows, members, plan, training, device)
    return 1 if device.type == "cpu" and plan.largest * sum(model.hidden) > LARGE_STEP else fitting


def _usable(rows: Rows, training: TrainingConfig) -> Rows:
    kept = rows.labelled()
    if not len(kept):
        raise TrainingError(f"training needs rows with a target, however none of the {len(rows)} given has one")
    return kept if training.eras_per_step is None else kept.by_era()


def _require_fit(
    plan: Plan, model: ModelConfig, training: TrainingConfig, rows: Rows, members: int, device: torch.device
) -> None:
    if plan.smallest < 2 and (model.batch_norm or model.input_norm):
        raise TrainingError(
            "batch norm needs two rows in each step, however one step has a single row; set training.drop_last=true"
            " or another training.batch_size"
        )
    fitting = members_that_fit(model, rows, members, plan, training, device)
    if fitting < members:
        raise TrainingError(
            f"members trained in one pass must fit into the memory of device {device}, however {members} do not;"
            f" {fitting} would, one group after the other"
        )


def _fitted(run: Run, *, complete: bool = True) -> list[Fitted]:
    return [
        Fitted(
            model=net.eval(),
            history=tuple(entries[m] for entries in run.epochs),
            steps=run.step,
            rows=run.rows,
            device=str(run.device),
            complete=complete,
        )
        for m, net in enumerate(run.nets)
    ]


def _identities(
    model: ModelConfig, training: TrainingConfig, seeds: Sequence[int], rows: Rows, steps: int
) -> list[str]:
    """For each member a hash of all that decides its weights, so that a file of anything else is not gone on from."""
    decides = {name: value for name, value in dataclasses.asdict(training).items() if name not in ("device", "refit")}
    common = [FORMAT, dataclasses.asdict(model), decides, steps, rows.digest()]
    texts = [json.dumps([*common, seed], sort_keys=True) for seed in seeds]
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]
