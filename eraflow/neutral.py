"""How predictions depend on one era's features: what is left without a linear part, and each correlation.

`Neutralizer` is the arithmetic behind every neutralisation: an era's features are factored once, which is nearly all
of the work, and serve any number of predictions.

All matrix products and factors are torch's, whose threads training has already started: numpy's would spin beside
them. torch is imported when first needed.

Shape letters: M rows of one era, F features, K prediction columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

# Whole numbers below this are exact in float32, sums of products included.
EXACT_BELOW = 1 << 24

# Columns at a time: of the Gram matrix, of which only one half is computed, and of the features' correlations.
COLUMNS = 300


class Neutralizer:
    """One era's features `[M, F]`, of any numeric dtype, made ready for `residual`.

    Normal equations on centred columns, whose products are exact where the features are small whole numbers, and
    their Cholesky factor in float64. Where they are singular, or there are more features than rows, the minimum-norm
    solution is taken instead, which costs more than ten times as much and is not kept.
    """

    def __init__(self, feature_MF: Array) -> None:
        import torch

        feature_MF = np.asarray(feature_MF)
        if feature_MF.size:
            varies_F = feature_MF.max(0) != feature_MF.min(0)
            feature_MF = feature_MF if varies_F.all() else feature_MF[:, varies_F]
        # numpy casts in half the time of torch.
        self._x_MF = torch.from_numpy(feature_MF.astype(np.float64, order="C"))
        self._mean_F = self._x_MF.mean(0)
        self._factor_FF = None
        if len(feature_MF) > feature_MF.shape[1] > 0:
            self._factor_FF = _factor(self._centred_gram(feature_MF))

    def residual(self, value_MK: Array) -> F64:
        """`value_MK` less its least-squares fit on the features and an intercept, float64 of its shape."""
        import torch

        value = np.asarray(value_MK, np.float64)
        rest_MK = torch.from_numpy(value.reshape(len(value), -1).copy())
        rest_MK -= rest_MK.mean(0)
        if self._x_MF.shape[1] and self._factor_FF is not None:
            # Once, and once more for what the condition of the normal equations left.
            for _ in range(2):
                product_FK = self._x_MF.T @ rest_MK - torch.outer(self._mean_F, rest_MK.sum(0))
                rest_MK -= self._centred_times(torch.cholesky_solve(product_FK, self._factor_FF, upper=True))
        elif self._x_MF.shape[1]:
            x_MF = self._x_MF - self._mean_F
            rest_MK -= x_MF @ torch.linalg.lstsq(x_MF, rest_MK, rcond=1e-6, driver="gelsd").solution
        return rest_MK.numpy().reshape(value.shape)

    def _centred_gram(self, raw_MF: Array) -> Tensor:
        """The upper half of the centred columns' products, float64 `[F, F]`.

        Whole numbers are multiplied in float32, twice as fast, and centred afterwards.
        """
        import torch

        largest = EXACT_BELOW if raw_MF.dtype.kind == "f" else max(abs(int(raw_MF.max())), abs(int(raw_MF.min())))
        if len(raw_MF) * largest**2 >= EXACT_BELOW:
            return _gram(self._x_MF - self._mean_F)
        gram_FF = _gram(torch.from_numpy(raw_MF.astype(np.float32, order="C"))).double()
        return gram_FF.addr_(self._mean_F, self._mean_F, alpha=-len(raw_MF))

    def _centred_times(self, weight_FK: Tensor) -> Tensor:
        return self._x_MF @ weight_FK - self._mean_F @ weight_FK


def residual(value_MK: Array, feature_MF: Array) -> F64:
    """`Neutralizer(feature_MF).residual(value_MK)`."""
    return Neutralizer(feature_MF).residual(value_MK)


def exposures(value_MK: Array, feature_MF: Array) -> F64:
    """Pearson's correlation of each column of values with each feature, float64 `[F, K]`, NaN where one is constant."""
    import torch

    value_MK = np.asarray(value_MK)
    p_MK = torch.from_numpy(value_MK.astype(np.float64))
    p_MK -= p_MK.mean(0)
    p_MK /= torch.linalg.vector_norm(p_MK, dim=0)
    p_MK[:, torch.from_numpy((value_MK == value_MK[:1]).all(0))] = torch.nan
    found_FK = np.empty((feature_MF.shape[1], value_MK.shape[1]))
    for start in range(0, len(found_FK), COLUMNS):
        raw_MF = feature_MF[:, start : start + COLUMNS]
        x_MF = torch.from_numpy(raw_MF.astype(np.float64, order="C"))
        x_MF -= x_MF.mean(0)
        here_FK = x_MF.T @ p_MK / torch.linalg.vector_norm(x_MF, dim=0)[:, None]
        here_FK[torch.from_numpy((raw_MF == raw_MF[:1]).all(0))] = torch.nan
        found_FK[start : start + COLUMNS] = here_FK.numpy()
    return found_FK


def _gram(x_MF: Tensor) -> Tensor:
    """`x.T @ x`, its upper half alone: 0.6 of the products; the rest is undefined."""
    n_features = x_MF.shape[1]
    gram_FF = x_MF.new_zeros(n_features, n_features)
    for start in range(0, n_features, COLUMNS):
        gram_FF[start : start + COLUMNS, start:] = x_MF[:, start : start + COLUMNS].T @ x_MF[:, start:]
    return gram_FF


def _factor(gram_FF: Tensor) -> Tensor | None:
    """The upper Cholesky factor, or None where the columns are all but dependent."""
    import torch

    factor_FF, info = torch.linalg.cholesky_ex(gram_FF, upper=True)
    diagonal = factor_FF.diagonal()
    return factor_FF if not info and diagonal.min() > 1e-5 * diagonal.max() else None
