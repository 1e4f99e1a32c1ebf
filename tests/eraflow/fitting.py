"""What the tests of the loop share: a small market, one member fitted to it, and the plain loop to hold it against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eraflow.models import ModelConfig
from eraflow.rows import Plan, Rows
from eraflow.training import Fitted, TrainingConfig, fit, initial

SMALL = ModelConfig(hidden=(16, 8), activation="silu", dropout=0.2)
ROWWISE = TrainingConfig(epochs=4, batch_size=64, shuffle=True, learning_rate=3e-3, device="cpu")
ERAWISE = TrainingConfig(
    loss="era_pearson",
    optimizer="adamw",
    schedule="warmup_cosine",
    steps=120,
    eras_per_step=3,
    shuffle=True,
    device="cpu",
)


def market(seed: int = 0, *, eras: int = 10, rows: int = 40, features: int = 12, first_era: int = 1) -> Rows:
    """Rows with a linear signal; one in ten has no target."""
    rng = np.random.default_rng(seed)
    code = rng.integers(-2, 3, (eras * rows, features)).astype(np.int8)
    score = code[:, :3].sum(1) + rng.standard_normal(len(code))
    target = (np.digitize(score, [-3, -1, 1, 3]) / 4).astype(np.float32)
    target[rng.random(len(code)) < 0.1] = np.nan
    return Rows.of(code, target, np.repeat(np.arange(first_era, first_era + eras, dtype=np.int32), rows))


def run(folder: Path, training: TrainingConfig = ROWWISE, seed: int = 0, **more: Any) -> Fitted:
    """One member, by default of the small network on the small market."""
    return run_members([folder], training, [seed], **more)[0]


def run_members(folders: list[Path], training: TrainingConfig, seeds: list[int], **more: Any) -> list[Fitted]:
    rows, model = more.pop("rows", None) or market(), more.pop("model", SMALL)
    return fit(rows, model=model, training=training, seeds=seeds, folders=folders, **more)


def same_weights(one: Fitted, other: Fitted) -> bool:
    """To the bit."""
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def assert_close_weights(one: nn.Module, other: nn.Module) -> None:
    """To the tolerance that float32 sums in another order need after some dozen steps."""
    for (name, ours), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        close = torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        assert close, f"{name} is off by {(ours - theirs).abs().max().item()}"


def plain_fit(rows: Rows, model: ModelConfig, training: TrainingConfig, seed: int, steps: int) -> nn.Module:
    """The plain counterpart of `fit`: rows taken one by one, autograd on `Mlp`, torch's own unfused optimiser."""
    kept = rows.labelled() if training.eras_per_step is None else rows.labelled().by_era()
    net, plan = initial(model, rows.n_features, seed), Plan(kept, training, steps)
    net.draw_masks_from(torch.Generator().manual_seed(seed + 1))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    optimizer = kind(
        net.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, eps=training.eps, foreach=False
    )
    net.train()
    for step in range(plan.steps):
        index, sizes = plan.batch(step)
        code = torch.stack([_row(kept, i) for i in index.tolist()])
        target = torch.tensor([float(kept.target_M[i]) for i in index.tolist()])
        optimizer.zero_grad()
        loss = plain_loss(training, net(code).squeeze(1), target, sizes)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        optimizer.step()
    return net.eval()


def plain_loss(training: TrainingConfig, prediction: Tensor, target: Tensor, sizes: list[int]) -> Tensor:
    if training.loss == "mse":
        return nn.functional.mse_loss(prediction, target)
    eras = zip(torch.split(prediction, sizes), torch.split(target, sizes), strict=True)
    return -torch.stack([_pearson(p - p.mean(), t - t.mean()) for p, t in eras]).mean()


def _row(rows: Rows, index: int) -> Tensor:
    code = np.empty((1, rows.n_features), np.int8)
    rows.gather(np.array([index]), code)
    return torch.from_numpy(code[0]).float()


def _pearson(p: Tensor, t: Tensor) -> Tensor:
    return (p * t).sum() / (p.square().sum() * t.square().sum() + 1e-12).sqrt()


class Killed(Exception):
    """What a test raises in the middle of a run."""


class KillAfter:
    """A progress that ends the run at the `calls`-th whole epoch."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
        if text.startswith("training loss"):
            self.left -= 1
            if not self.left:
                raise Killed


class Enough:
    """Says that there is no time left once it was asked so many times."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0
