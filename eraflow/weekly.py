"""One round from nothing to verified receipts: the steps, each a function of small values, and their chain.

Read `play`: it is the whole week on a screen. `flows.weekly` runs the same chain with each step as a Prefect task;
`plain_steps` runs it without. Between steps go paths and small frozen values, never arrays or models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from eraflow.at_work import at_work
from eraflow.budget import Budget, unlimited
from eraflow.errors import ClosedError, EraflowError, OutOfTimeError
from eraflow.fallback import NoStandInError, StandIn, stand_in
from eraflow.files import Files
from eraflow.ledger import Ledger
from eraflow.measure import Meter
from eraflow.progress import Progress, silent
from eraflow.receipt import Receipt
from eraflow.request import Request, recipe_names
from eraflow.result import ModelReport, RoundResult, error_entry
from eraflow.rounds import Round
from eraflow.steps import (
    Predicted,
    Prepared,
    find_budget,
    find_slots,
    gather_files,
    look_up,
    open_round,
    predict,
    prepare,
    report,
    submit_slot,
    train,
)
from eraflow.store import Store, utc_text
from eraflow.submission import OVERTAKEN
from eraflow.tournament import Slot, Tournament
from eraflow.untold import unexpected, way_to

logger = logging.getLogger("eraflow")

# How often a run starts over because the next round has opened.
RESTARTS = 2

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a round: the plain functions of `steps`, or Prefect tasks around them."""

    find_slots: Callable[[Request], dict[str, Slot]]
    open_round: Callable[[Request], Round]
    look_up: Callable[[Request, Round, Slot], Receipt | None]
    find_budget: Callable[[Request, tuple[str, ...]], Budget]
    gather_files: Callable[[Request, Round | None, Budget], Files]
    prepare: Callable[[Request, Files, str, Budget], Prepared]
    train: Callable[[Request, Prepared, Budget], ModelReport]
    predict: Callable[[Request, Prepared, ModelReport], Predicted]
    stand_in: Callable[[Request, Round, str, str, ModelReport | None], StandIn]
    submit_slot: Callable[[Request, Round, Slot, Predicted], Receipt]
    report: Callable[[Request, RoundResult], Path]


def plain_steps(progress: Progress = silent) -> Steps:
    """The steps without Prefect."""
    return Steps(
        find_slots=find_slots,
        open_round=open_round,
        look_up=look_up,
        find_budget=find_budget,
        gather_files=partial(gather_files, progress=progress),
        prepare=partial(prepare, progress=progress),
        train=partial(train, progress=progress),
        predict=partial(predict, progress=progress),
        stand_in=partial(stand_in, progress=progress),
        submit_slot=submit_slot,
        report=report,
    )


def play(request: Request, steps: Steps) -> RoundResult:
    """The weekly round. What goes wrong on the way stands in the result, slot by slot; the rest goes on.

    When the next round opens meanwhile, everything starts over on that one.
    """
    meter = Meter()
    for last in (False,) * RESTARTS + (True,):
        week = _Week(request, meter)
        with week.failing(week.slots), week.seen_at_work():
            _play(week, steps)
        if not week.overtaken or last:
            break
        logger.warning("another round is open now; starting over on it")
    return week.finished(steps)


def is_ours(result: RoundResult) -> bool:
    """Whether whatever went wrong is eraflow's own to say: what runs the
    steps may also fail inside one, or end it in time."""
    codes = {receipt.error_code for receipt in result.receipts} | {(result.error or {}).get("code")}
    return "unexpected" not in codes


def _play(week: _Week, steps: Steps) -> None:
    request = week.request
    # Waiting for a round outlasts a tournament that cannot be reached, asking for the slots does not.
    opened = week.timed("waiting", steps.open_round, request) if request.wait_s and not request.offline else None
    slots = week.timed("round", steps.find_slots, request) if request.submit else {}
    if opened is None and not request.offline:
        opened = week.timed("round", steps.open_round, request)
    week.opens(opened)
    if opened and not request.resubmit:
        for slot in slots.values():
            with week.failing([slot.name]):
                week.keep(slot.name, week.timed("round", steps.look_up, request, opened, slot))
    for recipe in week.recipes():
        with week.failing(week.slots_of(recipe)):
            week.recipe = recipe
            predicted = _predictions(week, steps, opened, recipe)
            if opened is None or not request.submit:
                continue
            for name in week.slots_of(recipe):
                with week.failing([name]):
                    receipt = week.timed("submission", steps.submit_slot, request, opened, slots[name], predicted)
                    week.keep(name, receipt)


def _predictions(week: _Week, steps: Steps, opened: Round | None, recipe: str) -> Predicted:
    """Those of a fresh model if it can be there in time, otherwise those of what stands in for it."""
    request = week.request
    budget = _budget(week, steps, opened)
    if opened is not None and not request.train:
        try:
            return _stand_in(week, steps, opened, recipe, "nothing was trained in this run")
        except NoStandInError as nothing:
            # A round that can still be saved is saved: as far as the time allows, one is trained after all.
            logger.warning("%s; one is trained now", nothing.message)
    try:
        prepared, model = _fresh_model(week, steps, opened, recipe, budget)
    except OutOfTimeError as error:
        if opened is None:
            raise
        return _stand_in(week, steps, opened, recipe, error.message)
    score, fallback = model.validation["spearman_mean"], request.config.fallback
    against = fallback.against_score(score)
    if opened is not None and request.submit and (model.cut or against):
        why = f"the fresh model of {recipe} {against or 'was cut to be in time'}"
        may_be_sent = not (model.cut and against)
        try:
            return _stand_in(week, steps, opened, recipe, why, fresh=model if may_be_sent else None)
        except Exception as error:
            # Whatever it is, a model that may be sent is there.
            if not may_be_sent:
                raise
            logger.warning("%s; it predicts all the same: %s", why, _told(error).message)
    return week.timed("prediction", steps.predict, request, prepared, model)


def _budget(week: _Week, steps: Steps, opened: Round | None) -> Budget:
    if opened is None or not week.request.submit:
        return unlimited(opened)
    budget = week.timed("round", steps.find_budget, week.request, week.recipes_of_open_slots())
    if budget.round is None or budget.round.number != opened.number:
        raise ClosedError(f"round {opened.number} was overtaken by the next one", code=OVERTAKEN)
    return budget


def _fresh_model(
    week: _Week, steps: Steps, opened: Round | None, recipe: str, budget: Budget
) -> tuple[Prepared, ModelReport]:
    request = week.request
    if week.files is None:
        week.files = week.timed("download", steps.gather_files, request, opened, budget)
    prepared = week.timed("dataset", steps.prepare, request, week.files, recipe, budget)
    model = week.timed("training", steps.train, request, prepared, budget)
    week.models.append(replace(model, notes=(*model.notes, *week.said_of_sharing(recipe))))
    return prepared, model


def _stand_in(
    week: _Week, steps: Steps, opened: Round, recipe: str, why: str, fresh: ModelReport | None = None
) -> Predicted:
    found = week.timed("prediction", steps.stand_in, week.request, opened, recipe, why, fresh)
    if found.model is not None:
        week.models.append(found.model)
    return found.predicted


def _told(found: Exception) -> EraflowError:
    """The error of ours for whatever was raised; the way to it goes into the log."""
    logger.debug("stopped by %s", way_to(found))
    return found if isinstance(found, EraflowError) else unexpected(found)


class _Week:
    """What a run has come to so far."""

    def __init__(self, request: Request, meter: Meter) -> None:
        self.request, self.meter = request, meter
        self.slots = list(request.config.slots)
        self.opened: Round | None = None
        self.models: list[ModelReport] = []
        self.receipts: dict[str, Receipt] = {}
        self.error: EraflowError | None = None
        self.files: Files | None = None
        self.recipe = ""
        self._held = ExitStack()
        self.spent: list[tuple[str, str, float]] = []
        """Stage, recipe and seconds of every step that was done."""

    def opens(self, opened: Round | None) -> None:
        """From here on this run is at work on the round `opened`, for others to see."""
        self.opened = opened
        if opened is not None and self.request.submit:
            self._held.enter_context(at_work(Store.open(self.request.home), opened.number))

    def seen_at_work(self) -> ExitStack:
        """Inside, others see that this run is at work."""
        return self._held

    @property
    def overtaken(self) -> bool:
        """The next round opened while this one was at work."""
        codes = {receipt.error_code for receipt in self.receipts.values()} | {self.error.code if self.error else None}
        return OVERTAKEN in codes

    def timed(self, stage: str, step: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a step and add what it takes to `stage`, and to those that a model tells apart inside of it."""
        started = time.perf_counter()
        with self.meter.stage(stage) as inside:
            done = step(*arguments, **named)
            if isinstance(done, ModelReport):
                inside.update(done.costs)
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

    def recipes_of_open_slots(self) -> tuple[str, ...]:
        """The recipe of each slot that has no receipt yet."""
        return tuple(name for slot, name in self.request.config.slots.items() if slot not in self.receipts)

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
        except Exception as found:
            # Whatever a driver, a library or Prefect's time-outs raise, it costs these slots and no other.
            error = _told(found)
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
            costs=dict(self.meter.costs),
            wall_s=self.meter.wall_s,
            peak_rss_bytes=self.meter.peak_rss_bytes,
            peak_anonymous_bytes=self.meter.peak_anonymous_bytes,
            report=report,
            error=error_entry(self.error) if self.error else None,
        )
