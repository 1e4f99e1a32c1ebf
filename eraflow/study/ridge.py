"""Ridge regression on the stored codes: the straight line that every network has to beat.

Normal equations, summed a block of rows at a time, so that memory does not grow with the rows.

Shape letters: M rows, B block, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from eraflow.batches import Batches
from eraflow.errors import TrainingError
from eraflow.progress import Progress, silent
from eraflow.rows import Rows

# Codes are -2..2: the products' sums over so many rows are whole numbers below 2**24 and exact in float32.
BLOCK_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True)
class RidgeConfig:
    """A linear model with an intercept."""

    penalty: float = 0.01
    """Added to each feature's variance, as a share of the mean variance."""

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise ValueError(f"penalty must be above 0, however it is {self.penalty}")


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """`code @ weight_F + intercept`."""

    weight_F: npt.NDArray[np.float32]
    intercept: float

    def predict(self, rows: Rows, progress: Progress = silent, stage: str = "predict") -> npt.NDArray[np.float32]:
        """Predictions float32 `[M]`."""
        weight_F = torch.from_numpy(self.weight_F)
        prediction_M = np.empty(len(rows), np.float32)
        batches = Batches(rows, min(BLOCK_ROWS, len(rows)), torch.device("cpu"))
        for start in range(0, len(rows), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, len(rows))
            code_BF, _ = batches.load(np.arange(start, stop))
            prediction_M[start:stop] = (code_BF @ weight_F).numpy()
            progress(stage, stop, len(rows))
        return prediction_M + np.float32(self.intercept)


def fit_ridge(rows: Rows, config: RidgeConfig, *, progress: Progress = silent, stage: str = "train") -> Ridge:
    """Fit to the labelled ones of `rows`. Raises `TrainingError` where there is none, or nothing varies."""
    kept = rows.labelled()
    if not len(kept):
        raise TrainingError(f"training needs rows with a target, however none of the {len(rows)} given has one")
    gram_FF, code_F, product_F, target = _sums(kept, progress, stage)
    count = len(kept)
    # Of the centred columns; exact sums, so nothing is lost by taking the means off afterwards.
    covariance_FF = gram_FF.div_(count).sub_(torch.outer(code_F, code_F).div_(count**2))
    mean_variance = float(covariance_FF.diagonal().mean())
    if not mean_variance > 0:
        raise TrainingError("a ridge needs features that vary, however all are constant; use other features")
    covariance_FF.diagonal().add_(config.penalty * mean_variance)
    wanted_F = product_F / count - code_F * (target / count**2)
    weight_F = torch.cholesky_solve(wanted_F[:, None], torch.linalg.cholesky(covariance_FF))[:, 0]
    intercept = (target - float(code_F @ weight_F)) / count
    return Ridge(weight_F=weight_F.to(torch.float32).numpy(), intercept=intercept)


def _sums(rows: Rows, progress: Progress, stage: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Of `code codeᵀ` `[F, F]`, `code` `[F]`, `code · target` `[F]` and `target`, float64."""
    batches = Batches(rows, min(BLOCK_ROWS, len(rows)), torch.device("cpu"))
    gram_FF = torch.zeros(rows.n_features, rows.n_features, dtype=torch.float64)
    code_F, product_F = torch.zeros(2, rows.n_features, dtype=torch.float64)
    for start in range(0, len(rows), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(rows))
        code_BF, target_B = batches.load(np.arange(start, stop))
        gram_FF += code_BF.T @ code_BF
        code_F += code_BF.sum(0)
        product_F += target_B @ code_BF
        progress(stage, stop, len(rows))
    return gram_FF, code_F, product_F, float(rows.target_M.sum(dtype=np.float64))
