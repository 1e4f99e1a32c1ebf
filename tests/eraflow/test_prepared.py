"""Scores of many columns at once against the formulas of each era and column alone, in scipy's ranks and quantiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from eraflow.errors import DataError, InputError
from eraflow.prepared import VALUES_AT_A_TIME, PreparedScores, PreparedSpearman

Array = npt.NDArray[Any]


def _gauss(values: Array) -> Array:
    return np.asarray(stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values)))


def _power(values: Array) -> Array:
    return np.asarray(np.sign(values) * np.abs(values) ** 1.5)


def _spearman(prediction: Array, target: Array) -> float:
    return float(stats.spearmanr(prediction, target).statistic)


def _corr(prediction: Array, target: Array) -> float:
    return float(np.corrcoef(_power(_gauss(prediction)), _power(target - target.mean()))[0, 1])


def _contribution(prediction: Array, target: Array, reference: Array) -> float:
    p, m, t = _gauss(prediction), _gauss(reference), 4 * target
    return float((t - t.mean()) @ (p - m * (p @ m) / (m @ m))) / len(t)


def _plain(score: Callable[..., float], prediction: Array, target: Array, era: Array, other: Array | None) -> Array:
    """An era and a column after the other."""
    prediction_NK = prediction.reshape(len(target), -1)
    found = np.full((len(np.unique(era)), prediction_NK.shape[1]), np.nan)
    for e, label in enumerate(np.unique(era)):
        kept = (era == label) & ~np.isnan(target) & (True if other is None else ~np.isnan(other))
        given = [target[kept].astype(float)] if other is None else [target[kept].astype(float), other[kept]]
        for k, column in enumerate(prediction_NK[kept].T):
            if all(len(np.unique(each)) > 1 for each in (column, *given)):
                found[e, k] = score(column, *given)
    return found.reshape(-1, *prediction.shape[1:])


def _market(rows: int, columns: int, *, sort: bool, dtype: Any, decimals: int) -> dict[str, Array]:
    """Unequal eras, a meta model that begins later and has gaps, targets missing at random and in a whole era."""
    rng = np.random.default_rng(rows + columns)
    era = rng.choice([3, 20, 100, 7, 5], rows, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    era = np.sort(era) if sort else era
    target = rng.choice([0, 0.25, 0.5, 0.75, 1], rows, p=[0.05, 0.2, 0.5, 0.2, 0.05]).astype(np.float32)
    target[(rng.random(rows) < 0.1) | (era == 5)] = np.nan
    prediction = rng.standard_normal((rows, columns)).round(decimals)
    prediction[:, -1] = 0.5
    meta = rng.standard_normal(rows).round(1)
    meta[(era == 3) | ((era == 100) & (rng.random(rows) < 0.5))] = np.nan
    prediction = (prediction * (10 if np.dtype(dtype).kind == "i" else 1)).astype(dtype)
    return {"prediction": prediction, "target": target, "era": era, "meta": meta, "benchmark": rng.random(rows)}


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize(("dtype", "decimals"), [(np.float32, 9), (np.float32, 1), (np.float64, 9), (np.int64, 1)])
@pytest.mark.parametrize(("rows", "columns"), [(400, 4), (VALUES_AT_A_TIME, 3), (12, 2), (1, 1)])
def test_prepared_scores_are_those_of_each_era_and_column_alone(
    rows: int, columns: int, dtype: Any, decimals: int, sort: bool
) -> None:
    made = _market(rows, columns, sort=sort, dtype=dtype, decimals=decimals)
    references = {"mmc": made["meta"], "bmc": made["benchmark"]}
    prepared = PreparedScores(made["target"], made["era"], references)
    found = prepared(made["prediction"])
    data = (made["prediction"], made["target"], made["era"])
    np.testing.assert_array_equal(prepared.era_E, np.unique(made["era"]))
    np.testing.assert_allclose(found["spearman"], _plain(_spearman, *data, None), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found["numerai_corr"], _plain(_corr, *data, None), rtol=0, atol=1e-14)
    for name, reference in references.items():
        np.testing.assert_allclose(found[name], _plain(_contribution, *data, reference), rtol=0, atol=1e-14)
    assert np.isnan(found["spearman"][:, -1]).all()


def test_one_prediction_is_scored_as_a_column_is() -> None:
    made = _market(300, 3, sort=False, dtype=np.float32, decimals=2)
    prepared = PreparedScores(made["target"], made["era"], {"mmc": made["meta"]})
    together, alone = prepared(made["prediction"]), prepared(made["prediction"][:, 1])
    for name, value_E in alone.items():
        np.testing.assert_array_equal(value_E, together[name][:, 1])
        only = prepared(made["prediction"][:, 1], (name,))
        assert only.keys() == {name}
        np.testing.assert_array_equal(only[name], value_E)
    era_E, spearman_E = PreparedSpearman(made["target"], made["era"])(made["prediction"][:, 1])
    np.testing.assert_array_equal(era_E, prepared.era_E)
    np.testing.assert_array_equal(spearman_E, alone["spearman"])


def test_predictions_that_differ_beyond_32_bits_are_not_tied() -> None:
    prediction = np.array([1.0, 1.0 + 1e-12, 1.0 + 2e-12, 0.0])
    assert PreparedSpearman(np.array([0, 0.5, 1, -1]), np.ones(4, int))(prediction)[1] == [1.0]


def test_an_era_whose_reference_is_constant_or_missing_defines_no_contribution() -> None:
    target, era = np.array([0, 1, 0.5] * 3), np.repeat([1, 2, 3], 3)
    meta = np.array([0.5, 0.5, 0.5, np.nan, np.nan, np.nan, 1, 2, np.nan])
    found = PreparedScores(target, era, {"mmc": meta})(np.arange(9.0))["mmc"]
    assert np.isnan(found).tolist() == [True, True, False]


def test_no_rows_and_no_columns_give_empty_scores() -> None:
    none = np.empty(0)
    assert PreparedScores(none, none.astype(int))(none)["spearman"].shape == (0,)
    assert PreparedScores(np.array([0.0, 1.0]), np.array([1, 1]))(np.empty((2, 0)))["spearman"].shape == (1, 0)


def test_what_cannot_be_scored_is_refused() -> None:
    prepared = PreparedScores(np.array([0.0, 1.0]), np.array([1, 1]))
    with pytest.raises(InputError, match="2 predictions, one a row, however 3"):
        prepared(np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"\[N\] or \[N, K\], however their shape is \(2, 1, 1\)"):
        prepared(np.zeros((2, 1, 1)))
    with pytest.raises(DataError, match="1 of 4 are NaN, the first at position 3"):
        prepared(np.array([[0, 1], [2, np.nan]]))
    with pytest.raises(InputError, match="predictions must be numbers"):
        prepared(np.array(["a", "b"]))
    with pytest.raises(InputError, match=r"among spearman, numerai_corr, however \['mmc'\] were asked for"):
        prepared(np.zeros(2), ("mmc",))
    with pytest.raises(InputError, match="one length, however target has 2, era has 2, mmc has 1"):
        PreparedScores(np.zeros(2), np.ones(2, int), {"mmc": np.zeros(1)})
