"""The steps of one round, each a function of small values; `weekly` chains them.

Between steps go paths and small frozen values, never arrays or models. Each step makes its own doors to the network
and the disk, so that a step can run in any process.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from eraflow import recipes, trained
from eraflow.columns import Kind
from eraflow.dataset import StoredDataset, decode, open_stored
from eraflow.errors import ClosedError, DataError, InputError
from eraflow.feature_sets import read_features_json
from eraflow.files import File, Files, adopt_files, fetch_files, fetch_live
from eraflow.ledger import Ledger
from eraflow.parquet import ParquetSource
from eraflow.progress import Progress, silent
from eraflow.recipes import Recipe
from eraflow.request import Request, wanted_recipe
from eraflow.result import ModelReport, RoundResult
from eraflow.rounds import Round
from eraflow.store import Store, exclusive, write_atomically
from eraflow.submission import Order, Receipt, canonical_csv, standing, submit
from eraflow.tournament import Slot, Tournament

logger = logging.getLogger("eraflow")

logger = logging.getLogger("eraflow")


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


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Live predictions as the bytes that will be sent."""

    recipe: str
    round: int | None
    path: Path
    sha256: str
    live: Path
    """Folder of the decoded live data, for their ids."""


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
    """The open round, or with `late = "submit"` the one that closed last. Raises `ClosedError` otherwise."""
    tournament = Tournament.from_environment()
    if request.config.submission.late == "submit":
        return tournament.latest_round()
    opened = tournament.current_round()
    if not opened.is_open(tournament.now_utc()):
        raise ClosedError(
            f"the on-time deadline of round {opened.number} was {opened.closes_at_utc:%Y-%m-%d %H:%M} UTC; nothing was"
            ' sent; submission.late = "submit" would send it late'
        )
    return opened


def look_up(request: Request, opened: Round, slot: Slot) -> Receipt | None:
    """What the tournament already has of this slot, or None."""
    tournament, store = Tournament.from_environment(), Store.open(request.home)
    ledger = Ledger(store.ledger_path, tournament.url)
    return standing(tournament, ledger, opened, slot, request.config.slots[slot.name], request.config.submission)


def gather_files(request: Request, opened: Round | None, progress: Progress = silent) -> Files:
    """The round's files, verified."""
    store = Store.open(request.home)
    store.sweep()
    version = request.config.data_version
    if request.data_from is not None:
        found = adopt_files(request.data_from, store, opened.number if opened else None)
        if opened and request.submit:
            _require_same_ids(found.live, fetch_live(Tournament.from_environment(), store, opened, version, progress))
        return found
    tournament = Tournament.from_environment()
    return fetch_files(tournament, store, opened or tournament.current_round(), version, progress)


def _require_same_ids(live: File, current: File) -> None:
    """Nothing in a folder tells of which round its live file is, and ids of another round would be sent in vain."""
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


def prepare(request: Request, files: Files, name: str, progress: Progress = silent) -> Prepared:
    """Decode what the recipe `name` needs; live first, so that a bad live file is found before hours of training."""
    sets = read_features_json(files.features.path)
    with ParquetSource(files.train.path) as source:
        recipe, notes = recipes.resolve(wanted_recipe(request, name), sets.sets, source.names)
    for note in notes:
        logger.warning("recipe %s: %s", name, note)
    features = sets.columns(recipe.data.feature_set)

    def decoded(file: File, into: Path, kind: Kind) -> StoredDataset:
        return decode(file.path, into=into, sha256=file.sha256, features=features, kind=kind, progress=progress)

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
        model_id=trained.model_id(recipe, train.sha256, validation.sha256, features),
        round=files.round,
    )


def train(request: Request, prepared: Prepared, progress: Progress = silent) -> ModelReport:
    """Fit with a hold-out, then refit where the recipe says so; a model that is already there is used."""
    folder = Store.open(request.home).model_folder(prepared.model_id)
    with exclusive(folder):
        fitted = trained.train(
            prepared.recipe,
            train=open_stored(prepared.train, prepared.features),
            validation=open_stored(prepared.validation, prepared.features),
            features=prepared.features,
            folder=folder,
            progress=progress,
            notes=prepared.notes,
        )
    return ModelReport(
        recipe=prepared.recipe.name,
        model_id=fitted.model_id,
        folder=folder,
        device=fitted.device,
        rows=fitted.rows,
        features=len(fitted.features),
        target=fitted.recipe.data.target,
        epochs=fitted.recipe.training.epochs,
        refit=fitted.recipe.training.refit,
        validation=fitted.validation.figures(),
        untrained_spearman=fitted.untrained_spearman,
        notes=fitted.notes,
    )


def predict(request: Request, prepared: Prepared, model: ModelReport, progress: Progress = silent) -> Predicted:
    """One prediction for each live id of this round, as the bytes that will be sent."""
    live = open_stored(prepared.live, prepared.features)
    prediction_N = trained.predict_live(trained.load(model.folder), live, progress)
    data = canonical_csv(live.id_N.tolist(), prediction_N)
    sha256 = hashlib.sha256(data).hexdigest()
    store = Store.open(request.home)
    folder = store.round_folder(prepared.round) if prepared.round is not None else store.data_folder("local")
    path = folder / f"predictions-{model.model_id}-{sha256[:12]}.csv"
    write_atomically(path, data)
    return Predicted(recipe=model.recipe, round=prepared.round, path=path, sha256=sha256, live=prepared.live)


def submit_slot(request: Request, opened: Round, slot: Slot, predicted: Predicted) -> Receipt:
    """Send the predictions for one slot, once, and read them back."""
    if predicted.round != opened.number:
        raise ClosedError(f"the predictions are for round {predicted.round}, not {opened.number}; run this again")
    tournament, store = Tournament.from_environment(), Store.open(request.home)
    if request.resubmit:
        # Otherwise what stands there is asked first, and its answer tells the tournament's time.
        tournament.latest_round()
    order = Order(
        opened=opened,
        slot=slot,
        recipe=predicted.recipe,
        source="fresh",
        data=predicted.path.read_bytes(),
        live_ids=open_stored(predicted.live).id_N.tolist(),
    )
    ledger = Ledger(store.ledger_path, tournament.url)
    since = request.asked_at_utc if request.resubmit else None
    return submit(tournament, ledger, store, order, request.config.submission, resubmit_since=since)


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
