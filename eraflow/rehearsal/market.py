"""A made-up market whose rules are known: every week of it, its features, its targets and its best reachable score.

Each stock of an era has features: integers 0..4 in five equal bins, correlated in groups that share a factor. A week
pays every *signal* a return: a drifting mean that can be learned plus noise that cannot. Signals are single features
and products of two. A stock's return over a horizon is the sum of its weeks' payments and of its own noise, so
targets of neighbouring eras share weeks and their scores are autocorrelated by about `1 - k / horizon` at distance k.
Targets are the ranks of these returns in five bins of 5, 20, 50, 20 and 5 %.

Every era depends on the seed and its own number alone, so a market grows without changing what was. At the default
size the best reachable mean Spearman of the 60-day target is 0.17 over 27 eras (seeds 1 to 6: 0.17 to 0.27), several
times what anyone reaches in the real market: a rehearsal of a minute has to show that something is learned.
`strength` moves it. A least-squares fit on all features reaches 0.11; a network of 256 units (mean squared error,
Adam 1e-3, batches of 2048, 6 epochs) 0.10 where it has 0.01 untrained, with a standard error of 0.010 if eras were
independent, which they are not.

Shapes: N rows of an era, F features, S signals. Read `MarketConfig`, then `Market.era`. Files: `market_files`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eraflow.errors import InputError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]

LIVE = "X"
HORIZON_WEEKS = {"20": 4, "60": 12}
"""20 and 60 trading days, in weekly eras."""
NAMES = ("ender", "jasper")
UNRESOLVED = {"20": 5, "60": 13}
"""So many of the newest validation eras have no target of this horizon yet."""
BENCHMARK_SKILL = 0.75
META_SKILL = 0.7
# Standard normal quantiles at 20, 40, 60, 80 %: five equal bins.
_CUTS = (-0.8416212, -0.2533471, 0.2533471, 0.8416212)
# What random streams are for; the numbers only keep them apart.
_RULES, _ROWS, _WEEKS, _MODELS = range(4)


@dataclass(frozen=True, kw_only=True)
class MarketConfig:
    """How large a market is, and how much of it can be learned."""

    features: int = 40
    train_eras: int = 100
    validation_eras: int = 40
    """At the first round; one more with each week."""
    rows_per_era: int = 500
    """On average; eras differ by up to a tenth."""
    seed: int = 0
    strength: float = 0.065
    """Length of the learnable weekly payment, in units of a stock's own weekly noise."""
    noise: float = 0.04
    """Standard deviation of what a week pays each signal unforeseeably, in the same unit."""
    drift: float = 0.3
    """How far a signal's payment swings around its mean, as a share of it."""

    def __post_init__(self) -> None:
        least = {"features": 4, "train_eras": 20, "validation_eras": 20, "rows_per_era": 10}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, however {getattr(self, name)} was given")

    @classmethod
    def sized(cls, *, rows: int | None = None, features: int | None = None, seed: int = 0) -> MarketConfig:
        """A market with about `rows` rows in `train.parquet` and `features` features.

        Raises `InputError` for fewer than 200 rows or 4 features.
        """
        config = cls(seed=seed)
        if features is not None:
            if features < 4:
                raise InputError(f"--features must be at least 4, however {features} was given")
            config = replace(config, features=features)
        if rows is not None:
            if rows < 200:
                raise InputError(f"--rows must be at least 200, however {rows} was given")
            # As many eras as by default while they keep 20 rows each; more once they would pass 5000, as in the real
            # data.
            eras = max(20, rows // 20) if rows < 20 * config.train_eras else max(config.train_eras, -(-rows // 5000))
            config = replace(config, train_eras=eras, rows_per_era=max(10, round(rows / eras)))
        return config


@dataclass(frozen=True, kw_only=True)
class Era:
    """The rows of one era."""

    number: int
    id_N: list[str]
    codes_FN: I8
    """Features 0..4; one feature a row of the matrix."""
    expected: dict[str, F64]
    """Target column -> `[N]`, the learnable part of the stocks' returns: the best prediction there is."""
    targets: dict[str, F32]
    """Target column -> `[N]` in {0, .25, .5, .75, 1}."""

    @property
    def name(self) -> str:
        """As it stands in the files.

        >>> Era(number=7, id_N=[], codes_FN=np.empty((0, 0), np.int8), expected={}, targets={}).name
        '0007'
        """
        return f"{self.number:04d}"


@dataclass(frozen=True)
class _Rules:
    """What never changes in a market."""

    groups_F: npt.NDArray[np.int64]
    loading_F: F64
    linear: npt.NDArray[np.int64]
    """Features that are signals by themselves."""
    products: npt.NDArray[np.int64]
    """`[n, 2]` pairs of features whose product is a signal."""
    payment_S: F64
    """Mean learnable payment a week; its length is `strength`."""
    period_S: F64
    phase_S: F64
    jasper_S: F64
    """Factors by which the second kind of target values the signals."""


@dataclass(frozen=True)
class Market:
    """The market of one configuration. Cheap to make; rows are made when asked for."""

    config: MarketConfig = field(default_factory=MarketConfig)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(f"feature_made_up_{i:04d}" for i in range(self.config.features))

    @property
    def targets(self) -> tuple[str, ...]:
        """Column names as `features.json` lists them; `target` equals `target_ender_60`."""
        return ("target", *(f"target_{name}_{days}" for name in NAMES for days in HORIZON_WEEKS))

    def feature_sets(self) -> dict[str, list[str]]:
        """Sets as the real ones: nested in `all`, `small` not a subset of `medium`."""
        names = self.features
        return {
            "small": [name for i, name in enumerate(names) if i % 4 == 0],
            "medium": [name for i, name in enumerate(names) if is_medium(i)],
            "all": list(names),
            "fncv3_features": [name for i, name in enumerate(names) if i % 4 != 3],
        }

    def last_era(self, week: int) -> int:
        """The newest era of `validation.parquet` in week 0, 1, ...; live is the one after it."""
        return self.config.train_eras + self.config.validation_eras + week

    def rows_of(self, era: int) -> int:
        """Rows of an era: pairs of eras share twice the average unevenly, so an even number of them has it exactly."""
        draw = np.random.default_rng([self.config.seed, _ROWS, (era - 1) // 2, 1])
        swing = int(draw.integers(0, self.config.rows_per_era // 10 + 1))
        return self.config.rows_per_era + (swing if era % 2 else -swing)

    def era(self, number: int) -> Era:
        """One era with all its targets, whether or not they are resolved by now."""
        return self._rows(number, self.rows_of(number), variant=0)

    def live(self, week: int, variant: int) -> Era:
        """The live rows of a round: the era after the newest, under ids that are this round's own.

        `variant` is the round's number. Rounds of one week differ in their rows.
        """
        number = self.last_era(week) + 1
        era = self._rows(number, self.rows_of(number), variant=variant)
        return replace(era, id_N=ids_of(self.config.seed, (1 << 31) | variant, len(era.id_N)))

    def benchmark(self, era: Era, column: str, variant: int = 0) -> F64:
        """A benchmark model's prediction `[N]` in (0, 1): three parts of the best reachable one, the rest noise."""
        return self._model(era, era.expected[column], BENCHMARK_SKILL, [ord(column[-2]), variant])

    def meta_model(self, era: Era) -> F64:
        """The meta model's prediction `[N]`: it knows the single features, but none of the products."""
        code_FN = centred(era.codes_FN, self._rules.linear)
        expected = code_FN.T @ self._learnable(era.number, 12)[: len(self._rules.linear)]
        return self._model(era, expected, META_SKILL, [0, 0])

    def oracle(self, week: int = 0, column: str = "target_ender_60") -> dict[str, float]:
        """Spearman by era of the learnable part with the target, for the resolved validation eras of that week.

        Nobody can do better on average; a model that never sees the drift stays below it.
        """
        from eraflow.metrics import era_spearman

        resolved = self.last_era(week) - UNRESOLVED[column[-2:]]
        found = {}
        for number in range(self.config.train_eras + 1, resolved + 1):
            era = self.era(number)
            same = np.full(len(era.id_N), number)
            found[era.name] = float(era_spearman(era.expected[column], era.targets[column], same).iloc[0])
        return found

    @cached_property
    def _rules(self) -> _Rules:
        n_features = self.config.features
        draw = np.random.default_rng([self.config.seed, _RULES])
        groups_F = np.arange(n_features) % max(4, min(64, n_features // 5))
        # As in the real data most of the signal lies in the medium set: nine of twelve single features, all products.
        medium = draw.permutation([i for i in range(n_features) if is_medium(i)])
        other = draw.permutation([i for i in range(n_features) if not is_medium(i)])
        linear = np.sort(np.concatenate([medium[:9], other[:3]]))
        # Pairs of different groups, so that a product is not nearly a square.
        pairs = [(a, b) for a, b in zip(medium, np.roll(medium, 1), strict=True) if groups_F[a] != groups_F[b]]
        products = np.array(pairs[:4], dtype=np.int64).reshape(-1, 2)
        n_signals = len(linear) + len(products)
        payment_S = draw.choice([-1.0, 1.0], n_signals) * draw.uniform(0.6, 1.4, n_signals)
        return _Rules(
            groups_F=groups_F,
            loading_F=draw.uniform(0.35, 0.75, n_features) * draw.choice([-1.0, 1.0], n_features),
            linear=linear,
            products=products,
            payment_S=payment_S * self.config.strength / np.linalg.norm(payment_S),
            period_S=draw.uniform(80.0, 240.0, n_signals),
            phase_S=draw.uniform(0.0, 2 * np.pi, n_signals),
            jasper_S=draw.uniform(0.4, 1.4, n_signals),
        )

    def _rows(self, number: int, n_rows: int, variant: int) -> Era:
        draw = np.random.default_rng([self.config.seed, _ROWS, number, 2 + variant])
        codes_FN = self._codes(draw, n_rows)
        signal_SN = self._signals(codes_FN)
        expected, targets = {}, {}
        own_noise = {"20": draw.standard_normal((2, n_rows)) * 2.0}
        own_noise["60"] = own_noise["20"] + draw.standard_normal((2, n_rows)) * 8.0**0.5
        for days, weeks in HORIZON_WEEKS.items():
            learnable_S = self._learnable(number, weeks)
            paid_S = learnable_S + self._unforeseeable(number, weeks)
            for i, name in enumerate(NAMES):
                value_S = self._rules.jasper_S if i else np.ones_like(paid_S)
                # The second kind shares half of the first one's noise.
                noise_N = own_noise[days][0] if i == 0 else own_noise[days].sum(axis=0) * 0.5**0.5
                column = f"target_{name}_{days}"
                expected[column] = (learnable_S * value_S) @ signal_SN
                targets[column] = binned((paid_S * value_S) @ signal_SN + noise_N)
        expected["target"], targets["target"] = expected["target_ender_60"], targets["target_ender_60"]
        codes_FN[self._missing(number)] = 2
        return Era(
            number=number,
            id_N=ids_of(self.config.seed, number, n_rows),
            codes_FN=codes_FN,
            expected=expected,
            targets=targets,
        )

    def _codes(self, draw: np.random.Generator, n_rows: int) -> I8:
        rules = self._rules
        factor_KN = draw.standard_normal((int(rules.groups_F.max()) + 1, n_rows), dtype=np.float32)
        codes_FN = np.empty((self.config.features, n_rows), dtype=np.int8)
        for i, (group, loading) in enumerate(zip(rules.groups_F, rules.loading_F, strict=True)):
            value_N = draw.standard_normal(n_rows, dtype=np.float32)
            value_N *= np.float32((1 - loading**2) ** 0.5)
            value_N += np.float32(loading) * factor_KN[group]
            codes_FN[i] = bins_of(value_N)
        return codes_FN

    def _signals(self, codes_FN: I8) -> F64:
        linear_SN = centred(codes_FN, self._rules.linear)
        pair_SN = centred(codes_FN, self._rules.products[:, 0]) * centred(codes_FN, self._rules.products[:, 1])
        return np.vstack([linear_SN, pair_SN - pair_SN.mean(axis=1, keepdims=True)])

    def _learnable(self, week: int, weeks: int) -> F64:
        """Sum over the weeks of the learnable payment to each signal, `[S]`."""
        week_W = np.arange(week, week + weeks)[:, None]
        swing_WS = np.sin(2 * np.pi * week_W / self._rules.period_S + self._rules.phase_S)
        return np.asarray((self._rules.payment_S * (1 + self.config.drift * swing_WS)).sum(axis=0), dtype=np.float64)

    def _unforeseeable(self, week: int, weeks: int) -> F64:
        n_signals = len(self._rules.payment_S)
        paid = [_week_noise(self.config.seed, number, n_signals) for number in range(week, week + weeks)]
        return np.asarray(np.sum(paid, axis=0) * self.config.noise, dtype=np.float64)

    def _missing(self, era: int) -> npt.NDArray[np.int64]:
        """Features that did not exist yet: in the first quarter of the train eras those that bear no signal."""
        if era > self.config.train_eras // 4:
            return np.empty(0, dtype=np.int64)
        used = np.union1d(self._rules.linear, self._rules.products)
        free = np.setdiff1d(np.arange(self.config.features), used)
        return free[-max(2, self.config.features // 16) :]

    def _model(self, era: Era, expected_N: F64, skill: float, stream: list[int]) -> F64:
        draw = np.random.default_rng([self.config.seed, _MODELS, era.number, *stream])
        known_N = expected_N / max(float(expected_N.std()), 1e-12)
        mixed_N = skill * known_N + (1 - skill**2) ** 0.5 * draw.standard_normal(len(known_N))
        return (np.argsort(np.argsort(mixed_N)) + 0.5) / len(mixed_N)


def is_medium(feature: int) -> bool:
    return feature % 2 == 1 or feature % 8 == 0


def era_kind(era: int, config: MarketConfig, week: int) -> Literal["train", "validation", "test"]:
    """An era's `data_type` in that week: `test` while its 60-day target is unresolved."""
    if era <= config.train_eras:
        return "train"
    newest = config.train_eras + config.validation_eras + week
    return "validation" if era <= newest - UNRESOLVED["60"] else "test"


@lru_cache(maxsize=4096)
def _week_noise(seed: int, week: int, n_signals: int) -> Any:
    return np.random.default_rng([seed, _WEEKS, week]).standard_normal(n_signals)


def bins_of(value: F32) -> I8:
    """Standard normal values in five equal bins 0..4, any shape: comparisons, 4.5 times as fast as a search."""
    return np.asarray(sum((value > np.float32(cut)).view(np.int8) for cut in _CUTS), dtype=np.int8)


def centred(codes_FN: I8, chosen: npt.NDArray[np.int64]) -> F64:
    """The chosen features with mean 0 and variance 1, as five equal bins have them."""
    return np.asarray((codes_FN[chosen].astype(np.float64) - 2.0) / 2.0**0.5, dtype=np.float64)


def binned(return_N: F64) -> F32:
    """Ranks in bins of 5, 20, 50, 20, 5 %: 0, .25, .5, .75, 1."""
    share_N = (np.argsort(np.argsort(return_N)) + 0.5) / len(return_N)
    return np.asarray(np.searchsorted([0.05, 0.25, 0.75, 0.95], share_N) / 4, dtype=np.float32)


def ids_of(seed: int, era: int, n_rows: int) -> list[str]:
    """`n` and 16 hexadecimal digits; a bijection of (era, row), so no two rows of a market share one."""
    key = np.uint64((era << 32) & 0xFFFF_FFFF_FFFF_FFFF) + np.arange(n_rows, dtype=np.uint64)
    with np.errstate(over="ignore"):
        key ^= np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFF_FFFF_FFFF_FFFF)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
        key ^= key >> np.uint64(31)
    return [f"n{value:016x}" for value in key.tolist()]
