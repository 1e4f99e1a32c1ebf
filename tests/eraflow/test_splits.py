"""The purge takes training eras by weeks, whatever is down-sampled after it."""

from __future__ import annotations

import numpy as np
import pytest

from eraflow.errors import InputError
from eraflow.splits import every_nth, horizon_eras, purge, purge_eras


@pytest.mark.parametrize(
    ("target", "horizon", "purged"),
    [("target_cyrusd_20", 4, 8), ("target_ender_60", 12, 16), ("target", 12, 16), ("target_20_x", 12, 16)],
)
def test_horizon_and_purge_come_from_the_suffix(target: str, horizon: int, purged: int) -> None:
    assert (horizon_eras(target), purge_eras(target)) == (horizon, purged)


def test_purge_leaves_that_many_eras_between_train_and_validation() -> None:
    kept = purge(range(1, 575), range(575, 600), 16)
    assert kept.tolist() == list(range(1, 559))
    assert 575 - kept.max() - 1 == 16


def test_purge_takes_training_eras_on_both_sides_and_the_shared_ones() -> None:
    assert purge(range(1, 31), [15, 16], 3).tolist() == [*range(1, 12), *range(20, 31)]


def test_purge_between_two_validation_blocks_looks_at_both() -> None:
    assert purge(range(1, 31), [5, 6, 25], 8).tolist() == [15, 16]


def test_rows_may_repeat_eras_in_any_order() -> None:
    assert purge([3, 1, 2, 1, 3], np.array([9, 9]), 6).tolist() == [1, 2]


def test_without_validation_eras_nothing_is_purged() -> None:
    assert purge([2, 1], [], 16).tolist() == [1, 2]


def test_a_purge_that_leaves_nothing_is_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match=r"more than 16 eras .* 12 to 20, however none of the 10 .*1 to 10"):
        purge(range(1, 11), range(12, 21), 16)


def test_the_stride_counts_weeks_and_not_what_the_purge_left() -> None:
    kept = purge(range(1, 30), [10], 2)
    assert every_nth(kept, 4).tolist() == [1, 5, 13, 17, 21, 25, 29]


def test_stride_1_keeps_all_and_0_is_refused() -> None:
    assert every_nth([3, 1], 1).tolist() == [1, 3]
    assert every_nth([], 4).tolist() == []
    with pytest.raises(InputError, match="stride must be 1 or more"):
        every_nth([1], 0)
