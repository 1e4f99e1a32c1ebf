"""Neutralisation against a plain least-squares solution, many predictions against one, odd shapes included."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eraflow.neutral import Neutralizer, exposures, residual

Array = npt.NDArray[Any]


def _plain(value_MK: Array, feature_MF: Array) -> Array:
    """What numerai-tools 0.7.2 computes: the minimum-norm solution with an intercept, less its mean."""
    x = np.column_stack([feature_MF, np.ones(len(feature_MF))]).astype(float)
    rest = value_MK - x @ np.linalg.lstsq(x, value_MK, rcond=1e-6)[0]
    return np.asarray(rest - rest.mean(0))


def _codes(rows: int, features: int, seed: int = 0, dtype: Any = np.int8) -> Array:
    return np.random.default_rng(seed).integers(-2, 3, (rows, features)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(("rows", "features"), [(200, 1), (400, 301), (700, 650), (2, 1)])
def test_what_is_left_is_that_of_least_squares(rows: int, features: int, dtype: type) -> None:
    feature_MF = _codes(rows, features, dtype=dtype)
    value_M = np.random.default_rng(1).standard_normal(rows) + feature_MF[:, 0] + 3
    np.testing.assert_allclose(residual(value_M, feature_MF), _plain(value_M, feature_MF), atol=1e-10)


def test_whole_numbers_too_large_for_float32_are_multiplied_in_float64() -> None:
    feature_MF = _codes(300, 5, dtype=np.int32) * 5000 + 10_000
    value_M = np.random.default_rng(1).standard_normal(300)
    np.testing.assert_allclose(residual(value_M, feature_MF), _plain(value_M, feature_MF), atol=1e-9)


@pytest.mark.parametrize("rows", [300, 20])
def test_several_predictions_leave_what_each_leaves_alone(rows: int) -> None:
    feature_MF = _codes(rows, 40)
    value_MK = np.random.default_rng(2).standard_normal((rows, 3))
    prepared = Neutralizer(feature_MF)
    found = prepared.residual(value_MK)
    for k in range(3):
        np.testing.assert_allclose(found[:, k], residual(value_MK[:, k], feature_MF), atol=1e-12)
    np.testing.assert_array_equal(prepared.residual(value_MK[:, :1])[:, 0], prepared.residual(value_MK[:, 0]))
    np.testing.assert_array_equal(prepared.residual(value_MK), found)


@pytest.mark.parametrize("dependent", ["twice", "sum", "constant"])
def test_dependent_features_have_the_minimum_norm_solution(dependent: str) -> None:
    feature_MF = _codes(300, 6)
    more = {
        "twice": feature_MF,
        "sum": feature_MF[:, :1] + feature_MF[:, 1:2],
        "constant": np.full((300, 2), 2, np.int8),
    }
    value_M = np.random.default_rng(3).standard_normal(300) + feature_MF[:, 0]
    found = residual(value_M, np.hstack([feature_MF, more[dependent]]))
    np.testing.assert_allclose(found, _plain(value_M, feature_MF), atol=1e-10)


def test_nearly_dependent_features_are_fitted_as_well_as_by_least_squares() -> None:
    """A hundredth of a row's difference: conditions of 1e8 in the normal equations."""
    rng = np.random.default_rng(4)
    feature_MF = rng.standard_normal((300, 5))
    near_MF = np.hstack([feature_MF, feature_MF + 1e-4 * rng.standard_normal((300, 5))])
    value_M = rng.standard_normal(300)
    np.testing.assert_allclose(residual(value_M, near_MF), _plain(value_M, near_MF), atol=1e-8)


def test_more_features_than_rows_leave_nothing() -> None:
    np.testing.assert_allclose(residual(np.arange(5.0), _codes(5, 40)), 0, atol=1e-10)


@pytest.mark.parametrize("feature_MF", [np.empty((4, 0)), np.ones((4, 3), np.int8)])
def test_without_features_that_vary_all_but_the_mean_is_left(feature_MF: Array) -> None:
    assert residual(np.array([1.0, 2, 3, 6]), feature_MF).tolist() == [-2, -1, 0, 3]
    assert residual(np.array([[7.0]]), feature_MF[:1]).tolist() == [[0]]


def test_features_of_a_read_only_map_and_the_values_stay_as_they_were() -> None:
    feature_MF, value_M = _codes(50, 4), np.arange(50.0)
    feature_MF.setflags(write=False)
    residual(value_M, feature_MF[::2][:25].repeat(2, axis=0))
    residual(value_M, feature_MF)
    np.testing.assert_array_equal(value_M, np.arange(50.0))


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_exposures_are_the_correlations_with_each_feature(dtype: type) -> None:
    feature_MF = _codes(60, 310, dtype=dtype)
    value_MK = np.random.default_rng(5).standard_normal((60, 2)).astype(np.float32)
    expected = np.corrcoef(feature_MF.T.astype(float), value_MK.T.astype(float))[:310, 310:]
    np.testing.assert_allclose(exposures(value_MK, feature_MF), expected, atol=1e-12)


def test_nothing_constant_has_an_exposure() -> None:
    found = exposures(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]]), np.array([[0.3, 1], [0.3, 2], [0.3, 3]]))
    assert np.isnan(found).tolist() == [[True, True], [True, False]]
    assert found[1, 1] == pytest.approx(1)
