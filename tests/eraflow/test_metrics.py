"""The scores against scipy, against the tournament's formulas written down once more, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import linalg, stats

from eraflow import metrics
from eraflow.errors import DataError, InputError

Array = npt.NDArray[Any]


def _market(seed: int, *, rows: int = 600, decimals: int | None = None) -> tuple[Array, Array, Array]:
    """Predictions (float32), five-bin targets with some NaN, and unsorted eras of very different sizes."""
    rng = np.random.default_rng(seed)
    era = rng.choice([3, 20, 100, 7], rows, p=[0.6, 0.3, 0.09, 0.01])
    target = rng.choice([0, 0.25, 0.5, 0.75, 1], rows, p=[0.05, 0.2, 0.5, 0.2, 0.05]).astype(np.float32)
    target[rng.random(rows) < 0.1] = np.nan
    prediction = rng.standard_normal(rows).astype(np.float32)
    if decimals is not None:
        prediction = prediction.round(decimals)
        prediction[rng.random(rows) < 0.1] = -0.0
    return prediction, target, era


@pytest.mark.parametrize("decimals", [None, 0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("seed", range(4))
def test_era_spearman_is_that_of_scipy(seed: int, dtype: type, decimals: int | None) -> None:
    raw, target, era = _market(seed, decimals=decimals)
    prediction = (raw * 10).round().astype(dtype) if dtype is np.int64 else raw.astype(dtype)
    found = metrics.era_spearman(prediction, target, era)
    assert found.index.tolist() == [3, 7, 20, 100]
    for label, value in found.items():
        rows = (era == label) & ~np.isnan(target)
        expected = stats.spearmanr(prediction[rows], target[rows]).statistic if rows.sum() > 1 else np.nan
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)


def test_spearman_with_ties_by_hand() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5) = sqrt(0.9).
    assert metrics.era_spearman([1, 2, 2, 9], [0, 1, 2, 3], [5] * 4).loc[5] == pytest.approx(0.9**0.5, abs=1e-15)


def test_tied_targets_of_the_write_up_reach_its_exact_limit() -> None:
    """Shares 5/20/50/20/5 of n rows, ordered by a perfect prediction: sqrt((n^3 - sum n_k^3)/(n^3 - n))."""
    size = np.array([250, 1000, 2500, 1000, 250])
    target, n = np.repeat(np.arange(5) / 4, size), 5000
    expected = np.sqrt((n**3 - (size**3).sum()) / (n**3 - n))
    assert metrics.era_spearman(np.arange(n), target, np.ones(n, int)).loc[1] == pytest.approx(expected, abs=1e-12)
    assert round(float(expected), 4) == 0.9267


def test_eras_are_ordered_as_numbers_and_keep_their_spelling() -> None:
    found = metrics.era_spearman([1, 2, 1, 2, 1, 2], [0, 1] * 3, ["0100", "0100", "20", "20", "003", "003"])
    assert found.index.tolist() == ["003", "20", "0100"]


@pytest.mark.parametrize(
    ("prediction", "target", "why"),
    [
        ([1.0, 1.0, 1.0], [0.0, 0.5, 1.0], "constant prediction"),
        ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], "constant target"),
        ([1.0, 2.0, 3.0], [0.5, np.nan, np.nan], "one row with a target"),
        ([1.0, 2.0, 3.0], [np.nan] * 3, "no target"),
    ],
)
@pytest.mark.parametrize("score", [metrics.era_spearman, metrics.numerai_corr])
def test_an_era_that_defines_no_score_is_nan_and_counted(
    score: Callable[..., Any], prediction: list[float], target: list[float], why: str
) -> None:
    found = score([*prediction, 1.0, 2.0], [*target, 0.0, 1.0], [1, 1, 1, 2, 2])
    assert found.isna().tolist() == [True, False], why
    assert (metrics.summary(found).eras, metrics.summary(found).undefined) == (1, 1)


def test_nan_predictions_are_refused_with_their_number_and_place() -> None:
    with pytest.raises(DataError, match="2 of 4 are NaN, the first at position 1"):
        metrics.era_spearman([1, np.nan, 2, np.nan], [0, 1, 0, 1], [1, 1, 1, 1])
    with pytest.raises(DataError, match="prediction must have no NaN"):
        metrics.numerai_corr([1, np.nan], [0, 1], [1, 1])


def test_unequal_lengths_and_eras_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="one length"):
        metrics.era_spearman([1, 2], [1, 2, 3], [1, 1])
    with pytest.raises(InputError, match="2 predictions, one a row, however 3"):
        metrics.era_spearman([1, 2, 3], [1, 2], [1, 1])
    with pytest.raises(InputError, match="eras must be whole numbers"):
        metrics.era_spearman([1, 2], [1, 2], ["era9", "era9"])
    with pytest.raises(InputError, match="several spellings"):
        metrics.era_spearman([1, 2], [1, 2], ["1", "0001"])


def test_prepared_spearman_serves_many_predictions() -> None:
    prediction, target, era = _market(9)
    prepared = metrics.PreparedSpearman(target, era)
    for sign in (1, -1):
        found = prepared(sign * prediction)
        np.testing.assert_array_equal(found[0], [3, 7, 20, 100])
        np.testing.assert_array_equal(found[1], metrics.era_spearman(sign * prediction, target, era))


def test_no_rows_give_no_eras() -> None:
    assert len(metrics.era_spearman([], [], np.empty(0, int))) == 0


def _gauss(values: Array) -> Array:
    return np.asarray(stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values)))


def _reference_corr(prediction: Array, target: Array) -> float:
    """numerai-tools' `numerai_corr` for one era, from its description."""
    p, t = _gauss(prediction), target - target.mean()
    return float(np.corrcoef(np.sign(p) * np.abs(p) ** 1.5, np.sign(t) * np.abs(t) ** 1.5)[0, 1])


def _reference_contribution(prediction: Array, reference: Array, target: Array) -> float:
    p, m = _gauss(prediction), _gauss(reference)
    orthogonal = p - np.outer(m, (p @ m) / (m.T @ m)).ravel()
    live = target * 4
    return float((live - live.mean()) @ orthogonal) / len(live)


def _eras_of(seed: int) -> tuple[Array, Array, Array, Array]:
    prediction, target, era = _market(seed, decimals=1)
    kept = era != 7
    reference = np.random.default_rng(seed + 50).standard_normal(len(era)) + prediction
    return prediction[kept].astype(np.float64), reference[kept].round(1), target[kept].astype(np.float64), era[kept]


def test_numerai_corr_follows_the_formula() -> None:
    prediction, _, target, era = _eras_of(1)
    for label, value in metrics.numerai_corr(prediction, target, era).items():
        rows = (era == label) & ~np.isnan(target)
        assert value == pytest.approx(_reference_corr(prediction[rows], target[rows]), abs=1e-12)


def test_numerai_corr_by_hand() -> None:
    # Quantiles of 1/6, 1/2, 5/6 are -q, 0, q; the target -1/2, 0, 1/2 has the same shape: correlation 1.
    assert metrics.numerai_corr([0.1, 0.2, 0.9], [0, 0.5, 1], [1] * 3).loc[1] == pytest.approx(1, abs=1e-14)
    # Shapes (-1, 0, 1) and (0, 1, -1): (-1*0 + 0*1 + 1*-1) / 2 = -1/2.
    assert metrics.numerai_corr([0.1, 0.2, 0.9], [0.5, 1, 0], [1] * 3).loc[1] == pytest.approx(-0.5, abs=1e-14)


def test_contribution_follows_the_formula_and_is_that_of_the_code_with_its_4() -> None:
    prediction, reference, target, era = _eras_of(2)
    for label, value in metrics.contribution(prediction, reference, target, era).items():
        rows = (era == label) & ~np.isnan(target)
        expected = _reference_contribution(prediction[rows], reference[rows], target[rows])
        assert value == pytest.approx(expected, abs=1e-12)


def test_a_prediction_that_is_the_reference_contributes_nothing() -> None:
    prediction, _, target, era = _eras_of(3)
    found = metrics.contribution(prediction, prediction, target, era)
    np.testing.assert_allclose(found, 0, atol=1e-14)


def test_contribution_leaves_out_rows_without_a_reference() -> None:
    prediction, reference, target, era = _eras_of(4)
    known = np.arange(len(era)) % 3 > 0
    partly = np.where(known, reference, np.nan)
    np.testing.assert_allclose(
        metrics.contribution(prediction, partly, target, era),
        metrics.contribution(prediction[known], reference[known], target[known], era[known]),
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.parametrize("features", [3, 400])
@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_feature_neutral_corr_follows_the_formula(features: int, dtype: type) -> None:
    """With more features than rows the minimum-norm fit is meant; it is perfect, and nothing is left to score."""
    prediction, _, target, era = _eras_of(5)
    prediction = prediction + np.random.default_rng(3).standard_normal(len(era))  # without ties: rounding breaks them
    feature_NF: Array = np.random.default_rng(0).integers(-2, 3, (len(era), features)).astype(dtype)
    feature_NF[:, 1] = 2  # a feature that is missing everywhere
    found = metrics.feature_neutral_corr(prediction, feature_NF, target, era)
    for label, value in found.items():
        rows = (era == label) & ~np.isnan(target)
        p = _gauss(prediction[rows])
        x = np.column_stack([feature_NF[rows], np.ones(rows.sum())]).astype(float)
        if rows.sum() <= features:
            assert np.isnan(value)
            continue
        neutral = p - x @ linalg.lstsq(x, p, cond=1e-9)[0]
        assert value == pytest.approx(_reference_corr(neutral / neutral.std(), target[rows]), abs=1e-9)


def test_neutralising_against_the_same_feature_twice_is_as_against_it_once() -> None:
    _, _, target, era = _eras_of(6)
    prediction = np.random.default_rng(3).standard_normal(len(era))
    once = np.random.default_rng(1).integers(-2, 3, (len(era), 4)).astype(np.int8)
    np.testing.assert_allclose(
        metrics.feature_neutral_corr(prediction, np.hstack([once, once]), target, era),
        metrics.feature_neutral_corr(prediction, once, target, era),
        atol=1e-9,
    )


def test_feature_exposure_is_the_largest_absolute_correlation() -> None:
    prediction, _, _, era = _eras_of(7)
    feature_NF = np.random.default_rng(2).integers(-2, 3, (len(era), 5)).astype(np.int8)
    feature_NF[:, 0] = 0
    for label, value in metrics.feature_exposure(prediction, feature_NF, era).items():
        rows = era == label
        each = [abs(np.corrcoef(prediction[rows], feature_NF[rows, i])[0, 1]) for i in range(1, 5)]
        assert value == pytest.approx(max(each), abs=1e-12)
    assert np.isnan(metrics.feature_exposure([1, 1], [[0, 1], [1, 0]], [1, 1]).loc[1])
    assert np.isnan(metrics.feature_exposure([1, 2], [[1, 1], [1, 1]], [1, 1]).loc[1])


def test_features_of_the_wrong_shape_or_with_nan_are_refused() -> None:
    with pytest.raises(InputError, match=r"matrix of 2 rows, however its shape is \(3, 1\)"):
        metrics.feature_exposure([1, 2], [[1], [2], [3]], [1, 1])
    with pytest.raises(DataError, match="features must have no NaN, however 1 of 2"):
        metrics.feature_neutral_corr([1, 2], [[1], [np.nan]], [0, 1], [1, 1])


def test_summary_by_hand() -> None:
    found = metrics.summary([0.1, -0.2, np.nan, 0.4, -0.1])
    # mean .05; deviations .05, -.25, .35, -.15: squares sum to .21; cumulative .1, -.1, .3, .2.
    assert found.mean == pytest.approx(0.05)
    assert found.std == pytest.approx((0.21 / 4) ** 0.5)
    assert found.sharpe == pytest.approx(0.05 / (0.21 / 4) ** 0.5)
    assert found.max_drawdown == pytest.approx(0.2)
    assert (found.eras, found.undefined) == (4, 1)


def test_sharpe_is_nan_without_spread_or_eras() -> None:
    same, none = metrics.summary([0.1, 0.1, 0.1]), metrics.summary([np.nan])
    assert same.std == 0
    assert np.isnan(same.sharpe)
    assert np.isnan([none.mean, none.std, none.sharpe, none.max_drawdown]).all()
    assert (none.eras, none.undefined) == (0, 1)
