"""A made-up market as difficult as the real one is published to be: for studies that choose between recipes.

It differs from the market of a rehearsal (`market`), which shows in a minute that something is learned:

- **The same stocks every week.** Their features wander slowly, and a stock's return of a week is in the target of
  every era that reaches over it. So the luck of neighbouring eras is shared, not only the payments: scores are
  autocorrelated as the real ones are, and a fold without purge overstates.
- **Four kinds of signal**, in the order of their difficulty: single features (linear), the top bin of a feature
  (a step, half linear), its distance from the middle (a bend, nothing linear), products of two features.
- **Regimes.** What signals pay drifts, turns in favour of one half of them or the other, and all of it has good and
  bad years. One in ten of the linear signals stops paying for good at an era of its own (`StudyMarket.stops`).
- **Luck.** Every group of features has a factor that pays what nobody can know, and so does every signal.
- **The benchmark and the meta model** are functions of the features: the part of the signal that they hold, as the
  eras before paid it on average, and a mistake, most of which is what luck paid in those eras.

Every era depends on the configuration and its own number alone. The strengths are set by published figures, see
`docs/market.md`. Best reachable scores: `market_oracle`.

Shapes: N rows of an era, F features, S signals, K groups of features, U stocks. Read `study_rules.StudyConfig`, then
`StudyMarket`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eraflow.errors import InputError
from eraflow.rehearsal.market import F32, F64, HORIZON_WEEKS, I8, NAMES, Era, Market, binned, bins_of, centred, ids_of
from eraflow.rehearsal.study_rules import NEVER, StudyConfig, StudyRules, rules_of

CONFIG_FILE = "market.json"
"""Lies beside the files of a market for studies, so that a report finds its oracle."""
BLOCK_WEEKS = 39
"""Features are new altogether after so many weeks; so long does a regime last."""
ModelName = Literal["benchmark", "meta_model"]
MODELS: tuple[ModelName, ...] = ("benchmark", "meta_model")
SKILLS = (0.78, 0.90)
"""How far each of them is its part of the signal; the rest is its mistake."""
_SHARED_MISTAKE = 0.85
# Correlation of a feature with its own top bin: what a linear model gets of a step.
_LINEAR_IN_STEP = 2**-0.5
# Covariance of a standard normal return with its target in bins of 5, 20, 50, 20 and 5 %.
_SLOPE = 0.2105
# What random streams are for; the market of a rehearsal uses 0 to 3, `study_rules` 16.
_ANCHORS, _OWN, _LUCK, _TURNS, _ORDER, _MISTAKES = range(17, 23)


@dataclass(frozen=True)
class StudyMarket(Market):
    """The market of one configuration. Cheap to make; rows are made when asked for."""

    config: StudyConfig = field(default_factory=StudyConfig)

    @property
    def stops(self) -> dict[str, int]:
        """Feature -> the first era whose returns it has no part in."""
        rules = self._study
        found = np.flatnonzero(rules.stop_S[: len(rules.linear)] < NEVER)
        return {self.features[rules.linear[i]]: int(rules.stop_S[i]) for i in found}

    def rows_of(self, era: int) -> int:
        """Rows of an era: they wander slowly, by a tenth, so that neighbouring eras have the same stocks."""
        phase = 2 * np.pi * era / 130 + self._study.phase_S[-1]
        return self.config.rows_per_era + round(self.config.rows_per_era // 10 * float(np.sin(phase)))

    def benchmark(self, era: Era, column: str, variant: int = 0) -> F64:  # noqa: ARG002 - it knows the rows by sight
        """A benchmark model's prediction `[N]` in (0, 1)."""
        return ranked(self.held_by("benchmark", era, column))

    def meta_model(self, era: Era) -> F64:
        """The meta model's prediction `[N]` in (0, 1)."""
        return ranked(self.held_by("meta_model", era, "target_ender_20"))

    def held_by(self, model: ModelName, era: Era, column: str, *, linear: bool = False) -> F64:
        """What that model predicts before ranking, variance 1, `[N]`; or what of it is linear in the features.

        Both lack every second product, the meta model a quarter of the single features too. Their mistake is mostly
        one that everybody makes who learns from the same eras: it is what luck paid there.
        """
        one, last = MODELS.index(model), last_known(era.number)
        paid_S = self.average_learnable(column, range(1, last + 1)) * self._study.held_2S[one]
        known_N = paid_S @ self.signals(era.codes_FN)
        wrong_N = _mistakes(self, last)[one].astype(np.float32) @ (era.codes_FN.astype(np.float32) - 2)
        wrong_N -= wrong_N.mean()
        skill = SKILLS[one]
        part_N = paid_S @ self.signals(era.codes_FN, linear=True) if linear else known_N
        wrong_N *= (1 - skill**2) ** 0.5 / wrong_N.std()
        scale = float(np.std(skill * known_N / known_N.std() + wrong_N))
        return np.asarray((skill * part_N / known_N.std() + wrong_N) / scale, dtype=np.float64)

    def learnable(self, number: int, column: str) -> F64:
        """What an era's horizon pays each signal by the rules, luck left out, `[S]`."""
        weeks = HORIZON_WEEKS[_days(column)]
        week_W = np.arange(number, number + weeks)
        paid_WS = self._payments(week_W) * self.config.decay ** np.arange(weeks)[:, None]
        return np.asarray(paid_WS.sum(axis=0) * self._value_S(column), dtype=np.float64)

    def average_learnable(self, column: str, known: range | None = None) -> F64:
        """The mean of `learnable` over `known` eras (default: the train eras): all that a model can learn of them."""
        known = range(1, self.config.train_eras + 1) if known is None else known
        average_S: F64 = _average(self, column, known.start, known.stop)
        return average_S

    def signals(self, codes_FN: I8, *, linear: bool = False) -> F64:
        """Every signal `[S, N]` with mean 0 and variance 1 over all stocks; or what of it is linear in the features."""
        rules = self._study
        single_SN = centred(codes_FN, rules.linear)
        if linear:
            none_SN = np.zeros((len(rules.bends) + len(rules.products), codes_FN.shape[1]))
            return np.vstack([single_SN, _LINEAR_IN_STEP * centred(codes_FN, rules.steps), none_SN])
        step_SN = ((codes_FN[rules.steps] == 4) - 0.2) / 0.4
        bend_SN = (np.abs(codes_FN[rules.bends].astype(np.float64) - 2.0) - 1.2) / 0.56**0.5
        pair_SN = centred(codes_FN, rules.products[:, 0]) * centred(codes_FN, rules.products[:, 1])
        return np.vstack([single_SN, step_SN, bend_SN, pair_SN])

    @cached_property
    def _gram_FF(self) -> F64:
        """Second moments of the features in the first era in which none is missing."""
        x_FN = self.era(self.config.train_eras // 4 + 1).codes_FN.astype(np.float32) - 2
        return np.asarray(x_FN @ x_FN.T / x_FN.shape[1], dtype=np.float64)

    @cached_property
    def _study(self) -> StudyRules:
        return rules_of(self.config)

    def _rows(self, number: int, n_rows: int, variant: int) -> Era:
        """Rows of a week stand in an order of their own, and another in each round, as their ids do."""
        config, rules = self.config, self._study
        factor_KU, codes_FU = self._stocks(number)
        order_N = np.random.default_rng([config.seed, _ORDER, number, variant]).permutation(n_rows)
        codes_FN = codes_FU[:, order_N]
        signal_SN = self.signals(codes_FN)
        expected, targets = {}, {}
        for days, weeks in HORIZON_WEEKS.items():
            luck_S, luck_K, own_2U = self._luck(number, weeks, len(rules.payment_S), len(factor_KU))
            common_N = (luck_K @ factor_KU)[order_N] + luck_S @ signal_SN
            for i, name in enumerate(NAMES):
                # The second kind of target shares half of the first one's luck.
                own_N = (own_2U[0] if i == 0 else own_2U.sum(axis=0) * 0.5**0.5)[order_N]
                column = f"target_{name}_{days}"
                expected[column] = self.learnable(number, column) @ signal_SN
                targets[column] = binned(expected[column] + common_N + own_N)
        expected["target"], targets["target"] = expected["target_ender_60"], targets["target_ender_60"]
        codes_FN[self._missing(number)] = 2
        return Era(
            number=number, id_N=ids_of(config.seed, number, n_rows), codes_FN=codes_FN, expected=expected,
            targets=targets,
        )  # fmt: skip

    def _stocks(self, week: int) -> tuple[F32, I8]:
        """Factors `[K, U]` and features `[F, U]` of all stocks: on the way from one anchor to the next."""
        rules = self._study
        block, at = divmod(week, BLOCK_WEEKS)
        angle = np.pi / 2 * at / BLOCK_WEEKS
        n_stocks = self.config.rows_per_era + self.config.rows_per_era // 10
        shape = (int(rules.groups_F.max()) + 1 + self.config.features, n_stocks)
        value = np.float32(np.cos(angle)) * _anchor(self.config.seed, block, shape)
        value += np.float32(np.sin(angle)) * _anchor(self.config.seed, block + 1, shape)
        factor_KU, value_FU = value[: -self.config.features], value[-self.config.features :]
        value_FU *= np.sqrt(1 - rules.loading_F**2)[:, None]
        for i, (group, loading) in enumerate(zip(rules.groups_F, rules.loading_F, strict=True)):
            value_FU[i] += loading * factor_KU[group]
        return factor_KU, bins_of(value_FU)

    def _luck(self, number: int, weeks: int, n_signals: int, n_groups: int) -> tuple[F64, F64, F64]:
        """What these weeks pay by chance: each signal, each group and, twice, each stock."""
        config = self.config
        n_stocks = config.rows_per_era + config.rows_per_era // 10
        own_2U = np.zeros((2, n_stocks))
        paid = np.zeros(n_signals + n_groups)
        for week in range(number, number + weeks):
            own_2U += _week_luck(config.seed, week, n_stocks)
            paid += np.random.default_rng([config.seed, _LUCK, week]).standard_normal(n_signals + n_groups)
        return paid[:n_signals] * config.noise, paid[n_signals:] * config.factor_noise, own_2U

    def _payments(self, week_W: npt.NDArray[np.int64]) -> F64:
        """`[W, S]`"""
        config, rules = self.config, self._study
        week_W1 = week_W[:, None]
        drift_WS = 1 + config.drift * np.sin(2 * np.pi * week_W1 / rules.period_S + rules.phase_S)
        turn_W1 = np.array([[_turn(config.seed, int(week) // BLOCK_WEEKS)] for week in week_W])
        level_W1 = 1 + config.level * np.sin(2 * np.pi * week_W1 / 110.0 + rules.phase_S[0])
        paid_WS = rules.payment_S * drift_WS * (1 + config.turn * turn_W1 * rules.turn_S) * level_W1
        return np.asarray(np.where(week_W1 < rules.stop_S, paid_WS, 0.0), dtype=np.float64)

    def _value_S(self, column: str) -> F64:
        return self._study.jasper_S if "jasper" in column else np.ones_like(self._study.payment_S)

    def _missing(self, era: int) -> npt.NDArray[np.int64]:
        """Features that did not exist yet: in the first quarter of the train eras some that bear no signal."""
        rules = self._study
        if era > self.config.train_eras // 4:
            return np.empty(0, dtype=np.int64)
        used = np.concatenate([rules.linear, rules.steps, rules.bends, rules.products.ravel()])
        return np.setdiff1d(np.arange(self.config.features), used)[-max(2, self.config.features // 16) :]


def last_known(era: int) -> int:
    """The last era that the benchmark and the meta model have learned from when they predict this one.

    They are made anew every 13 eras from those whose 60-day target is resolved. In the files the benchmark begins
    after a quarter of the train eras, as it needs 13.
    """
    return max(13, (era - 13) // 13 * 13)


def save_config(market: StudyMarket, folder: Path) -> Path:
    """Write `market.json`, by which `read_market` makes the same market again."""
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(asdict(market.config), indent=1) + "\n", encoding="utf-8")
    return path


def read_market(folder: Path) -> StudyMarket | None:
    """The market whose files lie in the folder, or None where no `market.json` says so.

    Raises `InputError` for a `market.json` that describes no market for studies.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        return None
    try:
        return StudyMarket(StudyConfig(**json.loads(path.read_text(encoding="utf-8"))))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} must describe a market for studies, however: {error}; write it again") from error


def ranked(value_N: F64) -> F64:
    """Ranks in (0, 1)."""
    return np.asarray((np.argsort(np.argsort(value_N)) + 0.5) / len(value_N), dtype=np.float64)


def _days(column: str) -> str:
    return "60" if column == "target" else column[-2:]


@lru_cache(maxsize=512)
def _average(market: StudyMarket, column: str, start: int, stop: int) -> Any:
    return np.mean([market.learnable(number, column) for number in range(start, stop)], axis=0)


@lru_cache(maxsize=64)
def _mistakes(market: StudyMarket, last: int) -> Any:
    """Of `MODELS`, each: its mistake `[F]` as weights of the features, learned from the eras up to `last`.

    What luck paid is regressed on the features; every fourth era holds all of a 20-day target's luck.
    """
    covariance_F = np.sum([_luck_of(market, number) for number in range(1, last + 1, 4)], axis=0)
    n_features = len(covariance_F)
    shared_F = np.linalg.solve(market._gram_FF + 2 * np.eye(n_features), covariance_F)
    own_2F = np.random.default_rng([market.config.seed, _MISTAKES]).standard_normal((2, n_features))
    own_2F *= np.linalg.norm(shared_F) / np.linalg.norm(own_2F, axis=1, keepdims=True)
    return _SHARED_MISTAKE * shared_F + (1 - _SHARED_MISTAKE**2) ** 0.5 * own_2F


@lru_cache(maxsize=4096)
def _luck_of(market: StudyMarket, number: int) -> Any:
    """Covariance `[F]` of the features with what is not learnable of an era's 20-day target."""
    era = market.era(number)
    surprise_N = era.targets["target_ender_20"] - 0.5 - _SLOPE / 2 * era.expected["target_ender_20"]
    return (era.codes_FN.astype(np.float32) - 2) @ surprise_N.astype(np.float32) / len(surprise_N)


@lru_cache(maxsize=3)
def _anchor(seed: int, block: int, shape: tuple[int, int]) -> Any:
    """Factors and features of all stocks at a block's beginning, independent of the next one's: 7 MB at full size."""
    return np.random.default_rng([seed, _ANCHORS, block]).standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=16)
def _week_luck(seed: int, week: int, n_stocks: int) -> Any:
    return np.random.default_rng([seed, _OWN, week]).standard_normal((2, n_stocks), dtype=np.float32)


@lru_cache(maxsize=256)
def _turn(seed: int, block: int) -> float:
    return float(np.random.default_rng([seed, _TURNS, block]).choice([-1.0, 1.0]))
