"""Student's t agrees with scipy to 1e-10, in its tail and in its quantile."""

from __future__ import annotations

import pytest
from scipy import stats

from eraflow.student import quantile, tail

DEGREES = (0.5, 1, 1.37, 2, 4.4, 9.3, 29.6, 39.9, 40.1, 162.0, 1e3, 1e5)


@pytest.mark.parametrize("degrees", DEGREES)
def test_quantile_agrees_with_scipy_to_1e_10(degrees: float) -> None:
    for level in (0.5, 0.9, 0.95, 0.99, 1 - 0.05 / 45):
        assert quantile(level, degrees) == pytest.approx(stats.t.isf((1 - level) / 2, degrees), rel=1e-10)


@pytest.mark.parametrize("degrees", DEGREES)
def test_tail_agrees_with_scipy_to_1e_10(degrees: float) -> None:
    for t in (1e-6, 0.01, 0.7, 1.0, -1.96, 3.0, 8.0, 30.0):
        assert tail(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-10)


def test_nothing_lies_beyond_infinity_and_all_beyond_0() -> None:
    assert (tail(0.0, 3), tail(float("inf"), 3), tail(float("-inf"), 3)) == (1, 0, 0)


def test_one_degree_worked_by_hand() -> None:
    """Cauchy: half of it lies within 1, and tan(0.95 · 90°) is 12.7062."""
    assert tail(1.0, 1) == pytest.approx(0.5, rel=1e-14)
    assert quantile(0.95, 1) == pytest.approx(12.7062047362, rel=1e-11)
