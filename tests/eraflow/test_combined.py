"""A recipe's neutralisation: the members' mean rank less a proportion of its fit on the features, by era, as ranks."""

from __future__ import annotations

import numpy as np
import pytest

from eraflow.config import override
from eraflow.errors import InputError
from eraflow.metrics import feature_exposure
from eraflow.predictions import combined, ensemble, neutralize, rank
from eraflow.recipes import get
from eraflow.rows import Rows


@pytest.fixture
def rows() -> Rows:
    rng = np.random.default_rng(0)
    era_N = np.repeat([3, 1, 2], 200).astype(np.int32)  # in no order
    return Rows.of(rng.integers(-2, 3, (600, 5), np.int8), rng.random(600, np.float32), era_N)


def test_a_proportion_of_the_linear_part_is_taken_out_by_era(rows: Rows) -> None:
    rng = np.random.default_rng(1)
    code_NF = np.empty((600, 5), np.int8)
    rows.gather(np.arange(600), code_NF)
    members = [code_NF @ rng.random(5) + rng.normal(0, 1, 600) for _ in range(2)]
    mean_N = ensemble(members, rows.era_M)
    for proportion in (0.5, 1.0):
        expected = rank(neutralize(mean_N, code_NF, rows.era_M, proportion), rows.era_M)
        assert np.array_equal(combined(members, rows, rows.era_M, proportion), expected)
    assert np.array_equal(combined(members, rows, rows.era_M), mean_N)
    exposure = [
        feature_exposure(combined(members, rows, rows.era_M, p), code_NF, rows.era_M).mean() for p in (0.0, 0.5, 1.0)
    ]
    assert exposure[0] > exposure[1] > 0.1 > exposure[2]


def test_a_recipe_says_how_much_is_taken_out() -> None:
    assert override(get("era-pearson"), {"prediction.neutralize": "0.5"}).prediction.neutralize == 0.5
    with pytest.raises(InputError, match=r"prediction\.neutralize must be from 0 to 1, however it is 1\.5"):
        override(get("era-pearson"), {"prediction.neutralize": "1.5"})
