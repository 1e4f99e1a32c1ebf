"""The write-up's PyTorch model: a data frame copied to float32, rows taken one by one, 256 ReLU units, MSE, Adam.

Its loader reads ahead in a thread; its validation takes the whole set as one batch and groups by era.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Queue
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

BATCH_SIZE = 2048
HIDDEN = 256


class FrameRows(Dataset[Any]):
    """Each row of a frame as (features float32, targets float32, era)."""

    def __init__(self, frame: pd.DataFrame, features: list[str], targets: list[str]) -> None:
        self.x = frame[features].copy().to_numpy().astype(np.float32)
        self.y = frame[targets].copy().to_numpy().astype(np.float32)
        self.era = frame["era"].copy().to_numpy()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Any, Any, Any]:
        return self.x[i], self.y[i], self.era[i]


class WriteUp:
    """The network with its optimiser; torch's global seed decides how it starts."""

    def __init__(self, n_features: int) -> None:
        self.net = nn.Sequential(nn.Linear(n_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.adam, self.loss = torch.optim.Adam(self.net.parameters()), nn.MSELoss()

    def epoch(self, rows: FrameRows) -> None:
        """One pass in order."""
        loader = DataLoader(rows, batch_size=BATCH_SIZE, shuffle=False, num_workers=0)
        for x, y, _ in tqdm(_read_ahead(loader), total=len(loader), leave=False, disable=True):
            self.adam.zero_grad()
            self.loss(self.net(x), y).backward()
            self.adam.step()

    @torch.no_grad()
    def validate(self, rows: FrameRows) -> float:
        """The mean Spearman by era."""
        x, y, era = next(iter(DataLoader(rows, batch_size=len(rows))))
        frame = pd.DataFrame({"p": self.net(x).numpy()[:, 0], "y": y.numpy()[:, 0], "era": np.asarray(era)})
        return float(frame.groupby("era")[["p", "y"]].apply(lambda part: spearmanr(part["p"], part["y"])[0]).mean())


def _read_ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """The same batches, the next one made by a thread while one is worked on."""
    queue: Queue[Any] = Queue(1)
    end = object()

    def fill() -> None:
        for batch in batches:
            queue.put(batch)
        queue.put(end)

    threading.Thread(target=fill, daemon=True).start()
    while (batch := queue.get()) is not end:
        yield batch
