"""How trained members did on the hold-out, era by era, before any refit.

Read `validate`. It takes all eras of the hold-out where there is time, otherwise the exam's sample of whole eras, which
takes seconds: a network that was cut to be in time must not miss the deadline over its own report.

Shape letters: M rows with a target, K members, E eras.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eraflow import metrics
from eraflow.errors import OutOfTimeError, TrainingError
from eraflow.exam import sample
from eraflow.inference import predict
from eraflow.models import Mlp
from eraflow.predictions import combined
from eraflow.progress import Progress
from eraflow.rows import Rows


@dataclass(frozen=True, kw_only=True)
class EraScore:
    """One era of the hold-out; None where the era defines no value."""

    era: int
    rows: int
    """Rows with a target."""
    spearman: float | None
    numerai_corr: float | None


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How the members' mean rank did on the hold-out; None where no era defines it."""

    eras: int
    """Eras that were scored: all of the hold-out's, or those of a sample where there was no time for all."""
    undefined: int
    """Eras that define no score: fewer than two rows, constant predictions or a constant target."""
    spearman_mean: float | None
    spearman_std: float | None
    """Population standard deviation over the scored eras."""
    sharpe: float | None
    max_drawdown: float | None
    numerai_corr_mean: float | None
    per_era: tuple[EraScore, ...]

    def figures(self) -> dict[str, float | int | None]:
        """Everything but the table by era."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "per_era"}


@dataclass(frozen=True, kw_only=True)
class Validated:
    """What `validate` found."""

    validation: Validation
    sampled: bool
    """There was no time for all eras."""
    untrained_spearman: float | None
    untrained_eras: int


def validate(
    nets: Sequence[Mlp],
    untrained: Mlp,
    holdout: Rows,
    *,
    neutralize: float = 0.0,
    enough: Callable[[], bool],
    progress: Progress,
    stage: str,
) -> Validated:
    """The mean rank of `nets`, neutralised as asked, scored by era, and the mean era Spearman of `untrained`.

    `holdout` has rows with a target alone, in order of eras. Once `enough` says so its sample of whole eras is taken;
    `untrained` is always judged on that, because it would cost as much as a member. Raises `TrainingError` for a
    prediction that is not finite.
    """
    sampled = sample(holdout, 0)
    try:
        found, whole = _scored(nets, holdout, neutralize, _until(enough, progress), stage), True
    except OutOfTimeError:
        found, whole = _scored(nets, sampled, neutralize, progress, stage), False
    before = metrics.PreparedSpearman(sampled.target_M, sampled.era_M)(predict([untrained], sampled)[0])[1]
    return Validated(
        validation=found,
        sampled=not whole and len(sampled) < len(holdout),
        untrained_spearman=_known(metrics.summary(before).mean),
        untrained_eras=len(before),
    )


def require_finite(prediction_KN: npt.NDArray[np.float32], what: str) -> None:
    """Raises `TrainingError`, naming `what` predicted, for a prediction that is not finite."""
    wrong = int((~np.isfinite(prediction_KN)).sum())
    if wrong:
        raise TrainingError(
            f"all predictions of {what} must be finite, however {wrong} are not; lower training.learning_rate"
        )


def _until(enough: Callable[[], bool], progress: Progress) -> Progress:
    def guarded(stage: str, done: float, total: float, text: str = "") -> None:
        if done < total and enough():
            raise OutOfTimeError(f"{stage} could not be finished in the time that is left")
        progress(stage, done, total, text)

    return guarded


def _scored(nets: Sequence[Mlp], rows: Rows, neutralize: float, progress: Progress, stage: str) -> Validation:
    prediction_KM = predict(nets, rows, progress=progress, stage=stage)
    require_finite(prediction_KM, stage)
    mean_M = combined(list(prediction_KM), rows, rows.era_M, neutralize)
    era_E, spearman_E = metrics.PreparedSpearman(rows.target_M, rows.era_M)(mean_M)
    corr_E = metrics.numerai_corr(mean_M, rows.target_M, rows.era_M).to_numpy()
    found, rows_E = metrics.summary(spearman_E), np.unique(rows.era_M, return_counts=True)[1]
    return Validation(
        eras=found.eras,
        undefined=found.undefined,
        spearman_mean=_known(found.mean),
        spearman_std=_known(found.std),
        sharpe=_known(found.sharpe),
        max_drawdown=_known(found.max_drawdown),
        numerai_corr_mean=_known(metrics.summary(corr_E).mean),
        per_era=tuple(
            EraScore(era=int(era), rows=int(rows), spearman=_known(rho), numerai_corr=_known(corr))
            for era, rows, rho, corr in zip(era_E, rows_E, spearman_E.tolist(), corr_E.tolist(), strict=True)
        ),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
