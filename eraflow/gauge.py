"""The losses of a run: read from the device now and then, checked, averaged by epoch and told to progress."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from torch import Tensor

from eraflow.errors import TrainingError
from eraflow.progress import Progress

logger = logging.getLogger("eraflow")

# Reading a loss makes the host wait for the device, so it is done once in so many steps.
LOSS_EVERY = 20


class Gauge:
    """Reads the losses from the device now and then, refuses one that is not finite, and tells progress."""

    def __init__(self, progress: Progress, stage: str, steps: int, seconds: float) -> None:
        self.progress, self.stage, self.steps = progress, stage, steps
        self.pending: list[Tensor] = []
        self.losses: list[float] = []
        self.rows, self.started = 0, time.perf_counter()
        self.began = self.started - seconds

    def add(self, step: int, loss: Tensor, rows: int) -> None:
        self.pending.append(loss)
        self.rows += rows
        if len(self.pending) == LOSS_EVERY:
            self._read(step)
            now = time.perf_counter()
            text = f"loss {self.losses[-1]:.5f}, {self.rows / max(now - self.started, 1e-9):,.0f} rows/s"
            self.rows, self.started = 0, now
            self.progress(self.stage, step + 1, self.steps, text)

    def entry(self, step: int, rate: float) -> dict[str, Any]:
        """The epoch that ends with `step`, for the history."""
        self._read(step)
        mean = math.fsum(self.losses) / len(self.losses)
        self.losses = []
        return {
            "step": step + 1,
            "train_loss": mean,
            "validation_loss": None,
            "spearman_mean": None,
            "undefined": None,
            "learning_rate": rate,
            "seconds": time.perf_counter() - self.began,
        }

    def show(self, step: int, entry: dict[str, Any]) -> None:
        """Log a whole epoch and tell progress of it; the time it took is not counted to the next rows."""
        text = f"training loss {entry['train_loss']:.5f}"
        if entry["validation_loss"] is not None:
            mean = "undefined" if entry["spearman_mean"] is None else f"{entry['spearman_mean']:.4f}"
            text += f", validation loss {entry['validation_loss']:.5f}, mean era Spearman {mean}"
        logger.info("%s step %d of %d: %s", self.stage, step + 1, self.steps, text)
        self.progress(self.stage, step + 1, self.steps, text)
        self.rows, self.started = 0, time.perf_counter()

    def _read(self, step: int) -> None:
        if not self.pending:
            return
        found = torch.stack(self.pending).tolist()
        for i, loss in enumerate(found):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the training loss must be finite, however it was {loss} at step {step + 2 - len(found) + i} of"
                    f" {self.steps}; lower training.learning_rate; the last whole epoch's checkpoint is kept"
                )
        self.losses += found
        self.pending = []
