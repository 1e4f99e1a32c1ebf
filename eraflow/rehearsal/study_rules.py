"""What never changes in a market for studies: its sizes, which features bear which signal, and what that pays.

Read `StudyConfig`, then `rules_of`. What becomes of it week by week: `study_market`.

Shapes: F features, S signals (linear, steps, bends, products, in this order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from eraflow.errors import InputError
from eraflow.rehearsal.market import F32, F64, MarketConfig, is_medium

I64 = npt.NDArray[np.int64]

NEVER = 1 << 30
"""A week that never comes."""
# Share of the expected return's variance that each kind of signal makes.
_SHARES = {"linear": 0.50, "steps": 0.15, "bends": 0.10, "products": 0.25}
# The random stream of the rules.
_RULES = 16


@dataclass(frozen=True, kw_only=True)
class StudyConfig(MarketConfig):
    """How large a market for studies is and what can be learned in it: by default as the real one."""

    features: int = 310
    train_eras: int = 150
    validation_eras: int = 100
    rows_per_era: int = 5000
    strength: float = 0.028
    """Length of the learnable payments of an era's first week, in units of a stock's own weekly luck."""
    noise: float = 0.003
    """Standard deviation of what a week pays each signal by chance, in the same unit."""
    factor_noise: float = 0.019
    """The same for each group of features."""
    decay: float = 0.9
    """What is left of a signal's payment a week later."""
    turn: float = 0.5
    """By how much a regime raises the payments of one half of the signals and lowers those of the other."""
    level: float = 0.3
    """By how much all payments swing together between good and bad years."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 40:
            raise InputError(f"a market for studies must have at least 40 features, however {self.features} were given")

    @classmethod
    def quick(cls, *, seed: int = 0) -> Self:
        """120 eras x 1,000 rows x 64 features, and payments four times as large, since it has so few rows."""
        return cls(features=64, train_eras=70, validation_eras=50, rows_per_era=1000, strength=0.112, seed=seed)


@dataclass(frozen=True, kw_only=True)
class StudyRules:
    """What never changes in a market."""

    groups_F: I64
    loading_F: F32
    linear: I64
    steps: I64
    bends: I64
    """Features by kind of their signal."""
    products: I64
    """`[n, 2]` pairs of features."""
    payment_S: F64
    """Mean payment of an era's first week: linear, steps, bends, products; its length is `strength`."""
    stop_S: I64
    """The first week that pays nothing any more."""
    period_S: F64
    phase_S: F64
    turn_S: F64
    """1 for the signals that one kind of regime favours, -1 for the others."""
    jasper_S: F64
    """Factors by which the second kind of target values the signals."""
    held_2S: F64
    """Of `MODELS`, each: 1 for the signals that it holds, 0 for the others."""


def rules_of(config: StudyConfig) -> StudyRules:
    """The rules that follow from the configuration, its seed above all."""
    draw = np.random.default_rng([config.seed, _RULES])
    n_features = config.features
    groups_F = np.arange(n_features) % max(4, n_features // 14)
    stopping, lasting, steps, bends, products = _bearers(draw, groups_F)
    linear = np.concatenate([stopping, lasting])
    payment_S = _payment(draw, [len(linear), len(steps), len(bends), len(products)], len(stopping))
    n_signals = len(payment_S)
    stop_S = np.full(n_signals, NEVER)
    share = np.linspace(0.4, 0.8, 2 * len(stopping) + 1)[1::2]
    stop_S[: len(stopping)] = share * (config.train_eras + config.validation_eras)
    held_2S = np.ones((2, n_signals))
    held_2S[:, -len(products) :: 2] = 0
    held_2S[1, len(stopping) : len(linear) : 4] = 0
    return StudyRules(
        groups_F=groups_F,
        loading_F=(draw.uniform(0.5, 0.85, n_features) * draw.choice([-1.0, 1.0], n_features)).astype(np.float32),
        linear=linear,
        steps=steps,
        bends=bends,
        products=products,
        payment_S=payment_S * config.strength,
        stop_S=stop_S,
        period_S=draw.uniform(80.0, 240.0, n_signals),
        phase_S=draw.uniform(0.0, 2 * np.pi, n_signals),
        turn_S=draw.choice([-1.0, 1.0], n_signals),
        jasper_S=draw.uniform(0.4, 1.4, n_signals),
        held_2S=held_2S,
    )


def _bearers(draw: np.random.Generator, groups_F: I64) -> tuple[I64, I64, I64, I64, I64]:
    """Features of the signals: linear ones that stop, those that last, steps, bends, and `[n, 2]` pairs."""
    n_features = len(groups_F)
    few = max(2, n_features // 75)
    # A feature that stops has its group for itself, so that nothing of it is left when it has stopped.
    alone = draw.permutation(groups_F.max() + 1)[: max(1, n_features // 50)]
    # Of its group one of the medium set, where the group has any.
    stopping = np.array([max(np.flatnonzero(groups_F == group).tolist(), key=is_medium) for group in alone], np.int64)
    free = draw.permutation(np.flatnonzero(~np.isin(groups_F, alone)))
    inside = np.array([is_medium(feature) for feature in free])
    # As in the real data most of the signal lies in the medium set.
    medium, outside = free[inside], free[~inside][: n_features // 20]
    cuts = np.cumsum([n_features // 5 - len(stopping) - len(outside), few, few])
    lasting, steps, bends, rest = np.split(medium, cuts)
    # Features that bear a signal of their own with such that bear none; of two groups, or they are nearly a square.
    pairs = [(a, b) for a, b in zip(lasting, np.roll(rest, 1), strict=False) if groups_F[a] != groups_F[b]]
    return stopping, np.concatenate([lasting, outside]), steps, bends, np.array(pairs[:few], np.int64)


def _payment(draw: np.random.Generator, counts: list[int], n_stopping: int) -> F64:
    """Payments `[S]` of length 1: many small and few large, by kind as `_SHARES` says."""
    parts = []
    for count, share in zip(counts, _SHARES.values(), strict=True):
        part = np.exp(draw.normal(0, 0.6, count)) * draw.choice([-1.0, 1.0], count)
        parts.append(part * (share**0.5 / np.linalg.norm(part)))
    # A feature that stops has been a good one, so that it is missed.
    linear = parts[0]
    linear[:n_stopping] = np.sign(linear[:n_stopping]) * np.quantile(np.abs(linear), 0.9)
    linear *= _SHARES["linear"] ** 0.5 / np.linalg.norm(linear)
    return np.concatenate(parts)
