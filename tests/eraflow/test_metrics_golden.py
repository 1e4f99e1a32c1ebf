"""The scores against what numerai-tools 0.7.2 gave for the same numbers (golden/record_numerai_tools.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eraflow import metrics
from eraflow.predictions import neutralize

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden/numerai_tools_0_7_2.json").read_text())


def _given(case: str) -> dict[str, npt.NDArray[np.float64]]:
    return {name: np.array(values, np.float64) for name, values in GOLDEN[case]["given"].items()}


def _scores(case: str) -> dict[str, float]:
    given = _given(case)
    era = np.ones(len(given["target"]), int)
    p, t, x = given["prediction"], given["target"], given["features"]
    return {
        "era_spearman": metrics.era_spearman(p, t, era)[1],
        "numerai_corr": metrics.numerai_corr(p, t, era)[1],
        "contribution": metrics.contribution(p, given["reference"], t, era)[1],
        "feature_neutral_corr": metrics.feature_neutral_corr(p, x.astype(np.int8), t, era)[1],
        "feature_exposure": metrics.feature_exposure(p, x.astype(np.int8), era)[1],
    }


@pytest.mark.parametrize("case", GOLDEN)
def test_scores_are_those_of_numerai_tools(case: str) -> None:
    """But for two, undefined here: what something constant contributes (its 0), and what a perfect fit leaves.

    The latter is rounding, by which it scores the two rows with five features at -1.
    """
    for name, found in _scores(case).items():
        expected = GOLDEN[case][name]
        if (name, case) == ("feature_neutral_corr", "two rows") or (name == "contribution" and "constant" in case):
            expected = None
        np.testing.assert_allclose(found, np.nan if expected is None else expected, rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("case", [case for case in GOLDEN if case != "constant prediction"])
def test_neutralised_predictions_are_those_of_numerai_tools_but_for_their_mean(case: str) -> None:
    given = _given(case)
    found = neutralize(given["prediction"], given["features"], np.ones(len(given["target"]), int), 0.5)
    expected = np.array(GOLDEN[case]["neutralized"])
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), rtol=0, atol=1e-13)
    assert found.mean() == pytest.approx(given["prediction"].mean())


def test_several_predictions_are_scored_as_each_is() -> None:
    given = [_given(case) for case in ("random", "tied", "reference tied")]
    p = np.column_stack([each["prediction"] for each in given])
    t, m, x, era = given[0]["target"], given[0]["reference"], given[0]["features"], np.repeat([7, 2], 20)
    together = [
        metrics.era_spearman(p, t, era),
        metrics.numerai_corr(p, t, era),
        metrics.contribution(p, m, t, era),
        metrics.feature_neutral_corr(p, x, t, era),
        metrics.feature_exposure(p, x, era),
    ]
    for k in range(3):
        alone = [
            metrics.era_spearman(p[:, k], t, era),
            metrics.numerai_corr(p[:, k], t, era),
            metrics.contribution(p[:, k], m, t, era),
            metrics.feature_neutral_corr(p[:, k], x, t, era),
            metrics.feature_exposure(p[:, k], x, era),
        ]
        for many, one in zip(together, alone, strict=True):
            assert many.index.tolist() == one.index.tolist() == [2, 7]
            np.testing.assert_allclose(many[k], one, rtol=0, atol=1e-14)
    found = neutralize(p, x, era, 0.7)
    for k in range(3):
        np.testing.assert_allclose(found[:, k], neutralize(p[:, k], x, era, 0.7), rtol=0, atol=1e-14)
