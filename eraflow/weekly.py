"""One round from nothing to verified receipts: the steps, each a function of small values, and their chain.

Read `play`: it is the whole week on a screen. `flows.weekly` runs the same chain with each step as a Prefect task;
`plain_steps` runs it without. Between steps go paths and small frozen values, never arrays or models.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from eraflow import recipes, trained
from eraflow.columns import Kind
from eraflow.dataset import StoredDataset, decode, open_stored
from eraflow.errors import ClosedError, DataError, EraflowError, InputError
from eraflow.feature_sets import read_features_json
from eraflow.files import File, Files, adopt_files, fetch_files, fetch_live
from eraflow.ledger import Ledger
from eraflow.measure import Meter
from eraflow.parquet import ParquetSource
from eraflow.progress import Progress, silent
from eraflow.recipes import Recipe
from eraflow.request import Request, recipe_names, wanted_recipe
from eraflow.result import ModelReport, RoundResult, error_entry
from eraflow.rounds import Round
from eraflow.store import Store, exclusive, utc_text, write_atomically
from eraflow.submission import Order, Receipt, canonical_csv, standing, submit
from eraflow.tournament import Slot, Tournament

logger = logging.getLogger("eraflow")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a round: the plain functions below, or Prefect tasks around them."""

    find_slots: Callable[[Request], dict[str, Slot]]
    open_round: Callable[[Request], Round]
    look_up: Callable[[Request, Round, Slot], Receipt | None]
    gather_files: Callable[[Request, Round | None], Files]
    prepare: Callable[[Request, Files, str], Prepared]
    train: Callable[[Request, Prepared], ModelReport]
    predict: Callable[[Request, Prepared, ModelReport], Predicted]
    submit_slot: Callable[[Request, Round, Slot, Predicted], Receipt]
    report: Callable[[Request, RoundResult], Path]


def plain_steps(progress: Progress = silent) -> Steps:
    """The steps without Prefect."""
    return Steps(
        find_slots=find_slots,
        open_round=open_round,
        look_up=look_up,
        gather_files=partial(gather_files, progress=progress),
        prepare=partial(prepare, progress=progress),
        train=partial(train, progress=progress),
        predict=partial(predict, progress=progress),
        submit_slot=submit_slot,
        report=report,
    )


def play(request: Request, steps: Steps) -> RoundResult:
    """The weekly round. What goes wrong on the way stands in the result, slot by slot; the rest goes on."""
    week = _Week(request)
    with week.failing(week.slots):
        _play(week, steps)
    return week.finished(steps)


def _play(week: _Week, steps: Steps) -> None:
    request = week.request
    slots = week.timed("round", steps.find_slots, request) if request.submit else {}
    opened = week.opened = None if request.offline else week.timed("round", steps.open_round, request)
    if opened and not request.resubmit:
        for slot in slots.values():
            with week.failing([slot.name]):
                week.keep(slot.name, week.timed("round", steps.look_up, request, opened, slot))
    if not week.recipes():
        return
    files = week.timed("download", steps.gather_files, request, opened)
    for recipe in week.recipes():
        with week.failing(week.slots_of(recipe)):
            week.recipe = recipe
            prepared = week.timed("dataset", steps.prepare, request, files, recipe)
            model = week.timed("training", steps.train, request, prepared)
            week.models.append(replace(model, notes=(*model.notes, *week.said_of_sharing(recipe))))
            predicted = week.timed("prediction", steps.predict, request, prepared, model)
            if opened is None or not request.submit:
                continue
            for name in week.slots_of(recipe):
                with week.failing([name]):
                    receipt = week.timed("submission", steps.submit_slot, request, opened, slots[name], predicted)
                    week.keep(name, receipt)


class _Week:
    """What a run has come to so far."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.slots = list(request.config.slots)
        self.opened: Round | None = None
        self.models: list[ModelReport] = []
        self.receipts: dict[str, Receipt] = {}
        self.error: EraflowError | None = None
        self.meter = Meter()
        self.recipe = ""
        self.spent: list[tuple[str, str, float]] = []
        """Stage, recipe and seconds of every step that was done."""

    def timed(self, stage: str, step: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a step and add its time to `stage`."""
        started = time.perf_counter()
        with self.meter.stage(stage):
            done = step(*arguments, **named)
        self.spent.append((stage, self.recipe, time.perf_counter() - started))
        return done

    def keep(self, slot: str, receipt: Receipt | None) -> None:
        if receipt is not None:
            self.receipts[slot] = receipt

    def recipes(self) -> list[str]:
        """The recipes that are still wanted: all of them without slots, else those of slots without a receipt."""
        return [name for name in recipe_names(self.request) if not self.slots or self.slots_of(name)]

    def slots_of(self, recipe: str) -> list[str]:
        """The slots of this recipe that have no receipt yet."""
        return [s for s, name in self.request.config.slots.items() if name == recipe and s not in self.receipts]

    def said_of_sharing(self, recipe: str) -> list[str]:
        """What to tell the slots that send the same predictions; nothing where one slot has them to itself."""
        slots = [slot for slot, name in self.request.config.slots.items() if name == recipe]
        if len(slots) < 2 or not self.request.submit:
            return []
        text = f"slots {', '.join(slots)} have the same recipe and send the same predictions"
        logger.warning(text)
        return [text]

    @contextmanager
    def failing(self, slots: Sequence[str]) -> Iterator[None]:
        """An error inside is that of `slots`, if they have no receipt yet; without slots, that of the round."""
        try:
            yield
        except EraflowError as error:
            logger.debug("stopped by", exc_info=error)
            open_slots = [slot for slot in slots if slot not in self.receipts]
            if not open_slots or not self.request.submit:
                self.error = error
            for slot in open_slots:
                self.receipts[slot] = self._without(slot, error)

    def _without(self, slot: str, error: EraflowError | None) -> Receipt:
        return Receipt(
            round=self.opened.number if self.opened else None,
            slot=slot,
            recipe=self.request.config.slots[slot],
            source=None,
            status="skipped" if error is None or isinstance(error, ClosedError) else "failed",
            error_code=error.code if error else None,
            error_message=error.message if error else None,
            exit_code=error.exit_code if error else 0,
        )

    def finished(self, steps: Steps) -> RoundResult:
        """The whole result, with its report drawn; a report that fails is said and costs nothing else."""
        for slot in self.slots:
            self.receipts.setdefault(slot, self._without(slot, None))
        self._note_stages()
        result = self._result(None)
        if not self.models and not any(receipt.submission_id for receipt in result.receipts):
            return result  # nothing to draw
        try:
            report = self.timed("report", steps.report, self.request, result)
        except Exception as error:
            # Whatever the drawing library does, the receipts are what counts.
            logger.warning("the report could not be made (%s: %s)", type(error).__name__, error)
            return result
        return self._result(report)

    def _note_stages(self) -> None:
        """Keep in the ledger how long each step took, so that later rounds know what fits before a deadline."""
        if self.opened is None:
            return
        try:
            store = Store.open(self.request.home)
            ledger = Ledger(store.ledger_path, Tournament.from_environment().url)
            for stage, recipe, seconds in self.spent:
                ledger.note_stage(self.opened.number, stage, recipe, seconds)
        except EraflowError as error:
            logger.warning("how long the stages took could not be kept: %s", error.message)

    def _result(self, report: Path | None) -> RoundResult:
        return RoundResult(
            round=self.opened.number if self.opened else None,
            opens_at_utc=utc_text(self.opened.opens_at_utc) if self.opened else None,
            closes_at_utc=utc_text(self.opened.closes_at_utc) if self.opened else None,
            models=tuple(self.models),
            receipts=tuple(self.receipts[slot] for slot in self.slots),
            seconds=dict(self.meter.seconds),
            peak_rss_bytes=self.meter.peak_rss_bytes,
            peak_anonymous_bytes=self.meter.peak_anonymous_bytes,
            report=report,
            error=error_entry(self.error) if self.error else None,
        )


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


# The steps


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
        known = set(wanted.column("id").to_pylist())
        other = [identity for identity in given.column("id").to_pylist() if identity not in known]
    if other:
        raise DataError(
            f"{live.path} must have the ids of the round that is open, however {len(other):,} of its ids are of another"
            f" round, as {other[0]}; nothing was sent; put this round's live file there, or leave out --data-from"
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
    return submit(tournament, ledger, store, order, request.config.submission, resubmit=request.resubmit)


def report(request: Request, result: RoundResult) -> Path:
    """Draw the round's page into its folder; returns where it is."""
    from eraflow.report import PAGE, write_report

    store = Store.open(request.home)
    folder = store.round_folder(result.round) if result.round is not None else store.data_folder("local")
    page = folder / PAGE
    if not result.models and page.exists():
        return page  # of the run that submitted; one that found everything done has less to show
    return write_report(result, folder)
