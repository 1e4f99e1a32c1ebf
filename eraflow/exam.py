"""What the hold-out says of networks in training: loss and mean Spearman by era, on the same whole eras each time.

Networks that learn several targets are judged by the first one, which is what they predict.

A pass over the whole hold-out after each epoch would cost as much as the training itself, so the eras are a fixed,
evenly spread sample; a history entry says how many they were. What is reported in the end is taken on all eras
(`validation`).

Shape letters: M rows, K networks, E eras.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eraflow.errors import TrainingError
from eraflow.inference import predict
from eraflow.metrics import PreparedSpearman
from eraflow.models import Mlp
from eraflow.optimization import Loss
from eraflow.rows import Rows

# Examined rows, as a share of the rows that were trained on since: forward alone is a third of a step, so 8 % of time.
SHARE = 0.25
# Fewer eras than this would say little; a smaller hold-out is always examined whole.
FEWEST_ERAS = 40


class Exam:
    """The examined eras of `holdout`; ranks of their target are prepared once."""

    def __init__(self, holdout: Rows, loss: Loss, rows_between: int) -> None:
        """`rows_between` are the rows that are trained on between two exams."""
        self.rows = sample(holdout.labelled().by_era(), round(SHARE * rows_between))
        if not len(self.rows):
            raise TrainingError("the hold-out must have rows with a target, however none has one; give newer data")
        self.loss = loss
        self.sizes = np.unique(self.rows.era_M, return_counts=True)[1].tolist()
        self.spearman = PreparedSpearman(self.rows.target_M, self.rows.era_M)

    def of(self, nets: Sequence[Mlp]) -> list[dict[str, Any]]:
        """For each network what its history takes: validation_loss, spearman_mean, undefined, eras."""
        prediction_KM = predict(nets, self.rows)
        if not np.isfinite(prediction_KM).all():
            raise TrainingError(
                "predictions of the hold-out must be finite, however the training diverged; lower"
                " training.learning_rate; the last whole epoch's checkpoint is kept"
            )
        prediction_MK, target_M = torch.from_numpy(prediction_KM).T, torch.from_numpy(self.rows.target_M)
        loss_K = self.loss(prediction_MK, target_M, self.sizes)[0].tolist()
        return [self._entry(*found) for found in zip(loss_K, prediction_KM, strict=True)]

    def _entry(self, loss: float, prediction_M: npt.NDArray[np.float32]) -> dict[str, Any]:
        score_E = self.spearman(prediction_M)[1]
        scored = score_E[~np.isnan(score_E)]
        return {
            "validation_loss": loss if math.isfinite(loss) else None,
            "spearman_mean": float(scored.mean()) if len(scored) else None,
            "undefined": len(score_E) - len(scored),
            "eras": len(score_E),
        }


def sample(rows: Rows, wanted: int) -> Rows:
    """Whole eras of `rows` (which are in order of eras), evenly spread, the newest included: about `wanted` rows."""
    bound_E, size_E = np.unique(rows.era_M, return_index=True, return_counts=True)[1:]
    eras = max(FEWEST_ERAS, round(len(size_E) * wanted / max(1, len(rows))))
    if eras >= len(size_E):
        return rows
    chosen = np.unique(np.linspace(len(size_E) - 1, 0, eras).round().astype(np.int64))
    return rows.take(np.concatenate([np.arange(bound_E[e], bound_E[e] + size_E[e]) for e in chosen]))
