"""What predictions owe to single features, era by era: exposures, and what is left of CORR without a linear part.

An era's features are read and factored once for all predictions of a fold, which still takes longer than all other
scores together: what was found is kept by the keys of the fold's units.

    <home>/studies/exposures/<hash>.npy    float64 [3, E, K]

Shape letters: M rows of a fold, E eras, K predictions, F features.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.eras import rows_by_era
from eraflow.metrics import feature_neutral_corr
from eraflow.neutral import exposures
from eraflow.rows import Rows
from eraflow.store import made_folder, write_atomically
from eraflow.study.plan import Study

F64 = npt.NDArray[np.float64]
EXPOSURE_MAX, EXPOSURE_RMS, FNC = "exposure_max", "exposure_rms", "fnc"
NAMES = (EXPOSURE_MAX, EXPOSURE_RMS, FNC)
FORMAT = 1


def exposure_scores(
    study: Study, validation_E: npt.NDArray[np.int64], prediction_MK: npt.NDArray[Any], keys: Sequence[str]
) -> dict[str, F64]:
    """Each of `NAMES` by era, `[E, K]`, of predictions of a fold's labelled rows in order of eras.

    "exposure_max" and "exposure_rms": the largest absolute Pearson correlation of the prediction with a feature of the
    study, and the root of their mean square. "fnc": feature-neutral CORR against the feature set `fncv3_features`,
    against all features of the study where `features.json` has no such set. `keys` name what was predicted.
    """
    told = [FORMAT, list(keys), study.features, study.neutral_features, validation_E.tolist()]
    name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
    path = study.folder.parent / "exposures" / f"{name}.npy"
    if (found := _kept(path)) is None:
        found = _computed(study, validation_E, prediction_MK)
        made_folder(path.parent)
        stream = io.BytesIO()
        np.save(stream, found)
        write_atomically(path, stream.getvalue())
    return dict(zip(NAMES, found, strict=True))


def _kept(path: Path) -> F64 | None:
    try:
        found: F64 = np.load(path)
        return found
    except (OSError, EOFError, ValueError):
        return None  # never made, or damaged: made again


def _computed(study: Study, validation_E: npt.NDArray[np.int64], prediction_MK: npt.NDArray[Any]) -> F64:
    rows, neutral = (
        _of(study.rows_of(features), validation_E) for features in (study.features, study.neutral_features)
    )
    rows_E = rows_by_era(rows.era_M)[1]
    found = np.full((len(NAMES), len(rows_E), prediction_MK.shape[1]), np.nan)
    for e, here in enumerate(rows_E):
        index_M = np.arange(len(rows))[here]
        here_MK = prediction_MK[index_M]
        square_FK = np.square(exposures(here_MK, _codes(rows, index_M)))
        known_K = (~np.isnan(square_FK)).sum(0)
        with np.errstate(invalid="ignore"):
            found[0, e] = np.sqrt(np.fmax.reduce(square_FK, axis=0, initial=np.nan))
            found[1, e] = np.sqrt(np.nansum(square_FK, axis=0) / known_K)
        era_M = np.zeros(len(index_M), np.int8)
        fnc = feature_neutral_corr(here_MK, _codes(neutral, index_M), rows.target_M[index_M], era_M)
        found[2, e] = np.asarray(fnc)[0]
    return found


def _codes(rows: Rows, index_M: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    code_MF = np.empty((len(index_M), rows.n_features), np.int8)
    rows.gather(index_M, code_MF)
    return code_MF


def _of(rows: Rows, era_E: npt.NDArray[np.int64]) -> Rows:
    return rows.take(np.flatnonzero(np.isin(rows.era_M, era_E)))
