"""Record what numerai-tools 0.7.2 scores into numerai_tools_0_7_2.json, which the tests compare with.

Not a test and not run with them. Run it once, in an environment of its own:

    python -m venv tools-venv
    tools-venv/bin/pip install numerai-tools==0.7.2 pandas==3.1.1 numpy==2.4.6
    tools-venv/bin/python tests/eraflow/golden/record_numerai_tools.py

Each case is one era: a prediction, a reference, a target and features, with what the library makes of them; null
where it gives NaN or refuses. numerai-tools is no dependency of the project, so it is imported where it is used and
this file can be read without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FEATURES = 5


def main() -> None:
    told: dict[str, Any] = {name: _scored(**case) for name, case in _cases().items()}
    path = Path(__file__).with_name("numerai_tools_0_7_2.json")
    path.write_text(json.dumps(told) + "\n")


def _cases() -> dict[str, dict[str, Array]]:
    """Random, tied, constant, short and missing data."""
    cases = {"random": _random(40), "short": _random(8)}
    cases["two rows"] = {**_random(2), "target": np.array([0.0, 1.0])}
    cases["tied"] = {**_random(40), "prediction": _random(40)["prediction"].round(0)}
    cases["reference tied"] = {**_random(40), "reference": _random(40)["reference"].round(0)}
    cases["constant prediction"] = {**_random(12), "prediction": np.full(12, 0.5)}
    cases["constant target"] = {**_random(12), "target": np.full(12, 0.5)}
    missing = _random(40)
    missing["target"][[0, 7, 39]] = np.nan
    cases["missing target"] = missing
    missing = _random(40)
    missing["reference"][[3, 4]] = np.nan
    cases["missing reference"] = missing
    return cases


def _random(rows: int) -> dict[str, Array]:
    rng = np.random.default_rng(rows)
    return {
        "prediction": rng.standard_normal(rows),
        "reference": rng.standard_normal(rows),
        "target": rng.choice(5, rows, p=[0.05, 0.2, 0.5, 0.2, 0.05]) / 4,
        "features": rng.integers(0, 5, (rows, FEATURES)),
    }


def _scored(prediction: Array, reference: Array, target: Array, features: Array) -> dict[str, Any]:
    import pandas as pd
    from numerai_tools import scoring  # type: ignore[import-not-found]  # see above

    index = pd.Index([f"id{i:03}" for i in range(len(target))])
    p = pd.DataFrame({"prediction": prediction}, index=index)
    m, t = pd.Series(reference, index=index, name="reference"), pd.Series(target, index=index, name="target")
    x = pd.DataFrame(features, index=index)
    whole = ~t.isna()
    return {
        "given": {
            "prediction": prediction.tolist(),
            "reference": _numbers(reference),
            "target": _numbers(target),
            "features": features.tolist(),
        },
        "era_spearman": _number(lambda: scoring.spearman_correlation(t[whole], p["prediction"][whole])),
        "numerai_corr": _number(lambda: scoring.numerai_corr(p, t).iloc[0]),
        "contribution": _number(lambda: scoring.correlation_contribution(p, m, t).iloc[0]),
        "feature_neutral_corr": _number(lambda: scoring.feature_neutral_corr(p[whole], x[whole], t[whole]).iloc[0]),
        "feature_exposure": _number(lambda: scoring.max_feature_correlation(p["prediction"], x)[1]),
        "neutralized": _numbers(scoring.neutralize(p, x, 0.5)["prediction"].to_numpy()),
    }


def _numbers(values: Array) -> list[float | None]:
    return [each if math.isfinite(each) else None for each in values.tolist()]


def _number(score: Callable[[], Any]) -> float | None:
    try:
        found = float(score())
    except (AssertionError, ValueError):
        return None
    return found if math.isfinite(found) else None


if __name__ == "__main__":
    main()
