"""What is left of values after a least-squares fit on features: the arithmetic behind every neutralisation.

Shape letters: N rows of one era, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]


def residual(values_N: Array, feature_NF: Array) -> F64:
    """`values_N` less their least-squares fit on one era's features and an intercept, float64 `[N]`.

    Normal equations on centred columns (exact for small whole numbers), refined once; where they are singular
    or there are more features than rows, the minimum-norm solution.
    """
    rest_N = np.asarray(values_N, np.float64) - np.mean(values_N)
    kept_NF = feature_NF[:, (feature_NF != feature_NF[:1]).any(0)]
    if not kept_NF.shape[1]:
        return rest_N
    x_NF = kept_NF.astype(np.float64)
    x_NF -= x_NF.mean(0)
    gram_FF = _gram(kept_NF, x_NF)
    if _well_conditioned(gram_FF, len(x_NF)):
        for _ in range(2):
            rest_N = rest_N - x_NF @ np.linalg.solve(gram_FF, x_NF.T @ rest_N)
        return rest_N
    return rest_N - x_NF @ np.linalg.lstsq(x_NF, rest_N, rcond=1e-6)[0]


def _gram(raw_NF: Array, centred_NF: F64) -> F64:
    """The centred columns' products. Codes are multiplied in float32: exact below 2**24, and twice as fast."""
    if raw_NF.dtype != np.int8 or len(raw_NF) * int(np.abs(raw_NF, dtype=np.int16).max()) ** 2 >= 1 << 24:
        return np.asarray(centred_NF.T @ centred_NF)
    x_NF = raw_NF.astype(np.float32)
    sum_F = raw_NF.sum(0, dtype=np.float64)
    return (x_NF.T @ x_NF).astype(np.float64) - np.outer(sum_F, sum_F) / len(raw_NF)


def _well_conditioned(gram_FF: F64, rows: int) -> bool:
    if rows <= len(gram_FF):
        return False
    try:
        diagonal = np.diag(np.linalg.cholesky(gram_FF))
    except np.linalg.LinAlgError:
        return False
    return bool(diagonal.min() > 1e-5 * diagonal.max())
