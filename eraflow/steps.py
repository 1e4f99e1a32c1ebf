"""The steps of one round, each a function of small values; `weekly` chains them.

Between steps go paths and small frozen values, never arrays or models. Each step makes its own doors to the network
and the disk, so that a step can run in any process.
"""

from __future__ import annotations

import hashlib
import logging
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eraflow import recipes, trained
from eraflow.budget import Budget, budget_for, budget_text, unlimited
from eraflow.columns import Kind
from eraflow.dataset import StoredDataset, decode, open_stored, targets_of
from eraflow.errors import (
    ClosedError,
    DataError,
    InputError,
    OutOfTimeError,
    StorageError,
    TournamentError,
    TransientError,
)
from eraflow.feature_sets import read_features_json
from eraflow.files import File, Files, adopt_files, fetch_damaged, fetch_files, fetch_live
from eraflow.ledger import Ledger
from eraflow.measure import Meter
from eraflow.pace import slow_text
from eraflow.parquet import ParquetSource
from eraflow.predictions import canonical_csv
from eraflow.progress import Progress, silent
from eraflow.prune import prune
from eraflow.receipt import Receipt, Source
from eraflow.recipes import Recipe
from eraflow.references import Benchmark, benchmark_of
from eraflow.request import Request, recipe_names, wanted_recipe
from eraflow.result import ModelReport, RoundResult
from eraflow.rounds import Round, duration_text
from eraflow.store import Store, exclusive, write_atomically
from eraflow.submission import OVERTAKEN, Order, standing, submit
from eraflow.tournament import Slot, Tournament
from eraflow.trained import Trained

logger = logging.getLogger("eraflow")

# How often the tournament is asked whether the round has opened [s].
POLL_S = 15.0
# What progress is told of a training, and the stages of a round that it is counted to.
TRAINING_STAGES = {"train": "training", "validate": "validation", "refit": "refit"}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Decoded data of one recipe: folders and figures, no arrays."""

    recipe: Recipe
    notes: tuple[str, ...]
    features: tuple[str, ...]
    train: Path
    validation: Path
    live: Path
    model_id: str
    round: int | None
    benchmark: Benchmark | None = None
    """Which the recipe learns the residual of, if it does."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Live predictions as the bytes that will be sent."""

    recipe: str
    round: int | None
    path: Path
    sha256: str
    live: Path
    """Folder of the decoded live data, for their ids."""
    source: Source = "fresh"
    model_id: str | None = None
    note: str | None = None
    """Why something other than a fresh model predicted."""


def find_slots(request: Request) -> dict[str, Slot]:
    """The account's slots that this request is for. Raises `InputError` for one that the account does not have."""
    known = Tournament.from_environment().slots()
    for name in request.config.slots:
        if name not in known:
            raise InputError(
                f"slot {name} is not one of this account's models in tournament 8"
                f" ({', '.join(sorted(known)) or 'it has none'}); correct its name"
            )
        if known[name].hosted:
            raise InputError(f"slot {name} has a hosted model (a pickle upload) that submits for it; choose another")
    return {name: known[name] for name in request.config.slots}


def open_round(request: Request) -> Round:
    """The round that is current, or with `late = "submit"` the one that closed last; its times go into the ledger.

    One that has yet to open is waited for as long as was asked for. Raises `ClosedError` if there is none, and what
    the tournament raised if it cannot be asked; one whose deadline has passed is returned where nothing was waited
    for, because its slots may be safe.
    """
    tournament, store = Tournament.from_environment(), Store.open(request.home)
    opened = _awaited(tournament, request) if request.wait_s else _current(tournament, request)
    Ledger(store.ledger_path, tournament.url).note_round(opened)
    return opened


def _current(tournament: Tournament, request: Request) -> Round:
    return tournament.latest_round() if request.config.submission.late == "submit" else tournament.current_round()


def _awaited(tournament: Tournament, request: Request) -> Round:
    """The round that is open, as soon as one is; in the end what there is without waiting."""
    give_up_s, said = time.monotonic() + request.wait_s, False
    while True:
        try:
            opened = tournament.current_round()
            _require_open(opened, tournament)
            return opened
        except (ClosedError, TransientError) as error:
            left_s, waited_for = give_up_s - time.monotonic(), error
        if left_s <= 0:
            break
        if not said:
            logger.info("%s; asked again for %s", waited_for.message, duration_text(left_s))
            said = True
        time.sleep(min(POLL_S, left_s, max(0.2, request.wait_s / 100)))
    if isinstance(waited_for, TransientError):
        # Not as a passing fault: whoever tries those again would wait as long once more, and tell nobody meanwhile.
        raise TournamentError(waited_for.message, code=waited_for.code)
    if request.config.submission.late != "submit":
        raise waited_for
    return tournament.latest_round()


def _require_open(opened: Round, tournament: Tournament) -> None:
    if not opened.is_open(tournament.now_utc()):
        raise ClosedError(
            f"the on-time deadline of round {opened.number} was {opened.closes_at_utc:%Y-%m-%d %H:%M} UTC; nothing was"
            ' sent; submission.late = "submit" would send it late'
        )


def find_budget(request: Request, recipe_of_slots: tuple[str, ...]) -> Budget:
    """How long a fresh model may take, asked anew: the deadline may have moved, or the next round may be open.

    `recipe_of_slots` has the recipe of each slot that is still to be sent. Raises `ClosedError` after the deadline,
    unless `late = "submit"`.
    """
    tournament, store = Tournament.from_environment(), Store.open(request.home)
    current = tournament.latest_round()
    if request.config.submission.late == "submit":
        return unlimited(current)
    _require_open(current, tournament)
    ledger, left_s = Ledger(store.ledger_path, tournament.url), current.left_s(tournament.now_utc())
    return budget_for(current, left_s, ledger, recipe_of_slots, request.config.fallback.reserve_s)


def look_up(request: Request, opened: Round, slot: Slot) -> Receipt | None:
    """What the tournament already has of this slot, or None."""
    tournament, store = Tournament.from_environment(), Store.open(request.home)
    ledger = Ledger(store.ledger_path, tournament.url)
    return standing(tournament, ledger, opened, slot, request.config.slots[slot.name], request.config.submission)


def gather_files(request: Request, opened: Round | None, budget: Budget, progress: Progress = silent) -> Files:
    """The round's files, verified. Raises `OutOfTimeError` where `budget` does not allow for them."""
    progress = budget.guarding(progress)
    store = Store.open(request.home)
    store.sweep()
    version = request.config.data_version
    benchmarks = any(wanted_recipe(request, name).data.residual_of for name in recipe_names(request))
    if request.data_from is not None:
        found = adopt_files(request.data_from, store, opened.number if opened else None, benchmarks=benchmarks)
        if opened and request.submit:
            require_same_ids(found.live, fetch_live(Tournament.from_environment(), store, opened, version, progress))
        return found
    tournament = Tournament.from_environment()
    ledger = Ledger(store.ledger_path, tournament.url)
    prune(store, ledger, request.config.fallback.max_age_weeks, datetime.now(UTC))
    current = opened or tournament.current_round()
    return fetch_files(tournament, store, current, version, progress, benchmarks=benchmarks)


def require_same_ids(live: File, current: File) -> None:
    """Nothing in a folder tells of which round its live file is, and ids of another round would be sent in vain.

    Raises `DataError` if they are not those of `current`.
    """
    if live.sha256 == current.sha256:
        return
    with ParquetSource(live.path) as given, ParquetSource(current.path) as wanted:
        if "id" not in given.names:
            return  # refused with its own text when it is decoded
        have, need = set(given.column("id").to_pylist()), set(wanted.column("id").to_pylist())
    if have != need:
        raise DataError(
            f"{live.path} must have the ids of the round that is open, however {len(have - need):,} of its ids are of"
            f" another round and {len(need - have):,} of this round's are missing; nothing was sent; put this round's"
            " live file there, or leave out --data-from"
        )


def prepare(request: Request, files: Files, name: str, budget: Budget, progress: Progress = silent) -> Prepared:
    """Decode what the recipe `name` needs; live first, so that a bad live file is found before hours of training.

    A file that has been damaged on this disk since it was fetched is fetched again. Raises as
    `references.benchmark_of`, `dataset.decode` and `files.fetch_files` do.
    """
    progress = budget.guarding(progress)
    try:
        return _prepared(request, files, name, progress)
    except (DataError, InputError, StorageError):
        if request.data_from is not None:
            raise
        mended = fetch_damaged(Tournament.from_environment(), files, progress)
        if mended == files:
            raise
    return _prepared(request, mended, name, progress)


def _prepared(request: Request, files: Files, name: str, progress: Progress) -> Prepared:
    sets = read_features_json(files.features.path)
    targets = targets_of(files.train.path, into=files.decoded, sha256=files.train.sha256)
    recipe, notes = recipes.resolve(wanted_recipe(request, name), sets.sets, targets, asked=request.overrides)
    for note in notes:
        logger.warning("recipe %s: %s", name, note)
    features = sets.columns(recipe.data.feature_set)
    benchmark = benchmark_of(recipe, files)

    def decoded(file: File, into: Path, kind: Kind) -> StoredDataset:
        return decode(
            file.path, into=into, sha256=file.sha256, features=features, kind=kind, whole=True, progress=progress
        )

    live = decoded(files.live, files.decoded_live, "live")
    train = decoded(files.train, files.decoded, "train")
    validation = decoded(files.validation, files.decoded, "validation")
    return Prepared(
        recipe=recipe,
        notes=notes,
        features=features,
        train=train.folder,
        validation=validation.folder,
        live=live.folder,
        model_id=trained.model_id(recipe, train.sha256, validation.sha256, features, benchmark),
        round=files.round,
        benchmark=benchmark,
    )


def train(request: Request, prepared: Prepared, budget: Budget, progress: Progress = silent) -> ModelReport:
    """Fit with a hold-out, then refit where the recipe says so; a model that is already there is used.

    When `budget` is over the training is cut at its last whole epoch. Raises `OutOfTimeError` if there is none.
    """
    logger.debug("training %s: %s", prepared.recipe.name, budget_text(budget))
    folder, meter = Store.open(request.home).model_folder(prepared.model_id), Meter()
    with meter.stage("training"), _alone_in(folder, budget):
        fitted = trained.train(
            prepared.recipe,
            train=open_stored(prepared.train, prepared.features),
            validation=open_stored(prepared.validation, prepared.features),
            features=prepared.features,
            folder=folder,
            data_version=request.config.data_version if request.data_from is None else None,
            enough=budget.is_over,
            progress=meter.following(progress, TRAINING_STAGES),
            notes=prepared.notes,
            benchmark=prepared.benchmark,
        )
    return replace(report_of(fitted), costs=meter.costs)


@contextmanager
def _alone_in(folder: Path, budget: Budget) -> Iterator[None]:
    """Hold the folder's lock; a run that hangs with it does not hold up another one beyond its time."""
    patience_s = None if math.isinf(budget.left_s) else max(0.0, budget.left_s)
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(folder, timeout_s=patience_s))
        except StorageError as error:
            if budget.is_over():
                raise OutOfTimeError(f"another run is at work on {folder.name}, and there is no more time") from error
            raise
        yield


def report_of(fitted: Trained) -> ModelReport:
    """What is told of a model."""
    products, cores = _median(fitted, "share_of_products"), _median(fitted, "share_of_cores")
    slow = slow_text(products, cores, fitted.device)
    return ModelReport(
        recipe=fitted.recipe.name,
        model_id=fitted.model_id,
        folder=fitted.folder,
        device=fitted.device,
        rows=fitted.rows,
        features=len(fitted.features),
        target=fitted.recipe.data.target,
        epochs=fitted.recipe.training.epochs,
        refit=fitted.recipe.training.refit,
        validation=fitted.validation.figures(),
        untrained_spearman=fitted.untrained_spearman,
        untrained_eras=fitted.untrained_eras,
        notes=(*fitted.notes, slow) if slow else fitted.notes,
        cut=fitted.cut,
        made_at_utc=fitted.made_at_utc,
        rows_a_second=_median(fitted, "rows_a_second"),
        share_of_products=products,
        share_of_cores=cores,
    )


def _median(fitted: Trained, key: str) -> float | None:
    """Over the epochs that tell it."""
    told = [entry[key] for history in fitted.histories for entry in history if entry.get(key) is not None]
    return statistics.median(told) if told else None


def predict(request: Request, prepared: Prepared, model: ModelReport, progress: Progress = silent) -> Predicted:
    """One prediction for each live id of this round, as the bytes that will be sent."""
    live = open_stored(prepared.live, prepared.features)
    found = trained.load(model.folder)
    against = request.config.fallback.against_score(found.validation.spearman_mean)
    note = "its training was cut to be in time" if found.cut else against and f"its model {against}"
    return predicted_by(request, prepared.round, live, trained.predict_live(found, live, progress), found, note=note)


def predicted_by(
    request: Request, number: int | None, live: StoredDataset, prediction_N: npt.NDArray[np.float64],
    model: Trained | None, *, source: Source = "fresh", recipe: str | None = None, note: str | None = None,
) -> Predicted:  # fmt: skip
    """Predictions as the bytes that will be sent, in a file of the round; `model` is None for a benchmark."""
    data = canonical_csv(live.id_N.tolist(), prediction_N)
    sha256, store = hashlib.sha256(data).hexdigest(), Store.open(request.home)
    folder = store.round_folder(number) if number is not None else store.data_folder("local")
    by = model.model_id if model else source
    path = folder / f"predictions-{by}-{sha256[:12]}.csv"
    write_atomically(path, data)
    return Predicted(
        recipe=recipe or (model.recipe.name if model else source),
        round=number,
        path=path,
        sha256=sha256,
        live=live.folder,
        source=source,
        model_id=model.model_id if model else None,
        note=note,
    )


def submit_slot(request: Request, opened: Round, slot: Slot, predicted: Predicted) -> Receipt:
    """Send the predictions for one slot, once, and read them back."""
    if predicted.round != opened.number:
        raise ClosedError(
            f"the predictions are for round {predicted.round}, not {opened.number}; run this again", code=OVERTAKEN
        )
    tournament, store = Tournament.from_environment(), Store.open(request.home)
    if request.resubmit:
        # Otherwise what stands there is asked first, and its answer tells the tournament's time.
        tournament.latest_round()
    order = Order(
        opened=opened,
        slot=slot,
        recipe=predicted.recipe,
        source=predicted.source,
        data=predicted.path.read_bytes(),
        live_ids=open_stored(predicted.live).id_N.tolist(),
        model_id=predicted.model_id,
    )
    ledger = Ledger(store.ledger_path, tournament.url)
    since = request.asked_at_utc if request.resubmit else None
    receipt = submit(tournament, ledger, store, order, request.config.submission, resubmit_since=since)
    return replace(receipt, note=predicted.note) if receipt.sha256 == predicted.sha256 else receipt


def report(request: Request, result: RoundResult) -> Path:
    """Draw the round's page into its folder; returns where it is."""
    from eraflow.report import PAGE, write_report

    store = Store.open(request.home)
    # Without submitting, the page of the round itself, with its receipts, stays as it is.
    of_round = result.round is not None and request.submit
    folder = store.round_folder(int(str(result.round))) if of_round else store.data_folder("local")
    page = folder / PAGE
    if not result.models and page.exists():
        return page  # of the run that submitted; one that found everything done has less to show
    return write_report(result, folder)
