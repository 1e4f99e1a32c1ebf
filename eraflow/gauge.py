"""The losses of a run: read from the device, checked, averaged by epoch and told to progress.

Shape letter: K members.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eraflow.errors import TrainingError
from eraflow.pace import Pace, speed_text
from eraflow.progress import Progress, silent

logger = logging.getLogger("eraflow")

SHOW_EVERY = 20
# Reading a loss makes the host wait for a GPU, so there it is done once in so many steps. Nothing is kept in between:
# a run that diverged ends with the step named and the last good checkpoint, as on the CPU, but up to 19 steps later.
READ_EVERY = 20

UNEXAMINED: dict[str, Any] = {"validation_loss": None, "spearman_mean": None, "undefined": None, "eras": None}


class Gauge:
    """Reads the members' losses from the device, refuses one that is not finite, and tells progress."""

    def __init__(
        self,
        progress: Progress,
        stage: str,
        *,
        steps: int,
        seconds: float,
        device: torch.device,
        full_speed: float | None = None,
    ) -> None:
        """`seconds` were spent before [s]; `full_speed` is that of the machine's matrix products alone [rows/s]."""
        self.progress, self.stage, self.steps = progress, stage, steps
        self.read_every = 1 if device.type == "cpu" else READ_EVERY
        self.pending: list[Tensor] = []
        self.losses: list[list[float]] = []
        """Of this epoch: for each step a loss a member."""
        self.began, self.shown, self.pace = time.perf_counter() - seconds, 0, Pace(full_speed)

    def add(self, step: int, loss_K: Tensor, rows: int) -> None:
        self.pending.append(loss_K)
        if len(self.pending) == self.read_every:
            self._read(step)
        self.pace.add(rows, finished=not self.pending)
        if step + 1 - self.shown >= SHOW_EVERY and not self.pending:
            loss, speed = math.fsum(self.losses[-1]) / len(self.losses[-1]), speed_text(self.pace.shown())
            self.shown = step + 1
            self.progress(self.stage, step + 1, self.steps, f"loss {loss:.5f}, {speed}")

    def entries(self, step: int, rate: float, examined: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """For each member the epoch that ends with `step`, for its history; `examined` is what the hold-out says."""
        self._read(step)
        losses, self.losses = list(zip(*self.losses, strict=True)), []
        seconds = (time.perf_counter() - self.began) / len(losses)
        speed = self.pace.told()
        return [
            {"step": step + 1, "train_loss": math.fsum(loss) / len(loss), "learning_rate": rate, "seconds": seconds}
            | speed
            | (examined[m] if examined else UNEXAMINED)
            for m, loss in enumerate(losses)
        ]

    def show(self, step: int, entries: Sequence[dict[str, Any]]) -> None:
        """Log a whole epoch and tell progress of it; the time it took is not counted to the next rows."""
        text = f"training loss {_mean(entries, 'train_loss')}"
        if entries[0]["eras"]:
            text += f", validation loss {_mean(entries, 'validation_loss')}"
            text += f", mean era Spearman {_mean(entries, 'spearman_mean')} of {entries[0]['eras']} eras"
        if speed := speed_text(entries[0]):
            text += f", {speed}"
        # One that nobody follows is one of many.
        level = logging.DEBUG if self.progress is silent else logging.INFO
        logger.log(level, "%s step %d of %d: %s", self.stage, step + 1, self.steps, text)
        self.progress(self.stage, step + 1, self.steps, text)
        self.shown = step + 1
        self.pace.go_on()

    def _read(self, step: int) -> None:
        if not self.pending:
            return
        found = torch.cat(self.pending).view(len(self.pending), -1).tolist()
        for i, loss_K in enumerate(found):
            wrong = [loss for loss in loss_K if not math.isfinite(loss)]
            if wrong:
                raise TrainingError(
                    f"the training loss must be finite, however it was {wrong[0]} at step"
                    f" {step + 2 - len(found) + i} of {self.steps}; lower training.learning_rate; the last whole"
                    " epoch's checkpoint is kept"
                )
        self.losses += found
        self.pending = []


def _mean(entries: Sequence[dict[str, Any]], key: str) -> str:
    """The members' mean for people; undefined if it is for one of them."""
    values = [entry[key] for entry in entries]
    return "undefined" if None in values else f"{math.fsum(values) / len(values):.5f}"
