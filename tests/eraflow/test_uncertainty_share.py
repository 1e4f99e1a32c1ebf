"""A share of the oracle: 1 for the oracle, covered as often as is said, and undefined where the oracle is unsure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eraflow.errors import InputError
from eraflow.uncertainty import interval, seed_noise, share
from tests.eraflow.test_uncertainty import F64, overlapping


def test_the_oracle_itself_has_share_1_and_half_of_it_a_half_beyond_doubt() -> None:
    oracle_E = overlapping(1, 60, 4)[0] + 2
    for part in (1.0, 0.5):
        found = share(part * oracle_E, oracle_E, range(60), horizon_eras=4)
        assert found.mean == pytest.approx(part)
        assert found.high - found.low < 1e-12


def test_one_share_worked_by_hand() -> None:
    """r = 2 / 4, residuals (score - oracle / 2) / 4 = -1/8, 1/8, 1/8, -1/8 of mean 0, variance (4 / 64) / 3."""
    found = share([1, 3, 2, 2], [3, 5, 3, 5], [1, 2, 3, 4], horizon_eras=1)
    assert found.mean == 0.5
    assert found.standard_error == pytest.approx(math.sqrt(1 / 48 / 4))
    assert found.high - 0.5 == pytest.approx(0.5 - found.low)
    assert found.degrees_of_freedom == 3


def test_luck_alone_has_a_share_whose_interval_holds_0() -> None:
    luck_SE = overlapping(3, 100, 4, seed=5)
    found = share(luck_SE, overlapping(1, 100, 4)[0] + 2, range(100), horizon_eras=4)
    assert found.low < 0 < found.high


def covered(level: float, eras: int, horizon: int) -> float:
    """How often the interval holds the true share of .4, of a recipe that follows the oracle's luck."""
    oracle_SE = overlapping(800, eras, horizon, seed=1)
    score_SE: F64 = 0.6 * oracle_SE + 0.8 * overlapping(800, eras, horizon, seed=2) + 0.4 * level
    pairs = zip(score_SE, oracle_SE + level, strict=True)
    found = [share(score_E, oracle_E, range(eras), horizon_eras=horizon) for score_E, oracle_E in pairs]
    return float(np.mean([one.low <= 0.4 <= one.high for one in found if one.defined]))


@pytest.mark.parametrize(("eras", "horizon"), [(60, 4), (120, 12)])
def test_an_interval_of_95_percent_covers_the_share_in_93_to_99(eras: int, horizon: int) -> None:
    assert 0.93 <= covered(2.0, eras, horizon) <= 0.99


def test_luck_that_recipe_and_oracle_have_in_common_makes_no_share_less_sure() -> None:
    oracle_E = overlapping(1, 100, 4)[0] + 2
    own_E = 0.2 * overlapping(1, 100, 4, seed=1)[0]
    found = share(0.5 * oracle_E + own_E, oracle_E, range(100), horizon_eras=4)
    alone = interval(0.5 * oracle_E + own_E, range(100), horizon_eras=4)
    assert found.standard_error < 0.6 * alone.standard_error / oracle_E.mean()


def test_a_share_over_seeds_holds_their_noise_in_each_fold() -> None:
    oracle_E, fold_E = overlapping(1, 100, 4)[0] + 2, np.arange(100) // 25
    seed_SE = np.random.default_rng(0).standard_normal((3, 4))[:, fold_E]
    found = share(0.5 * oracle_E + seed_SE, oracle_E, range(100), horizon_eras=4, fold_E=fold_E)
    noise = seed_noise(seed_SE / oracle_E.mean(), range(100), horizon_eras=4, fold_E=fold_E)
    assert found.mean == pytest.approx(0.5 + seed_SE.mean() / oracle_E.mean())
    assert found.standard_error > 0.9 * noise.seed_sd / math.sqrt(12)


@pytest.mark.parametrize("mean", [0.0, -2.0, 0.05])
def test_where_the_oracle_may_be_worth_nothing_the_share_is_undefined_and_says_so(mean: float) -> None:
    oracle_E = overlapping(1, 60, 4)[0]
    found = share(np.ones(60), oracle_E - oracle_E.mean() + mean, range(60), horizon_eras=4)
    assert not found.defined
    assert math.isnan(found.mean)
    assert str(found).startswith("no interval: the oracle's own mean of ")


def test_where_eras_are_too_few_the_share_says_so() -> None:
    found = share([1, 2, 3], [2, 4, 6], [1, 2, 3], horizon_eras=12)
    assert "3 eras whose targets reach over 12" in found.lacking
    assert math.isnan(found.mean)


def test_an_era_counts_where_both_have_a_score() -> None:
    oracle_E = overlapping(1, 40, 1)[0] + 3
    score_E = 0.3 * oracle_E + overlapping(1, 40, 1, seed=1)[0]
    score_E[3], oracle_E[7] = math.nan, math.nan
    both_E = ~np.isnan(score_E + oracle_E)
    found = share(score_E, oracle_E, np.arange(40), horizon_eras=1)
    alone = share(score_E[both_E], oracle_E[both_E], np.arange(40)[both_E], horizon_eras=1)
    assert (found.mean, found.low, found.high) == (alone.mean, alone.low, alone.high)
    assert (found.eras, found.left_out) == (38, 2)


def test_an_oracle_of_other_eras_is_refused() -> None:
    with pytest.raises(InputError, match=r"must have a score for each era, however the shapes are \(3,\) and \(1, 4\)"):
        share([1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 4], horizon_eras=1)
