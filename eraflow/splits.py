"""Which eras may train: the purge by the target's horizon, and down-sampling. Walk-forward folds are in `folds`.

Eras are weekly and counted by their numbers. Purge first, down-sample after: the gap is one of weeks.

Shape letters: E eras, N rows.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import InputError

Eras = npt.NDArray[np.int64]

# Eras that a target's days reach over, and eras purged between train and validation, by the target's days.
# Source: the tournament's benchmark models (8 eras at 20 days, 16 at 60).
_HORIZON_ERAS = {20: 4, 60: 12}
_PURGE_ERAS = {20: 8, 60: 16}


def horizon_eras(target: str) -> int:
    """Weekly eras that `target` reaches over: 4 for a name ending in `_20`, otherwise 12.

    Pass the name of the column that the plain `target` equals; a name without a suffix counts as 60 days.
    """
    return _HORIZON_ERAS[_days(target)]


def purge_eras(target: str) -> int:
    """Weekly eras to leave out between train and validation: 8 for a name ending in `_20`, otherwise 16.

    >>> purge_eras("target_cyrusd_20"), purge_eras("target_ender_60"), purge_eras("target")
    (8, 16, 16)
    """
    return _PURGE_ERAS[_days(target)]


def purge(train_era: Any, validation_era: Any, purge_eras: int) -> Eras:
    """The training eras, distinct and in order, further than `purge_eras` from every validation era.

    Only training eras go, on both sides of each validation era. Pass all weekly eras, before any down-sampling.
    Raises `InputError` if none is left.

    >>> purge([1, 2, 3, 4, 5, 12, 13], [8, 9], 4).tolist()
    [1, 2, 3]
    """
    train_E, validation_E = distinct(train_era), distinct(validation_era)
    if not len(validation_E):
        return train_E
    after_E = np.searchsorted(validation_E, train_E)
    last = len(validation_E) - 1
    next_E = np.abs(validation_E[np.minimum(after_E, last)] - train_E)
    previous_E = np.abs(train_E - validation_E[np.maximum(after_E - 1, 0)])
    kept_E: Eras = train_E[np.minimum(next_E, previous_E) > purge_eras]
    if not len(kept_E):
        told = f"eras {train_E[0]} to {train_E[-1]}" if len(train_E) else "no eras"
        raise InputError(
            f"training eras must lie more than {purge_eras} eras from the validation eras {validation_E[0]} to"
            f" {validation_E[-1]}, however none of the {len(train_E)} given ({told}) does; use data with more eras"
        )
    return kept_E


def every_nth(eras: Any, stride: int) -> Eras:
    """Every `stride`-th of the distinct eras, by number and counted back from the newest, which is always kept.

    Raises `InputError` for a stride below 1.

    >>> every_nth([1, 2, 3, 4, 5, 6], 4).tolist()
    [2, 6]
    """
    if stride < 1:
        raise InputError(f"the era stride must be 1 or more, however it is {stride}")
    era_E = distinct(eras)
    kept_E: Eras = era_E[(era_E[-1:] - era_E) % stride == 0]
    return kept_E


def distinct(eras: Any) -> Eras:
    """The distinct eras as whole numbers, in order."""
    return np.unique(np.asarray(eras, np.int64))


def _days(target: str) -> int:
    found = re.search(r"_(20|60)$", target)
    return int(found[1]) if found else 60
