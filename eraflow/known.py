"""What is known of the slots of a round: by the tournament and the ledger, or by the ledger alone.

Read `ask`, then `remember`. Neither sends anything to the tournament but questions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from eraflow.errors import ClosedError, EraflowError, TransientError
from eraflow.ledger import Ledger
from eraflow.receipt import Receipt
from eraflow.rounds import Round
from eraflow.status import receipt_of
from eraflow.store import Store
from eraflow.tournament import Tournament
from eraflow.verdict import is_verified

if TYPE_CHECKING:
    from eraflow.request import Request

logger = logging.getLogger("eraflow")


@dataclass(frozen=True, kw_only=True)
class Known:
    """A round and what is known of its slots, at one moment."""

    round: Round
    now_utc: datetime
    receipts: Mapping[str, Receipt]

    @property
    def left_s(self) -> float:
        """Until the on-time deadline [s]; negative after it."""
        return self.round.left_s(self.now_utc)

    def missing(self, request: Request) -> tuple[str, ...]:
        """The slots without a verified receipt."""
        known = self.receipts
        return tuple(slot for slot in request.config.slots if slot not in known or not is_verified(known[slot]))


def ask(request: Request) -> Known:
    """The round that is open; between rounds the last one, if it was missed.

    Raises `ClosedError` if there is neither, and what the tournament raised if it cannot be asked.
    """
    from eraflow.steps import open_round

    tournament = Tournament.from_environment()
    try:
        opened = open_round(request)
    except ClosedError as closed:
        found = _looked_up(request, tournament, _last_one(request, tournament, closed))
        missing, sent = set(found.missing(request)), {attempt.slot for attempt in _ledger(request).recent()}
        if not (missing & sent if sent else missing):  # a slot that is new was no part of it
            raise
        return found
    return _looked_up(request, tournament, opened)


def remember(request: Request, now_utc: datetime) -> Known | None:
    """The round that is open at `now_utc` as far as the ledger knows; None if there is none. Raises `StorageError`."""
    opened = next((one for one in _ledger(request).rounds(1) if one.is_open(now_utc)), None)
    if opened is None:
        return None
    receipts = {receipt.slot: receipt for receipt in receipts_of(request, opened)}
    return Known(round=opened, now_utc=now_utc, receipts=receipts)


def receipts_of(request: Request, opened: Round) -> tuple[Receipt, ...]:
    """What the ledger knows of each slot. Raises `StorageError`."""
    ledger = _ledger(request)
    return tuple(
        receipt_of(ledger.attempts(opened.number, slot), opened, opened.number, slot, recipe)
        for slot, recipe in request.config.slots.items()
    )


def _looked_up(request: Request, tournament: Tournament, at: Round) -> Known:
    from eraflow.steps import find_slots, look_up

    receipts = {}
    for name, slot in find_slots(request).items():
        try:
            found = look_up(request, at, slot)
        except EraflowError as error:
            logger.warning("slot %s cannot be looked up: %s", name, error.message)
            continue
        if found is not None:
            receipts[name] = found
    with suppress(ClosedError):
        tournament.latest_round()  # for its time
    return Known(round=at, now_utc=tournament.now_utc(), receipts=receipts)


def _last_one(request: Request, tournament: Tournament, closed: ClosedError) -> Round:
    """The round that closed last, where eraflow was in use before it, so that it should have been played."""
    with suppress(EraflowError):
        tournament.glance()  # for its time
    known = remember(request, tournament.now_utc())
    if known is not None and known.missing(request):
        # Between rounds it answers with an error of unknown wording, which any other error looks like.
        open_until = f"round {known.round.number} should be open until {known.round.closes_at_utc:%Y-%m-%d %H:%M} UTC"
        raise TransientError(f"{closed.message}, however {open_until}, as it said before") from closed
    latest = tournament.latest_round()
    if not any(seen.number < latest.number for seen in _ledger(request).rounds(2)):
        raise closed
    return latest


def _ledger(request: Request) -> Ledger:
    return Ledger(Store.open(request.home).ledger_path, Tournament.from_environment().url)
