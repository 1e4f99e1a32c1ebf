"""Ranks of many columns at once against scipy's of each, and the quantiles against two other sources."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from eraflow.ranks import centred_ranks, gaussian_of_rank

Array = npt.NDArray[Any]
Made = Callable[[np.random.Generator, tuple[int, int]], Array]

VALUES: dict[str, Made] = {
    "float32": lambda rng, shape: rng.standard_normal(shape).astype(np.float32),
    "float32, tied": lambda rng, shape: rng.standard_normal(shape).round(1).astype(np.float32),
    "float16": lambda rng, shape: rng.standard_normal(shape).astype(np.float16),
    "float64": lambda rng, shape: rng.standard_normal(shape),
    "float64, tied": lambda rng, shape: rng.standard_normal(shape).round(1),
    "float64, equal in 32 bits": lambda rng, shape: 1000 + rng.integers(0, 50, shape) * 1e-9,
    "float64, beyond float32": lambda rng, shape: rng.choice([-1e300, 1e300, 2e300, 3.0], shape),
    "signs, infinities, subnormals": lambda rng, shape: rng.choice(
        [np.inf, -np.inf, 0.0, -0.0, 1e-320, -2e-320], shape
    ),
    "int64 beyond float64": lambda rng, shape: rng.integers(2**60, 2**60 + 9, shape),
    "int8": lambda rng, shape: rng.integers(-2, 3, shape).astype(np.int8),
    "bool": lambda rng, shape: rng.integers(0, 2, shape).astype(bool),
    "constant": lambda rng, shape: np.full(shape, 0.1),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 2), (1, 400), (5, 17), (2, 400), (3, 0), (0, 4)])
def test_ranks_of_several_columns_are_those_of_scipy(kind: str, shape: tuple[int, int]) -> None:
    value_KM = VALUES[kind](np.random.default_rng(sum(shape)), shape)
    expected = np.array([stats.rankdata(each) * 2 - shape[1] - 1 for each in value_KM]).reshape(shape)
    np.testing.assert_array_equal(centred_ranks(value_KM), expected)
    np.testing.assert_array_equal(centred_ranks(np.asfortranarray(value_KM)), expected)


def test_the_values_are_left_as_they_were() -> None:
    value_KM = np.array([[0.0, -0.0, -1.0]], np.float32)
    centred_ranks(value_KM)
    assert np.signbit(value_KM).tolist() == [[False, True, True]]


@pytest.mark.parametrize("n", [1, 2, 3, 198, 5000])
def test_quantiles_are_those_of_the_standard_library_and_of_scipy(n: int) -> None:
    """The lower half to the last digits. Above it the share itself is rounded there, by up to 1e-16 / density."""
    share = np.arange(1, 2 * n) / (2 * n)
    found, lower = gaussian_of_rank(n), slice(0, n)
    for expected in (stats.norm.ppf(share), np.array([NormalDist().inv_cdf(each) for each in share.tolist()])):
        np.testing.assert_allclose(found[lower], expected[lower], rtol=0, atol=2e-15)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(found, -found[::-1])


def test_a_quantile_far_out_is_that_of_the_standard_library() -> None:
    assert gaussian_of_rank(2_000_000)[0] == pytest.approx(NormalDist().inv_cdf(1 / 4e6), abs=2e-15)
