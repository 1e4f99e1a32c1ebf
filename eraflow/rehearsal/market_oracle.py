"""The best scores that anyone can reach in a market for studies, era by era, so that a recipe has its share of them.

Four oracles, each of which knows all rules of the market and no luck:

- `best` knows what each signal pays in the weeks ahead: nobody can be better on average.
- `linear` is the best linear model of the features that knows the same.
- `fixed` knows what the `known` eras paid on average: the most that a model can have which is fitted to them once.
- `fixed_linear` is the best linear model that knows that.

The order of stocks that is best depends on the score. Spearman and CORR want the expected return. A contribution is
the prediction's product with what the reference leaves of the target, so it wants the expected return less its
multiple of the reference; payout wants something in between; feature-neutral CORR what no linear function of the
features holds. Each oracle predicts anew for each score, so that no order of stocks has a better one on average
(to within what ranking changes). Luck moves a single era's score: a recipe can be above the oracle there.

Shapes: N rows of an era, E eras, K scores. Read `oracles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from eraflow.metrics import feature_neutral_corr
from eraflow.neutral import residual
from eraflow.prepared import NUMERAI_CORR, SPEARMAN, PreparedScores
from eraflow.rehearsal.market import F64, Era
from eraflow.rehearsal.study_market import MODELS, ModelName, StudyMarket

if TYPE_CHECKING:
    import pandas as pd

ORACLES = ("best", "linear", "fixed", "fixed_linear")
SCORES = (SPEARMAN, NUMERAI_CORR, "mmc", "bmc", "payout")
PAYOUT = (3.0, 15.0)
"""Multipliers of CORR and MMC since round 1343."""
# CORR and a contribution of a prediction, as multiples of its correlation with the return while that is small: for a
# normal return in bins of 5, 20, 50, 20 and 5 %.
_CORR_SLOPE, _CONTRIBUTION_SLOPE = 0.903, 0.842


def oracles(
    market: StudyMarket,
    eras: Iterable[int],
    *,
    column: str = "target_ender_20",
    known: range | None = None,
    multipliers: Sequence[float] = PAYOUT,
    neutral: bool = False,
) -> dict[str, pd.DataFrame]:
    """Oracle -> its scores, a row for each era and a column for each of `SCORES`.

    Contributions are those to the market's meta model (mmc) and its benchmark for the same target (bmc). `known` are
    the eras that the fixed oracles know, by default the train eras. `multipliers` are those of CORR and MMC in payout,
    which is not clipped here. With `neutral` a column `fnc` for the features of `fncv3_features`, twice the time.
    """
    import pandas as pd

    average_S = market.average_learnable(column, known)
    numbers = list(eras)
    found: dict[str, list[list[float]]] = {name: [] for name in ORACLES}
    for number in numbers:
        era = market.era(number)
        for name, scores in _era_scores(market, era, column, average_S, multipliers, neutral).items():
            found[name].append(scores)
    index = pd.Index([f"{number:04d}" for number in numbers], name="era")
    names = [*SCORES, "fnc"] if neutral else list(SCORES)
    return {name: pd.DataFrame(rows, index=index, columns=names) for name, rows in found.items()}


def _era_scores(
    market: StudyMarket, era: Era, column: str, average_S: F64, multipliers: Sequence[float], neutral: bool
) -> dict[str, list[float]]:
    """Oracle -> its scores of one era, in the order of `SCORES`, then perhaps `fnc`."""
    same_N = np.zeros(len(era.id_N), np.int64)
    references = {"mmc": market.meta_model(era), "bmc": market.benchmark(era, column)}
    prepared = PreparedScores(era.targets[column], same_N, references)
    signal_SN = {linear: market.signals(era.codes_FN, linear=linear) for linear in (False, True)}
    held_N = {(m, li): market.held_by(m, era, column, linear=li) for m in MODELS for li in (False, True)}
    wants: list[tuple[float, ModelName]] = [
        (0.0, "meta_model"), (1.0, "meta_model"), (1.0, "benchmark"), (_share(multipliers), "meta_model")
    ]  # fmt: skip
    paid = (market.learnable(era.number, column), average_S)
    scores: dict[str, list[float]] = {}
    for name, (paid_S, linear) in zip(ORACLES, product(paid, (False, True)), strict=True):
        expected_N, part_N = paid_S @ signal_SN[False], paid_S @ signal_SN[linear]
        less = [share * float(expected_N @ held_N[model, False]) / len(same_N) for share, model in wants]
        columns = [part_N - less_1 * held_N[model, linear] for less_1, (_, model) in zip(less, wants, strict=True)]
        scored = {score: value_EK[0] for score, value_EK in prepared(np.column_stack(columns)).items()}
        pay = multipliers[0] * scored[NUMERAI_CORR][3] + multipliers[1] * scored["mmc"][3]
        scores[name] = [scored[SPEARMAN][0], scored[NUMERAI_CORR][0], scored["mmc"][1], scored["bmc"][2], pay]
        if neutral:
            scores[name].append(_neutral_corr(market, era, part_N, column))
    return scores


def _share(multipliers: Sequence[float]) -> float:
    """How much of the reference's multiple the best prediction for payout leaves out: 0 for CORR alone, 1 for MMC."""
    corr, contribution = multipliers[0] * _CORR_SLOPE, multipliers[1] * _CONTRIBUTION_SLOPE
    return contribution / (corr + contribution)


def _neutral_corr(market: StudyMarket, era: Era, expected_N: F64, column: str) -> float:
    chosen = set(market.feature_sets()["fncv3_features"])
    feature_NF = era.codes_FN[[name in chosen for name in market.features]].T.astype(np.float64)
    beyond_N = residual(expected_N[:, None], feature_NF)[:, 0]
    return float(feature_neutral_corr(beyond_N, feature_NF, era.targets[column], np.zeros(len(beyond_N))).iloc[0])
