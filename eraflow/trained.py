"""A recipe trained on stored data: hold-out first, then refit, all in one model folder.

    <folder>/recipe.toml      the recipe
    ├── holdout-<m>/          member m fitted on the purged training eras
    ├── final-<m>/            member m fitted again on all labelled eras, where the recipe says so
    ├── sha256sums            of recipe.toml and model.json; models of an eraflow from before it have none
    └── model.json            what it was made from and how it did; written last, so it says that the folder is whole

Read `train`, then `predict_live`. A folder that is whole is loaded; one that is not is gone on with. A training that
was told `enough` leaves a model that is cut, or validated on a sample of eras alone: it predicts, and the next `train`
goes on from it.

Shape letters: N rows, M rows with a target, K members, E eras.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

import eraflow
from eraflow.config import build, read_toml, to_table, to_toml
from eraflow.errors import DataError, InputError, OutOfTimeError, StorageError, TrainingError
from eraflow.inference import predict
from eraflow.models import Mlp
from eraflow.predictions import combined, rank_uniform
from eraflow.progress import Progress, silent
from eraflow.recipes import Recipe, fingerprint
from eraflow.residual import on_residual
from eraflow.rows import Rows
from eraflow.splits import distinct, every_nth, purge, purge_eras
from eraflow.store import json_bytes, utc_text, write_atomically
from eraflow.stored import StoredDataset, matching_target, suffix_days
from eraflow.training import Fitted, fit, initial, load_fitted, members_at_once
from eraflow.validation import EraScore, Validated, Validation, require_finite, validate

if TYPE_CHECKING:  # it reads parquet, and training must run where nothing can
    from eraflow.references import Benchmark

__all__ = ["MODEL", "EraScore", "Trained", "Validation", "load", "model_id", "predict_live", "train"]

RECIPE, MODEL, SUMS = "recipe.toml", "model.json", "sha256sums"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained recipe in its folder. The networks are read by `members`."""

    model_id: str
    folder: Path
    recipe: Recipe
    features: tuple[str, ...]
    train_sha256: str
    validation_sha256: str
    target_equals: str | None
    """The column that the recipe's target equals, where that gave the horizon."""
    purged_eras: int
    """Weekly eras left out on either side of the hold-out."""
    rows: int
    """Training rows of the hold-out fit: after the purge and the stride."""
    eras: int
    """Training eras of the hold-out fit."""
    refit_rows: int | None
    """Training rows of the refit; None without one."""
    steps: int
    """Optimiser steps of each fit."""
    device: str
    validation: Validation
    untrained_spearman: float | None
    """Mean era Spearman of the first member's network before training, on `untrained_eras` of the hold-out."""
    histories: tuple[tuple[dict[str, Any], ...], ...]
    """For each member, an entry an epoch of the hold-out fit (see `training.Fitted`)."""
    seconds: float
    """Spent in all fits [s]."""
    versions: dict[str, str]
    notes: tuple[str, ...]
    predicting: tuple[str, ...]
    """The folders of the members that predict, below `folder`."""
    cut: bool
    """There was no time to finish it: fewer epochs, fewer members, or no refit."""
    data_version: str | None
    """The tournament's data version that it was trained on; None for files of a folder."""
    made_at_utc: str
    untrained_eras: int | None = None
    """Whole eras, evenly spread over the hold-out, that tell of the untrained network; None in older files: all."""
    sampled: bool = False
    """There was no time to validate on all eras of the hold-out: `validation` is that of a sample of them."""
    benchmarks_sha256: tuple[str, ...] = ()
    """Of the benchmark models' files, where it learned the residual of one of them."""

    def members(self) -> list[Mlp]:
        """The networks that predict, in evaluation mode on the recipe's device."""
        device = self.recipe.training.device
        return [load_fitted(path, self.recipe.model, device).model for path in self.member_folders()]

    def member_folders(self) -> list[Path]:
        """Where the networks lie that predict."""
        return [self.folder / name for name in self.predicting]


def model_id(
    recipe: Recipe,
    train_sha256: str,
    validation_sha256: str,
    features: Sequence[str],
    benchmark: Benchmark | None = None,
) -> str:
    """The name of what this recipe gives on these files: `era-pearson-1f2e3d4c5b6a`."""
    made_from: list[Any] = [fingerprint(recipe), train_sha256, validation_sha256, list(features)]
    if benchmark is not None:  # only then, so that other models keep their names
        made_from.append(list(benchmark.sha256))
    return f"{recipe.name}-{hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]}"


def train(
    recipe: Recipe,
    *,
    train: StoredDataset,
    validation: StoredDataset,
    features: Sequence[str],
    folder: Path,
    data_version: str | None = None,
    enough: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
    notes: Sequence[str] = (),
    benchmark: Benchmark | None = None,
) -> Trained:
    """Fit each member with the purged hold-out, report it, and refit on everything where the recipe says so.

    The hold-out is every labelled era of `validation`. With `data.residual_of` a recipe needs the `benchmark`, and what
    is learned is the residual; the hold-out keeps the target. A whole `folder` of the same recipe and data is loaded.
    When `enough` says so the member at work is cut at its last epoch, members and refits that are not whole are left
    out, and the report is that of a sample of eras, which takes seconds. One process at a time may use `folder`.
    Raises `DataError` for no labelled rows, `InputError` if the purge leaves no training era or a column is missing
    or the benchmark is not the recipe's,
    `TrainingError` if the training fails, `OutOfTimeError` if there was not even time for one epoch.
    """
    _require_benchmark_of(recipe, benchmark)
    name = model_id(recipe, train.sha256, validation.sha256, features, benchmark)
    if (found := _whole(folder, name)) is not None:
        return found
    equals, purged = _horizon(train, recipe.data.target)
    purged = max([purged, *(_horizon(train, extra)[1] for extra in recipe.data.extra_targets)])
    holdout = _labelled(validation, recipe, features).by_era()
    rows = _training_rows(_taught(train, recipe, features, benchmark), holdout, purged, recipe.data.era_stride)
    fits = _fit_members(recipe, rows, folder, "holdout", progress, enough, holdout=holdout)
    validated = validate(
        [fitted.model for fitted in fits],
        initial(recipe.model, len(features), recipe.training.seed, holdout.n_targets).to(fits[0].device),
        holdout,
        neutralize=recipe.prediction.neutralize,
        enough=enough,
        progress=progress,
        stage=f"validate {recipe.name}",
    )
    refits: list[Fitted] = []
    if recipe.training.refit and _are_whole(fits, recipe):
        newest = holdout if benchmark is None else _taught(validation, recipe, features, benchmark).by_era()
        both = Rows.joined([_taught(train, recipe, features, benchmark), newest])
        both = _of_eras(both, every_nth(both.era_M, recipe.data.era_stride))
        with suppress(OutOfTimeError):  # then those that were fitted without the hold-out predict
            refits = _fit_members(recipe, both, folder, "final", progress, enough, steps=fits[0].steps)
    kind, chosen = ("final", refits) if _are_whole(refits, recipe) else ("holdout", fits)
    made = Trained(
        model_id=name,
        folder=folder,
        recipe=recipe,
        features=tuple(features),
        train_sha256=train.sha256,
        validation_sha256=validation.sha256,
        target_equals=equals,
        purged_eras=purged,
        rows=fits[0].rows,
        eras=len(distinct(rows.era_M)),
        refit_rows=chosen[0].rows if kind == "final" else None,
        steps=fits[0].steps,
        device=fits[0].device,
        validation=validated.validation,
        untrained_spearman=validated.untrained_spearman,
        untrained_eras=validated.untrained_eras,
        sampled=validated.sampled,
        histories=tuple(fitted.history for fitted in fits),
        seconds=sum(float(fitted.history[-1]["seconds"]) for fitted in [*fits, *refits]),
        versions=_versions(),
        notes=(*notes, *_sampling_note(validated, holdout)),
        predicting=tuple(f"{kind}-{m}" for m in range(len(chosen))),
        cut=not _are_whole(chosen, recipe) or (recipe.training.refit and kind != "final"),
        data_version=data_version,
        made_at_utc=utc_text(datetime.now(UTC)),
        benchmarks_sha256=benchmark.sha256 if benchmark else (),
    )
    texts = {RECIPE: to_toml(to_table(recipe)).encode(), MODEL: json_bytes(_to_json(made))}
    write_atomically(folder / RECIPE, texts[RECIPE])
    write_atomically(folder / SUMS, _sums(texts))
    write_atomically(folder / MODEL, texts[MODEL])
    return made


def _sums(texts: Mapping[str, bytes]) -> bytes:
    """As `sha256sum` writes and checks them."""
    return "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in texts.items()).encode()


def load(folder: Path) -> Trained:
    """What `train` finished in `folder`. Raises `StorageError` if it is not whole, not readable or damaged."""
    try:
        texts = {name: (folder / name).read_bytes() for name in (RECIPE, MODEL)}
        if (folder / SUMS).exists() and (folder / SUMS).read_bytes() != _sums(texts):
            raise ValueError("they have changed since they were written")
        told = json.loads(texts[MODEL])
        found = build(Trained, {**told, "folder": folder, "recipe": read_toml(folder / RECIPE)})
        datetime.fromisoformat(found.made_at_utc).astimezone(UTC)  # its age is reckoned like this
        if not (found.features and found.predicting):
            raise ValueError("it names no feature, or no member that predicts")
        return found
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, InputError) as error:
        raise StorageError(
            f"{folder} must hold a whole trained model, however its {RECIPE} or {MODEL} cannot be read ({error});"
            " train again",
            code="no-model",
        ) from error


def predict_live(trained: Trained, live: StoredDataset, progress: Progress = silent) -> npt.NDArray[np.float64]:
    """One prediction for each live row, float64 `[N]`, rank-normalised into (0, 1): the mean of the members' ranks.

    Raises `DataError` for no rows, `InputError` for a feature that `live` lacks, `TrainingError` for a prediction
    that is not finite.
    """
    if not live.rows:
        raise DataError(f"the live file {live.source} must have rows, however it has none; download it again")
    rows = Rows.of(live.codes_NF, None, live.era_N, columns=live.columns(trained.features))
    prediction_KN = predict(trained.members(), rows, progress=progress, stage="predict")
    require_finite(prediction_KN, trained.folder.name)
    era_N, proportion = np.zeros(live.rows, np.int32), trained.recipe.prediction.neutralize
    return rank_uniform(combined(list(prediction_KN), rows, era_N, proportion))


def _whole(folder: Path, name: str) -> Trained | None:
    """What is in `folder` if it is of that name and everything of it can be read."""
    try:
        found = load(folder)
        for path in found.member_folders():
            load_fitted(path, found.recipe.model, "cpu")
    except (StorageError, TrainingError):
        return None  # what is missing or damaged is made again
    return found if found.model_id == name and not found.cut and not found.sampled else None


def _are_whole(fits: Sequence[Fitted], recipe: Recipe) -> bool:
    return len(fits) == recipe.prediction.members and all(fitted.complete for fitted in fits)


def _sampling_note(validated: Validated, holdout: Rows) -> list[str]:
    if not validated.sampled:
        return []
    taken, there = len(validated.validation.per_era), len(distinct(holdout.era_M))
    return [f"validated on {taken} of {there} eras, evenly spread, because there was no time for all"]


def _horizon(stored: StoredDataset, target: str) -> tuple[str | None, int]:
    """The column that gave the horizon where the name has none, and the eras to purge."""
    if suffix_days(target) is not None:
        return None, purge_eras(target)
    equals = matching_target(stored, target)
    return equals, purge_eras(equals or target)


def _labelled(stored: StoredDataset, recipe: Recipe, features: Sequence[str]) -> Rows:
    """All rows of the file that have the recipe's target, with the extra targets that it learns."""
    target_N, columns = stored.column(recipe.data.target), stored.columns(features)
    extra_NX = stored.target_NT[:, [stored.target_column(name) for name in recipe.data.extra_targets]]
    found = Rows.of(stored.codes_NF, target_N, stored.era_N, columns=columns, extra_NX=extra_NX).labelled()
    if not len(found):
        raise DataError(
            f"{stored.source} must have rows with the target {recipe.data.target}, however none of its"
            f" {stored.rows} rows has one; give newer data or another data.target"
        )
    return found


def _taught(stored: StoredDataset, recipe: Recipe, features: Sequence[str], benchmark: Benchmark | None) -> Rows:
    """The rows of the file that the recipe learns: `_labelled`, with the residual for the target if there is one."""
    labelled = _labelled(stored, recipe, features)
    if benchmark is None:
        return labelled
    known_N = ~np.isnan(stored.column(recipe.data.target))
    found = on_residual(labelled, benchmark.of(stored)[known_N])
    if not len(found):
        raise DataError(
            f"{stored.source} must have rows with the target {recipe.data.target} and a prediction of"
            f" {benchmark.column}, however no era has two; fetch the files of benchmark models again, or leave out"
            " data.residual_of"
        )
    return found


def _require_benchmark_of(recipe: Recipe, benchmark: Benchmark | None) -> None:
    wanted, given = recipe.data.residual_of, benchmark.column if benchmark else ""
    if wanted != given:
        raise InputError(
            f"the benchmark of {recipe.name} must be {wanted or 'none'} (data.residual_of), however it is"
            f" {given or 'none'}; give that one"
        )


def _training_rows(labelled: Rows, holdout: Rows, purged: int, stride: int) -> Rows:
    return _of_eras(labelled, every_nth(purge(labelled.era_M, holdout.era_M, purged), stride))


def _of_eras(rows: Rows, era_E: npt.NDArray[np.int64]) -> Rows:
    return rows.take(np.flatnonzero(np.isin(rows.era_M, era_E)))


def _fit_members(
    recipe: Recipe,
    rows: Rows,
    folder: Path,
    kind: str,
    progress: Progress,
    enough: Callable[[], bool],
    *,
    holdout: Rows | None = None,
    steps: int | None = None,
) -> list[Fitted]:
    """The members, fewer where time ran out; at least one, and if any is cut all are."""
    members, training = recipe.prediction.members, recipe.training
    what = {"holdout": "train", "final": "refit"}[kind]
    at_once = members_at_once(rows, recipe.model, training, members)
    fits: list[Fitted] = []
    try:
        for first in range(0, members, at_once):
            group = range(first, min(first + at_once, members))
            numbers = f" {group[0] + 1} to {group[-1] + 1} of {members}" if at_once < members else ""
            found = fit(
                rows,
                model=recipe.model,
                training=training,
                seeds=[training.seed + m for m in group],
                folders=[folder / f"{kind}-{m}" for m in group],
                holdout=holdout,
                steps=steps,
                enough=enough,
                progress=progress,
                stage=f"{what} {recipe.name}{numbers}",
            )
            # The mean of ranks with one that is cut is worse than without it.
            if found[0].complete or not fits:
                fits += found
            if not found[0].complete:
                break
    except OutOfTimeError:
        if not fits:
            raise
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{recipe.name} must fit into the memory of device {training.device}, however it does not; lower"
            " training.batch_size or training.eras_per_step, or set training.device=cpu; whole epochs are kept"
        ) from error
    return fits


def _to_json(made: Trained) -> dict[str, Any]:
    told = dataclasses.asdict(made)
    del told["folder"], told["recipe"]  # the folder may be moved; the recipe stands in its own file
    return told


def _versions() -> dict[str, str]:
    return {
        "eraflow": eraflow.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
