"""What Spearman a prediction reaches that ranks the target's blocks perfectly and knows nothing inside them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from benchmarks.five_blocks import (
    SHARES,
    arbitrary_ties,
    arbitrary_ties_deviation,
    averaged_ties,
    block_sizes,
    simulated,
)
from eraflow.metrics import era_spearman

OTHER_SHARES = [(0.05, 0.2, 0.5, 0.2, 0.05), (0.5, 0.5), (0.1, 0.2, 0.7), (0.02, 0.03, 0.9, 0.03, 0.02), (0.2,) * 5]


def test_the_real_shares_give_the_two_known_numbers() -> None:
    sizes = block_sizes(5000, SHARES)
    assert sizes == [250, 1000, 2500, 1000, 250]
    assert round(averaged_ties(sizes), 4) == 0.9267
    assert round(arbitrary_ties(sizes), 4) == 0.8588
    assert round(arbitrary_ties_deviation(sizes), 4) == 0.0025


@pytest.mark.parametrize("shares", OTHER_SHARES, ids=str)
@pytest.mark.parametrize("rows", [100, 5000])
def test_era_spearman_of_blocks_in_order_is_the_formula_whatever_the_order_inside(
    shares: Sequence[float], rows: int
) -> None:
    sizes = block_sizes(rows, shares)
    chance = np.random.default_rng(rows)
    target_N = np.tile(np.repeat(np.linspace(0, 1, len(sizes)), sizes), 3)
    # Three orders: that of the rows, its reverse and one by chance; rows of an era come in any order.
    inside_N = np.concatenate([np.arange(rows), np.arange(rows)[::-1], chance.permutation(rows)])
    prediction_N, era_N = target_N * 10 * rows + inside_N, np.repeat([1, 2, 3], rows)
    mixed_N = chance.permutation(3 * rows)
    found_E = era_spearman(prediction_N[mixed_N], target_N[mixed_N], era_N[mixed_N])
    assert found_E.to_numpy() == pytest.approx(averaged_ties(sizes), abs=1e-14)


@pytest.mark.parametrize("shares", OTHER_SHARES, ids=str)
def test_the_formula_agrees_with_scipy(shares: Sequence[float]) -> None:
    sizes = block_sizes(200, shares)
    target_N = np.repeat(np.arange(len(sizes)), sizes)
    assert stats.spearmanr(target_N, np.arange(200)).statistic == pytest.approx(averaged_ties(sizes), abs=1e-14)


@pytest.mark.parametrize("sizes", [(2, 3), (1, 2, 1), (4,) * 2, (1, 5)], ids=str)
def test_over_all_orders_inside_the_blocks_the_untied_value_has_the_mean_and_deviation_of_the_formulas(
    sizes: tuple[int, ...],
) -> None:
    bounds = list(itertools.accumulate(sizes, initial=0))
    inside = [itertools.permutations(range(a, b)) for a, b in itertools.pairwise(bounds)]
    orders = [list(itertools.chain(*parts)) for parts in itertools.product(*inside)]
    found = [stats.spearmanr(order, range(bounds[-1])).statistic for order in orders]
    assert len(found) == math.prod(map(math.factorial, sizes))
    assert statistics.fmean(found) == pytest.approx(arbitrary_ties(sizes), abs=1e-12)
    assert statistics.pstdev(found) == pytest.approx(arbitrary_ties_deviation(sizes), abs=1e-12)


def test_the_simulation_varies_only_where_ties_are_ranked_in_an_arbitrary_order() -> None:
    sizes = block_sizes(500, SHARES)
    averaged_R, arbitrary_R = simulated(sizes, 250)
    assert len(averaged_R) == len(arbitrary_R) == 250
    assert averaged_R == pytest.approx(averaged_ties(sizes), abs=1e-14)
    deviation = arbitrary_ties_deviation(sizes)
    assert arbitrary_R.mean() == pytest.approx(arbitrary_ties(sizes), abs=4 * deviation / math.sqrt(250))
    assert arbitrary_R.std() == pytest.approx(deviation, rel=0.2)


@pytest.mark.parametrize("shares", [(0.3, 0.8), (0.001, 0.999), (1.0,), (0.4, 0.0, 0.6)], ids=str)
def test_shares_that_do_not_divide_the_rows_are_refused(shares: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="shares must divide 100 rows into two or more whole blocks, however they are"):
        block_sizes(100, shares)
