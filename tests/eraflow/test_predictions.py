"""Ranks, ensembles and neutralisation by era."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

from eraflow.errors import DataError, InputError
from eraflow.predictions import ensemble, neutralize, rank, rank_uniform


def test_rank_stays_inside_0_and_1_and_keeps_ties() -> None:
    values = np.random.default_rng(0).integers(0, 50, 198)
    np.testing.assert_array_equal(rank_uniform(values), (stats.rankdata(values) - 0.5) / 198)
    assert 0 < rank_uniform(values).min() < rank_uniform(values).max() < 1


def test_eras_are_ranked_apart_in_the_order_that_came() -> None:
    assert rank([5, 1, 6, 2], ["b", "a", "b", "a"]).tolist() == [0.25, 0.25, 0.75, 0.75]


def test_several_predictions_are_ranked_apart() -> None:
    rng = np.random.default_rng(3)
    prediction_NK, era = rng.integers(0, 20, (60, 3)) / 7, rng.integers(0, 4, 60)
    for k, column in enumerate(prediction_NK.T):
        np.testing.assert_array_equal(rank(prediction_NK, era)[:, k], rank(column, era))
    assert rank([], []).shape == (0,)


def test_a_constant_prediction_has_the_rank_one_half() -> None:
    assert rank([3, 3, 3], [1, 1, 1]).tolist() == [0.5] * 3


def test_ensemble_is_the_mean_of_ranks_and_no_scale_wins() -> None:
    era = [1, 1, 1]
    assert ensemble([[1, 2, 3], [3000, 2000, 1000]], era).tolist() == [0.5] * 3
    np.testing.assert_allclose(ensemble([[1, 2, 3], [1, 3, 2]], era), [1 / 6, 2 / 3, 2 / 3])


@pytest.mark.parametrize("proportion", [0.0, 0.5, 1.0])
def test_neutralize_takes_out_the_least_squares_fit_of_each_era(proportion: float) -> None:
    rng = np.random.default_rng(1)
    era, feature_NF = np.repeat([1, 2], 50), rng.integers(0, 5, (100, 6)).astype(np.int8)
    prediction = rng.standard_normal(100) + feature_NF @ rng.standard_normal(6)
    found = neutralize(prediction, feature_NF, era, proportion)
    for label in (1, 2):
        rows = era == label
        x = np.column_stack([feature_NF[rows], np.ones(50)]).astype(float)
        expected = prediction[rows] - proportion * (x @ linalg.lstsq(x, prediction[rows])[0])
        np.testing.assert_allclose(found[rows] - found[rows].mean(), expected - expected.mean(), atol=1e-10)
        assert found[rows].mean() == pytest.approx(prediction[rows].mean())


def test_more_features_than_rows_leave_nothing_but_the_mean() -> None:
    rng = np.random.default_rng(2)
    found = neutralize(rng.standard_normal(5), rng.integers(0, 5, (5, 40)), [1] * 5)
    np.testing.assert_allclose(found, found.mean(), atol=1e-10)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="no NaN, however 1 of 2"):
        rank([1, np.nan], [1, 1])
    with pytest.raises(InputError, match="one length"):
        rank([1, 2], [1])
    with pytest.raises(InputError, match="at least one prediction"):
        ensemble([], [])
    with pytest.raises(InputError, match="proportion must be from 0 to 1"):
        neutralize([1, 2], [[1], [2]], [1, 1], 1.5)
