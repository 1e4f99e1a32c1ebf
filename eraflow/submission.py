"""Submit exactly once, and read it back.

Read `submit` from top to bottom: ask the tournament, write the ledger, PUT, create, read back. A second run finds
what is there and sends nothing. Whatever is not known for certain is asked, never assumed.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from eraflow.checks import check_bytes, check_deadline, check_slot, require
from eraflow.errors import (
    ClosedError,
    CredentialsError,
    EraflowError,
    RefusedError,
    TransientError,
    UnknownOutcomeError,
)
from eraflow.ledger import Attempt, Ledger
from eraflow.receipt import Receipt, Source, Status
from eraflow.rounds import Round
from eraflow.store import Store, exclusive, utc_text, write_atomically
from eraflow.tournament import Listed, Slot, Tournament
from eraflow.transport import REACH_LIMIT_S

logger = logging.getLogger("eraflow")

FOUND_WRONG = "found-wrong"
OVERTAKEN = "round-overtaken"
# Longer than a run that is alive holds a slot; one that was stopped holds it for ever [s].
SLOT_LOCK_S = 1800.0
# So often the same bytes are sent if the tournament's validator refuses them; what it refuses has no effect.
WRONG_AT_MOST = 2
READBACK_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """How submissions are treated."""

    late: Literal["skip", "submit"] = "skip"
    """What happens after the on-time deadline."""
    readback_s: float = 60.0
    """How long a lost answer is looked for before anything is sent again [s]."""

    def __post_init__(self) -> None:
        if not 0 <= self.readback_s <= 3600:
            raise ValueError(f"readback_s must be 0 to 3600 seconds, however {self.readback_s} was given")


@dataclass(frozen=True, kw_only=True)
class Order:
    """Everything that one submission is made of."""

    opened: Round
    slot: Slot
    recipe: str
    source: Source
    data: bytes
    live_ids: Sequence[str]
    model_id: str | None = None


def standing(
    tournament: Tournament, ledger: Ledger, opened: Round, slot: Slot, recipe: str, settings: SubmissionConfig
) -> Receipt | None:
    """What the tournament already has of this slot for this round, or None if a submission may be sent.

    An attempt of which it is not known whether it took effect is looked for first. Raises `UnknownOutcomeError`
    if the tournament can't be asked about it.
    """
    attempts = _settled(tournament, ledger, opened, slot, settings)
    there = [entry for entry in tournament.selected(slot.model_id, opened.number) if not _carried_over(entry, opened)]
    if settings.late == "submit":
        there += _late_ones(tournament, opened, slot)
    for entry in there:
        own = next(
            (a for a in attempts if entry.filename == a.stored_as or (entry.id and entry.id == a.submission_id)), None
        )
        if own is None:
            return _foreign(tournament, opened, slot, recipe, entry)
        if own.submission_id is None and entry.id:  # it took effect, whatever we took it for
            ledger.mark(own.id, "submitted", submission_id=entry.id)
            own = ledger.attempt(own.id)
        return _receipt(_read_back(tournament, ledger, own, slot), opened, slot, "already-submitted")
    # Sent and known to us, but not (or no longer) what counts there: a late one that waits for the next round, or one
    # that is still being judged. Never sent again by itself.
    for attempt in attempts:
        if attempt.state in ("submitted", "verified") and not _found_wrong(tournament, ledger, attempt, slot):
            return _receipt(
                _read_back(tournament, ledger, attempt, slot, again=True), opened, slot, "already-submitted"
            )
    return None


def _late_ones(tournament: Tournament, opened: Round, slot: Slot) -> list[Listed]:
    """Those of this round that count for the next one: they are listed, but not selected. Raises as `_asked_again`."""
    if opened.left_s(tournament.now_utc()) > 0:
        return []
    opened = _asked_again(tournament, opened)
    return [
        entry
        for entry in tournament.listed(slot.model_id)
        if entry.inserted_at_utc is not None
        and entry.inserted_at_utc >= opened.closes_at_utc
        and not tournament.complaint(slot.model_id, entry.filename)
    ]


def _settled(
    tournament: Tournament, ledger: Ledger, opened: Round, slot: Slot, settings: SubmissionConfig
) -> list[Attempt]:
    """The attempts for this slot, newest first, once it is known what became of each."""
    for attempt in ledger.attempts(opened.number, slot.name, slot.model_id):
        if attempt.state == "sending":
            _resolve(tournament, ledger, attempt, slot, settings)
    return ledger.attempts(opened.number, slot.name, slot.model_id)


def _found_wrong(tournament: Tournament, ledger: Ledger, attempt: Attempt, slot: Slot) -> bool:
    """Whether the tournament's validator refused it: then it has no effect, and other bytes may be sent."""
    complaint = tournament.complaint(slot.model_id, str(attempt.stored_as))
    if complaint:
        ledger.mark(attempt.id, "failed", error=f"{FOUND_WRONG}: {complaint}")
    return bool(complaint)


def submit(
    tournament: Tournament,
    ledger: Ledger,
    store: Store,
    order: Order,
    settings: SubmissionConfig,
    *,
    resubmit_since: str | None = None,
) -> Receipt:
    """Send the predictions of one slot, once, and read them back.

    Of two processes at once the second waits and then finds the first one's submission. With `resubmit_since` (a UTC
    time, ISO 8601) what is there is replaced, unless we sent it at that time or later. Raises `DataError`,
    `InputError` or `ClosedError` for a failed check, `RefusedError` or `CredentialsError` if the tournament says no,
    `UnknownOutcomeError` if it can't be known what became of it; in all but the last nothing was sent.
    """
    opened, slot = order.opened, order.slot
    sha256 = hashlib.sha256(order.data).hexdigest()
    file = store.round_folder(opened.number) / f"submission-{sha256[:12]}.csv"
    with exclusive(_slot_lock(store, opened, slot), timeout_s=SLOT_LOCK_S):
        if resubmit_since is None:
            there = standing(tournament, ledger, opened, slot, order.recipe, settings)
            if there is not None:
                return there
        attempts = _settled(tournament, ledger, opened, slot, settings)
        for attempt in attempts:
            if (
                resubmit_since
                and attempt.started_at_utc >= resubmit_since
                and attempt.state in ("submitted", "verified")
            ):
                return _receipt(_read_back(tournament, ledger, attempt, slot), opened, slot, "already-submitted")
        # Once may have been the way there: a page that answers the upload in the storage's place takes no bytes.
        refused = [one for one in attempts if one.sha256 == sha256 and str(one.error).startswith(FOUND_WRONG)]
        if len(refused) >= WRONG_AT_MOST:
            raise RefusedError(
                f"the tournament refused these very predictions for slot {slot.name} in round {opened.number}"
                f" {len(refused)} times ({refused[0].error}); nothing was sent again; other live data or another"
                " model are needed"
            )
        # Its deadline may have moved, or the next one may be open.
        opened = _asked_again(tournament, opened)
        order = replace(order, opened=opened)
        checks = [
            check_slot(slot),
            check_deadline(opened, tournament.now_utc(), settings.late),
            *check_bytes(order.data, order.live_ids),
        ]
        require(checks, f"slot {slot.name} in round {opened.number}")
        write_atomically(file, order.data)
        # Only a submission that certainly took no effect is repeated, and only once.
        sent = _send_once(tournament, ledger, order, settings, sha256) or _send_once(
            tournament, ledger, order, settings, sha256
        )
        if sent is None:
            raise UnknownOutcomeError(
                f"two submissions of slot {slot.name} in round {opened.number} took no effect;"
                " look at the slot's page at the tournament, then run this again"
            )
        attempt = _read_back(tournament, ledger, sent, slot, settings.readback_s)
        receipt = _receipt(attempt, opened, slot, "submitted")
        late = receipt.left_s is not None and receipt.left_s <= 0
        return replace(receipt, status="late" if late else "submitted", checks=tuple(checks))


def _send_once(
    tournament: Tournament, ledger: Ledger, order: Order, settings: SubmissionConfig, sha256: str
) -> Attempt | None:
    """PUT and create; the attempt that took effect, or None if it certainly did not and may be repeated."""
    opened, slot = order.opened, order.slot

    def still_allowed() -> None:
        nonlocal opened
        opened = _asked_again(tournament, opened)
        require([check_deadline(opened, tournament.now_utc(), settings.late)], f"slot {slot.name}")

    def about_to_leave() -> float | None:
        # Between two tries the deadline may pass, and between being sent and leaving.
        now_utc = tournament.now_utc()
        require([check_deadline(opened, now_utc, settings.late)], f"slot {slot.name}")
        left_s = opened.left_s(now_utc)
        ledger.mark(attempt_id, "sending", sent_at_utc=utc_text(now_utc), late=left_s <= 0)
        return left_s if left_s > 0 else None

    attempt_id = ledger.begin(
        round_number=opened.number,
        slot=slot.name,
        slot_id=slot.model_id,
        recipe=order.recipe,
        source=order.source,
        sha256=sha256,
        late=opened.left_s(tournament.now_utc()) <= 0,
        model_id=order.model_id,
    )
    try:
        # Round and hash in the name are a second clue to whose bytes these are.
        name = f"eraflow-r{opened.number}-{sha256[:12]}.csv"
        stored_as = tournament.upload(name, order.data, slot.model_id, before=still_allowed)
        ledger.mark(attempt_id, "uploaded", stored_as=stored_as)
        submission_id = tournament.create(stored_as, slot.model_id, before=about_to_leave)
    except UnknownOutcomeError:
        return _resolve(tournament, ledger, ledger.attempt(attempt_id), slot, settings)
    except EraflowError as error:
        ledger.mark(attempt_id, "failed", error=error.code)
        raise
    ledger.mark(attempt_id, "submitted", submission_id=submission_id)
    return ledger.attempt(attempt_id)


def _resolve(
    tournament: Tournament, ledger: Ledger, attempt: Attempt, slot: Slot, settings: SubmissionConfig
) -> Attempt | None:
    """Find out whether a submission whose answer was lost took effect; the attempt if so, None if certainly not."""
    sent = datetime.fromisoformat(attempt.sent_at_utc or attempt.started_at_utc)
    started = time.monotonic()
    waits = iter(READBACK_WAITS_S)
    while True:
        try:
            found = next((e for e in tournament.listed(slot.model_id) if e.filename == attempt.stored_as), None)
        except (TransientError, RefusedError, CredentialsError) as error:
            raise UnknownOutcomeError(
                f"it is not known whether the submission of slot {slot.name} in round {attempt.round} took effect, and"
                f" the tournament can't be asked: {error.message}; run this again before the deadline"
            ) from None
        if found is not None:
            ledger.mark(attempt.id, "submitted", submission_id=found.id)
            return ledger.attempt(attempt.id)
        # The answer has told the tournament's time, which `sent` is in too; this machine's own clock may be wrong.
        left_s_ago = (tournament.now_utc() - sent).total_seconds() - REACH_LIMIT_S
        since_s = max(left_s_ago, time.monotonic() - started)
        if since_s >= settings.readback_s:
            ledger.mark(attempt.id, "failed", error="took-no-effect")
            return None
        time.sleep(min(next(waits, 8.0), settings.readback_s))


def _read_back(
    tournament: Tournament,
    ledger: Ledger,
    attempt: Attempt,
    slot: Slot,
    patience_s: float = 0.0,
    *,
    again: bool = False,
) -> Attempt:
    """The attempt, verified if the tournament has what we sent; unverified (and said so) otherwise.

    What was verified before is believed unless it is looked at `again`.
    """
    if (attempt.state == "verified" and not again) or attempt.submission_id is None:
        return attempt
    started = time.monotonic()
    waits = iter(READBACK_WAITS_S)
    while True:
        how, reason = _verified_how(tournament, attempt, slot)
        if how:
            ledger.mark(attempt.id, "verified", verified=how)
            return ledger.attempt(attempt.id)
        wait_s = next(waits, 8.0)
        if time.monotonic() - started + wait_s > patience_s:
            logger.warning("slot %s, round %d: submitted, but not verified: %s", slot.name, attempt.round, reason)
            ledger.mark(attempt.id, "submitted", error=reason)
            return ledger.attempt(attempt.id)
        time.sleep(wait_s)


def _verified_how(
    tournament: Tournament, attempt: Attempt, slot: Slot
) -> tuple[Literal["bytes", "listed"] | None, str]:
    identity = str(attempt.submission_id)
    try:
        data = tournament.submitted_bytes(identity)
        if hashlib.sha256(data).hexdigest() != attempt.sha256:
            return None, "the bytes that came back are not those that were sent; --resubmit sends them again"
        if complaint := tournament.complaint(slot.model_id, str(attempt.stored_as)):
            return None, f"the tournament refuses it: {complaint}"
        if not attempt.late and not _counts(tournament, attempt, slot):
            return None, f"its bytes are there, but it does not count for round {attempt.round}"
        return "bytes", ""
    except TransientError as error:  # being listed is enough only for keys that may not have the bytes
        return None, error.message
    except (CredentialsError, RefusedError) as error:
        reason = error.message
    try:
        # A late one waits for the next round: it is listed, but not selected.
        there = tournament.listed(slot.model_id) if attempt.late else tournament.selected(slot.model_id, attempt.round)
        if any(entry.id == identity for entry in there):
            complaint = tournament.complaint(slot.model_id, str(attempt.stored_as))
            return (None, f"the tournament refuses it: {complaint}") if complaint else ("listed", "")
        return None, f"{reason}; nor is it listed as {'a' if attempt.late else 'the selected'} submission"
    except EraflowError as error:
        return None, error.message


def _counts(tournament: Tournament, attempt: Attempt, slot: Slot) -> bool:
    """Whether it is the selected submission of its round; where the keys may not ask, the bytes alone decide."""
    try:
        there = tournament.selected(slot.model_id, attempt.round)
    except (CredentialsError, RefusedError):
        return True
    return any(attempt.submission_id == entry.id or attempt.stored_as == entry.filename for entry in there)


def _asked_again(tournament: Tournament, opened: Round) -> Round:
    """The round as the tournament knows it now: its deadline may have moved, or the next one may be open."""
    try:
        current = tournament.current_round()
    except ClosedError:
        return opened
    if current.number != opened.number:
        raise ClosedError(
            f"round {current.number} is open now, however these predictions are for round {opened.number};"
            " nothing was sent; run this again",
            code=OVERTAKEN,
        )
    return current


def _carried_over(entry: Listed, opened: Round) -> bool:
    """A late submission of the round before stands as this round's until it is replaced."""
    return entry.inserted_at_utc is not None and entry.inserted_at_utc < opened.opens_at_utc


def _foreign(tournament: Tournament, opened: Round, slot: Slot, recipe: str, entry: Listed) -> Receipt:
    logger.warning(
        "slot %s already has a submission for round %d that this ledger does not know (a lost ledger, another machine,"
        " or an upload by hand); nothing is sent without --resubmit",
        slot.name,
        opened.number,
    )
    sha256 = None
    if entry.id:
        try:
            sha256 = hashlib.sha256(tournament.submitted_bytes(entry.id)).hexdigest()
        except (CredentialsError, RefusedError, TransientError) as error:
            logger.info("the foreign submission cannot be read back: %s", error.message)
    return Receipt(
        round=opened.number,
        slot=slot.name,
        recipe=recipe,
        source=None,
        status="already-submitted",
        submission_id=entry.id,
        sha256=sha256,
        verified="listed",
        origin="foreign",
        left_s=opened.left_s(entry.inserted_at_utc) if entry.inserted_at_utc else None,
    )


def _receipt(attempt: Attempt, opened: Round, slot: Slot, status: Status) -> Receipt:
    verified: Literal["bytes", "listed", False] = False
    if attempt.state == "verified" and attempt.verified in ("bytes", "listed"):
        verified = "bytes" if attempt.verified == "bytes" else "listed"
    sent = attempt.sent_at_utc
    return Receipt(
        round=attempt.round,
        slot=slot.name,
        recipe=attempt.recipe,
        source=attempt.source,  # type: ignore[arg-type]  # the ledger holds what an Order had
        status=status,
        submission_id=attempt.submission_id,
        sha256=attempt.sha256,
        verified=verified,
        origin="own",
        model_id=attempt.model_id,
        sent_at_utc=sent,
        left_s=opened.left_s(datetime.fromisoformat(sent)) if sent else None,
        exit_code=0 if verified else 1,
        error_code=None if verified else "not-verified",
        error_message=None if verified else f"sent, but the read-back did not confirm it: {attempt.error}",
    )


def _slot_lock(store: Store, opened: Round, slot: Slot) -> Path:
    # A slot's name comes from the account, so it is hashed before it becomes part of a path.
    return store.round_folder(opened.number) / f"slot-{hashlib.sha256(slot.name.encode()).hexdigest()[:12]}"
