"""What of the target a benchmark's predictions leave over, by era: the part that BMC and MMC pay for.

`residual_target` is the formula on arrays, `on_residual` gives rows that target to train on. Nothing is scored here,
and no file read (`references`): scores are always taken on the target itself.

Shape letters: N rows, E eras, M rows of one era that have both target and benchmark.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eraflow.eras import by_era, same_length
from eraflow.ranks import centred_ranks, gaussian

if TYPE_CHECKING:
    from eraflow.rows import Rows

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]


def residual_target(target_N: Array, benchmark_N: Array, era_N: Array) -> npt.NDArray[np.float32]:
    """The centred target less its projection on the rank-gaussianised benchmark, within each era; float32 `[N]`.

    With g the normal quantiles of the benchmark's ranks and c the target less its mean, `c - g (g·c)/(g·g)`, all over
    the rows that have target and benchmark; the others are NaN. Ties may leave g a mean that is not quite 0, and it
    stays as it is, because the scorer's does. An era that defines no contribution to the benchmark
    is NaN as a whole: fewer than two such rows, a constant benchmark or a constant target. With just two nothing is
    left over, and all is 0. Floats in `target_N` and `benchmark_N` (NaN = missing), eras as in `eras.by_era`.

    Source: `correlation_contribution` of numerai-tools 0.7.2 takes the prediction orthogonal to the reference and then
    its covariance with `4 x target`; a projection may stand on either side of that product, so this is 4 times the
    covariance of the prediction with what is returned here. Raises `InputError` for unequal lengths.
    """
    same_length(target=target_N, benchmark=benchmark_N, era=era_N)
    found_N = np.full(len(target_N), np.nan, np.float32)
    known_N = np.flatnonzero(~(np.isnan(target_N) | np.isnan(benchmark_N)))
    for rows in by_era(np.asarray(era_N)[known_N])[1]:
        here_M = known_N[rows]
        residual_M = _residual(np.asarray(target_N)[here_M].astype(np.float64), np.asarray(benchmark_N)[here_M])
        if residual_M is not None:
            found_N[here_M] = residual_M
    return found_N


def on_residual(rows: Rows, benchmark_M: Array) -> Rows:
    """`rows` with the residual in the target's place, without those that have none; `benchmark_M` is of these rows."""
    made = copy.copy(rows)
    made.target_M = residual_target(rows.target_M, benchmark_M, rows.era_M)
    return made.labelled()


def _residual(target_M: F64, benchmark_M: Array) -> F64 | None:
    gaussian_M = gaussian(centred_ranks(benchmark_M[np.newaxis]))[0]
    if not gaussian_M.any() or not (target_M != target_M[0]).any():
        return None
    centred_M = target_M - target_M.mean()
    # Sums without a matrix library, whose threads would disturb training's.
    share = np.einsum("m,m->", gaussian_M, centred_M) / np.einsum("m,m->", gaussian_M, gaussian_M)
    return np.asarray(centred_M - share * gaussian_M)
