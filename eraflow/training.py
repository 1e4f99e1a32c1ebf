"""The loop: a network fitted to rows of the stored matrix, for N epochs or N steps, on the device that is there.

Read `fit` first; it knows no recipe, loss or optimiser by name: those are small functions in tables, chosen by
`TrainingConfig`. Batches are gathered from the int8 matrix into buffers that are reused, without a DataLoader.
Which rows a step sees depends on seed and step alone and dropout has a generator of its own, so a run that was
killed goes on from its last epoch and ends with the same weights; one that is told `enough` is cut at that epoch.
torch's global state is not touched.

Imports torch, numpy and the standard library alone. Nothing is pickled.

Shape letters: N rows of a matrix, M rows chosen, F features, B batch, K networks, E eras.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eraflow.errors import InputError, OutOfTimeError, TrainingError
from eraflow.gauge import Gauge
from eraflow.metrics import PreparedSpearman
from eraflow.models import Mlp, ModelConfig
from eraflow.optimization import LOSSES, SCHEDULES, optimizer_for, set_rate
from eraflow.progress import Progress, silent
from eraflow.rows import Batches, Plan, Rows

FORMAT = 1
CHECKPOINT, FINISHED = "checkpoint.safetensors", "fitted.safetensors"
INFERENCE_ROWS = 4096


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
    drop_last: bool = False
    """Leave out a pass's last, smaller batch (unless it is the only one)."""
    refit: bool = True
    """Fit again on all labelled eras for the same number of steps after the hold-out is reported."""
    seed: int = 0
    """Of the first member; the next ones count up."""
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
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, however it is {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A network and how it came about."""

    model: Mlp
    """In evaluation mode, on `device`."""
    history: tuple[dict[str, Any], ...]
    """An entry an epoch: epoch, step, train_loss, validation_loss, spearman_mean, undefined, learning_rate, seconds."""
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
    seed: int,
    folder: Path,
    holdout: Rows | None = None,
    steps: int | None = None,
    enough: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
    stage: str = "train",
) -> Fitted:
    """Fit `model` to the labelled ones of `rows`; what is in `folder` is loaded or gone on from.

    `steps` replaces the length that `training` gives. With a `holdout`, its loss and mean Spearman by era are taken
    after each epoch. `enough` is asked before each step: once it says so, what the last whole epoch gave is returned.
    Raises `TrainingError` for no labelled rows or a loss that is not finite, `InputError` for a device that is not
    there, `OutOfTimeError` if there is no whole epoch to return.
    """
    device = pick_device(training.device)
    rows = _usable(rows, training)
    plan = Plan(rows, training, seed, steps)
    if plan.smallest < 2 and (model.batch_norm or model.input_norm):
        raise TrainingError(
            "batch norm needs two rows in each step, however one step has a single row; set training.drop_last=true"
            " or another training.batch_size"
        )
    run = _Run(model, training, seed, rows, plan, folder, device)
    if run.finished:
        return run.fitted()
    exam = None if holdout is None else _Exam(holdout, training)
    batches = Batches(rows, plan.largest, device)
    loss_of, schedule = LOSSES[training.loss], SCHEDULES[training.schedule]
    gauge = Gauge(progress, stage, plan.steps, run.seconds)

    run.net.train()
    for step in range(run.step, plan.steps):
        if enough():
            return run.cut(stage)
        index_B, sizes = plan.batch(step)
        code_BF, target_B = batches.load(index_B)
        rate = set_rate(run.optimizer, *schedule(training, step, plan.steps))
        run.optimizer.zero_grad()
        loss = loss_of(run.net(code_BF).squeeze(1), target_B, sizes)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        run.optimizer.step()
        gauge.add(step, loss.detach(), len(index_B))
        if plan.ends_epoch(step):
            entry = gauge.entry(step, rate) | ({} if exam is None else exam.of(run.net))
            run.keep(step + 1, entry)
            gauge.show(step, entry)
            run.net.train()
    return run.finish()


def predict(
    models: Sequence[Mlp], rows: Rows, *, progress: Progress = silent, stage: str = "predict"
) -> npt.NDArray[np.float32]:
    """Predictions float32 `[K, M]` of several networks in one pass over `rows`; leaves them in evaluation mode."""
    device = next(models[0].parameters()).device
    batches = Batches(rows, min(INFERENCE_ROWS, len(rows)), device)
    prediction_KM = np.empty((len(models), len(rows)), np.float32)
    for net in models:
        net.eval()
    with torch.no_grad():
        for start in range(0, len(rows), INFERENCE_ROWS):
            here = np.arange(start, min(start + INFERENCE_ROWS, len(rows)))
            code_BF, _ = batches.load(here)
            for k, net in enumerate(models):
                prediction_KM[k, here] = net(code_BF).squeeze(1).cpu().numpy()
            progress(stage, here[-1] + 1, len(rows))
    return prediction_KM


def initial(model: ModelConfig, n_features: int, seed: int) -> Mlp:
    """The network before any training, on the CPU: what `fit` starts from with this seed."""
    return Mlp(model, n_features, 1, torch.Generator().manual_seed(seed))


def load_fitted(folder: Path, model: ModelConfig, device: str = "auto") -> Fitted:
    """What `fit` finished, or was cut at, in `folder`. Raises `TrainingError` if it is not there or not readable."""
    cut = not (folder / FINISHED).exists() and (folder / CHECKPOINT).exists()
    tensors, told = _read(folder / (CHECKPOINT if cut else FINISHED))
    net = initial(model, told["features"], 0)
    net.load_state_dict(_part(tensors, "model."))
    chosen = pick_device(device)
    net.to(chosen).eval()
    return Fitted(
        model=net,
        history=tuple(told["history"]),
        steps=told["step"],
        rows=told["rows"],
        device=told["device"],
        complete=not cut,
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


class _Run:
    """What a run carries from step to step and through a kill: network, optimiser, generator, history."""

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        seed: int,
        rows: Rows,
        plan: Plan,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.folder, self.device, self.rows, self.features = folder, device, len(rows), rows.n_features
        self.net = initial(model, rows.n_features, seed).to(device)
        self.optimizer = optimizer_for(training, self.net)
        self.masks = torch.Generator(device).manual_seed(seed + 1)
        self.net.draw_masks_from(self.masks)
        self.identity = _identity(model, training, seed, rows, plan.steps)
        self.step, self.history, self.finished = 0, list[dict[str, Any]](), False
        for name in (FINISHED, CHECKPOINT):
            if (folder / name).exists() and not self.finished:
                self._go_on_from(folder / name)

    @property
    def seconds(self) -> float:
        """Spent so far [s], killed runs included."""
        return float(self.history[-1]["seconds"]) if self.history else 0.0

    def keep(self, step: int, entry: dict[str, Any]) -> None:
        """Write everything as one file, so that no two generations can mix."""
        self.step = step
        self.history.append({"epoch": len(self.history) + 1} | entry)
        tensors = _weights(self.net) | {"masks": self.masks.get_state()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        self._write(CHECKPOINT, tensors)

    def finish(self) -> Fitted:
        """Write the weights for good; from now on this folder is loaded and not trained again."""
        self._write(FINISHED, _weights(self.net))
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return self.fitted()

    def cut(self, stage: str) -> Fitted:
        """What the last whole epoch gave; its checkpoint stays, so a later run goes on from there."""
        if not self.history:
            raise OutOfTimeError(f"{stage}: not one epoch could be finished in the time that is left")
        self._go_on_from(self.folder / CHECKPOINT)
        return dataclasses.replace(self.fitted(), complete=False)

    def fitted(self) -> Fitted:
        self.net.eval()
        history = tuple(self.history)
        return Fitted(model=self.net, history=history, steps=self.step, rows=self.rows, device=str(self.device))

    def _go_on_from(self, path: Path) -> None:
        try:
            tensors, told = _read(path)
        except TrainingError:
            return  # damaged: what it held is computed again
        if told["identity"] != self.identity:
            return  # of another configuration or other rows
        if path.name == CHECKPOINT and torch.device(told["device"]).type != self.device.type:
            return  # another kind of device draws its masks in another way
        self.net.load_state_dict(_part(tensors, "model."))
        self.step, self.history, self.finished = told["step"], told["history"], path.name == FINISHED
        if not self.finished:
            self.masks.set_state(tensors["masks"])
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _part(tensors, "optimizer.").items():
                number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensor
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        from eraflow.store import write_atomically

        told = {
            "format": FORMAT,
            "identity": self.identity,
            "step": self.step,
            "rows": self.rows,
            "features": self.features,
            "device": str(self.device),
            "history": self.history,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        write_atomically(self.folder / name, save(stored, {"eraflow": json.dumps(told)}))


class _Exam:
    """Loss and mean Spearman by era on the hold-out; ranks of the target are prepared once."""

    def __init__(self, holdout: Rows, training: TrainingConfig) -> None:
        self.rows = holdout.labelled().by_era()
        if not len(self.rows):
            raise TrainingError("the hold-out must have rows with a target, however none has one; give newer data")
        self.loss_of = LOSSES[training.loss]
        self.sizes = np.unique(self.rows.era_M, return_counts=True)[1].tolist()
        self.spearman = PreparedSpearman(self.rows.target_M, self.rows.era_M)

    def of(self, net: Mlp) -> dict[str, Any]:
        prediction_M = predict([net], self.rows)[0]
        if not np.isfinite(prediction_M).all():
            raise TrainingError(
                "predictions of the hold-out must be finite, however the training diverged; lower"
                " training.learning_rate; the last whole epoch's checkpoint is kept"
            )
        loss = self.loss_of(torch.from_numpy(prediction_M), torch.from_numpy(self.rows.target_M), self.sizes).item()
        scored = (score_E := self.spearman(prediction_M)[1])[~np.isnan(score_E)]
        mean = float(scored.mean()) if len(scored) else None
        known = loss if math.isfinite(loss) else None
        return {"validation_loss": known, "spearman_mean": mean, "undefined": len(score_E) - len(scored)}


def _usable(rows: Rows, training: TrainingConfig) -> Rows:
    kept = rows.labelled()
    if not len(kept):
        raise TrainingError(f"training needs rows with a target, however none of the {len(rows)} given has one")
    return kept if training.eras_per_step is None else kept.by_era()


def _identity(model: ModelConfig, training: TrainingConfig, seed: int, rows: Rows, steps: int) -> str:
    """A hash of all that decides the weights, so that a checkpoint of anything else is not gone on from."""
    decides = {k: v for k, v in dataclasses.asdict(training).items() if k not in ("device", "refit", "seed")}
    text = json.dumps([FORMAT, dataclasses.asdict(model), decides, seed, steps, rows.digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _weights(net: Mlp) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in net.state_dict().items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["eraflow"])
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}, not {FORMAT}")
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} must hold a trained network, however it cannot be read ({error}); train again"
        ) from error
