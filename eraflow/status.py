"""Is this week safe? Everything that `eraflow status` shows, gathered in about a second, whatever is down.

Read `look`. What the tournament says comes from a glance at it (`Seen`), which is waited for no longer than
`ASK_LIMIT_S`; everything else from this disk: the ledger, the models, what `eraflow up` says of itself. How it is told
stands in `status_text`. Nothing is changed, and no torch, pandas, client or Prefect is imported.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from eraflow.at_work import at_work_s
from eraflow.entries import version_key
from eraflow.errors import EraflowError
from eraflow.later import Later
from eraflow.ledger import AlarmNote, Attempt, Ledger, of_slot
from eraflow.receipt import Receipt
from eraflow.rounds import Round, system_now_utc
from eraflow.store import Store
from eraflow.tournament import API_URL, Tournament
from eraflow.transport import get
from eraflow.verdict import utc_moment
from eraflow.weekly_config import Configuration, default_config_file, next_times, read_configuration

UP_FILE = "up.json"
# For the tournament and the server together, so that the command answers in about a second [s].
ASK_LIMIT_S = 0.7
# For what ends by itself, and for a machine that is busy [s].
PATIENCE_S = 10.0
PAST_ROUNDS = 5
# Of each recipe only the newest models are read: a year leaves fifty.
MODELS_READ = 4


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the tournament said when it was looked at."""

    round: Round | None = None
    """The one that is current; None between rounds."""
    trouble: str | None = None
    """Why it could not be asked."""
    data_versions: tuple[str, ...] = ()
    """Those that it lists, the newest last."""
    skew_s: float = 0.0
    """Its clock minus this machine's [s]."""


@dataclass(frozen=True, kw_only=True)
class ModelInUse:
    """The newest model of a recipe."""

    recipe: str
    model_id: str
    made_at_utc: datetime
    spearman_mean: float | None
    """Mean era Spearman on its hold-out."""
    against: str | None
    """Why it would not stand in for a fresh model; None if it would."""


@dataclass(frozen=True, kw_only=True)
class PastRound:
    """A round that the ledger has attempts of."""

    number: int
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, kw_only=True)
class Due:
    """When a deployment runs next."""

    deployment: str
    at_utc: datetime


@dataclass(frozen=True, kw_only=True)
class Up:
    """The `eraflow up` that runs for this home."""

    pid: int
    url: str
    """The dashboard's."""
    answers: bool
    """Its Prefect server says that it is healthy."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """This week, as of one moment."""

    now_utc: datetime
    """The tournament's time where it could be asked."""
    round: Round | None
    """The current one; between rounds, and where nobody could be asked, the last that the ledger remembers."""
    known_from: Literal["tournament", "ledger"] | None
    """Who says that this is the round."""
    trouble: str | None
    """Why the tournament could not be asked."""
    receipts: tuple[Receipt, ...]
    """One a slot, for `round`."""
    at_work: bool
    """A process is at work on `round`."""
    models: tuple[ModelInUse, ...]
    past: tuple[PastRound, ...]
    """Newest first, `round` left out."""
    due: tuple[Due, ...]
    """Soonest first."""
    up: Up | None
    alarms: tuple[AlarmNote, ...]
    """The last ones, newest first."""
    warnings: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """A round is open, as far as is known."""
        return self.round is not None and self.known_from is not None and self.round.is_open(self.now_utc)


def look(home: Path, environ: Mapping[str, str], config_file: Path | None = None, seen: Seen | None = None) -> Status:
    """Gather everything; with `seen` the tournament is not asked again. Raises nothing."""
    warnings: list[str] = []
    ends_at_s = time.monotonic() + ASK_LIMIT_S
    # The tournament is waited for while the disk is read, and the server meanwhile too.
    asking = Later(lambda: seen or see(environ), "the tournament")
    up = Later(lambda: _up(_state_of_up(home), ends_at_s), "`eraflow up`")
    configuration = _configuration(home, config_file, warnings)
    attempts, times, alarms = _remembered(home, environ.get("ERAFLOW_API_URL") or API_URL, warnings)
    told = asking.result(PATIENCE_S)
    now_utc = system_now_utc() + timedelta(seconds=told.skew_s)
    at = told.round or next(iter(times.values()), None)
    slots = _slots(configuration, attempts)
    return Status(
        now_utc=now_utc,
        round=at,
        known_from="tournament" if told.round else "ledger" if at and told.trouble else None,
        trouble=told.trouble,
        receipts=_receipts(attempts, at, slots) if at else (),
        at_work=at is not None and _at_work(home, at),
        models=_models(home, configuration, set(slots.values()), now_utc),
        past=_past(attempts, at, times),
        due=_due(configuration, now_utc),
        up=up.result(PATIENCE_S),
        alarms=alarms,
        warnings=(*warnings, *_newer(configuration, told.data_versions)),
    )


def see(environ: Mapping[str, str], limit_s: float = ASK_LIMIT_S) -> Seen:
    """Glance at the tournament for at most `limit_s` [s]. Raises nothing."""
    ends_at_s = time.monotonic() + limit_s
    try:
        tournament = Tournament(environ.get("ERAFLOW_API_URL") or API_URL)
        listing = Later(tournament.glance_at_versions, "the tournament")
        found = Later(tournament.glance, "the tournament").result(limit_s)
    except EraflowError as error:
        return Seen(trouble=error.message)
    versions: tuple[str, ...] = ()
    with suppress(EraflowError):
        versions = listing.result(ends_at_s - time.monotonic())
    return Seen(round=found, data_versions=versions, skew_s=tournament.clock.skew_s)


def newer_version(pinned: str, versions: Sequence[str]) -> str | None:
    """The newest of `versions` if it is newer than the `pinned` one.

    >>> newer_version("v5.3", ["v5.2", "v5.10"])
    'v5.10'
    """
    newest = max(versions, key=version_key, default=pinned)
    return newest if version_key(newest) > version_key(pinned) else None


def receipt_of(attempts: Sequence[Attempt], at: Round | None, number: int, slot: str, recipe: str) -> Receipt:
    """What the ledger knows of a slot, from its `attempts` for that round, newest first."""
    best = next((a for state in ("verified", "submitted") for a in attempts if a.state == state), None)
    best = best or next(iter(attempts), None)
    if best is None:
        return Receipt(
            round=number, slot=slot, recipe=recipe, source=None, status="skipped", exit_code=1,
            error_code="nothing-sent", error_message="nothing was sent from here yet",
        )  # fmt: skip
    sent = best.submission_id is not None
    verified: Any = best.verified if best.state == "verified" and best.verified in ("bytes", "listed") else False
    sent_at_utc = utc_moment(best.sent_at_utc)
    return Receipt(
        round=number,
        slot=slot,
        recipe=best.recipe,
        source=best.source,  # type: ignore[arg-type]  # the ledger holds what an Order had
        status="late" if sent and best.late else "submitted" if sent else "failed",
        submission_id=best.submission_id,
        sha256=best.sha256,
        verified=verified,
        origin="own" if sent else None,
        sent_at_utc=best.sent_at_utc,
        left_s=at.left_s(sent_at_utc) if at and sent_at_utc else None,
        model_id=best.model_id,
        exit_code=0 if verified else 1,
        error_code=None if verified else "not-verified",
        error_message=None if verified else f"{_SAID[best.state]}{f': {best.error}' if best.error else ''}",
    )


_SAID: Mapping[str, str] = {
    "started": "an attempt was begun, nothing was sent yet",
    "uploaded": "the predictions were uploaded, nothing was submitted yet",
    "sending": "it was sent, and it is not known what became of it",
    "submitted": "it was sent, but the read-back did not confirm it",
    "verified": "it was verified in a way that is not known",
    "failed": "the last attempt failed",
}


def _configuration(home: Path, config_file: Path | None, warnings: list[str]) -> Configuration | None:
    path = config_file or default_config_file(home)
    if path is None:
        return None
    try:
        return read_configuration(path)
    except EraflowError as error:
        warnings.append(error.message)
        return None


def _remembered(
    home: Path, url: str, warnings: list[str]
) -> tuple[list[Attempt], dict[int, Round], tuple[AlarmNote, ...]]:
    """What the ledger has: attempts newest first, rounds by number newest first, alarms."""
    path = Store(home).ledger_path
    if not path.is_file():
        return [], {}, ()  # looking makes none
    try:
        ledger = Ledger(path, url.rstrip("/"))
        attempts, rounds = ledger.recent(PAST_ROUNDS + 1), ledger.rounds(2 * PAST_ROUNDS)
        return attempts, {one.number: one for one in rounds}, tuple(ledger.alarms())
    except EraflowError as error:
        warnings.append(error.message)
        return [], {}, ()


def _slots(configuration: Configuration | None, attempts: Sequence[Attempt]) -> dict[str, str]:
    """Slot -> recipe: the configuration's, else those of the newest round in the ledger."""
    if configuration and configuration.slots:
        return dict(configuration.slots)
    newest = attempts[0].round if attempts else None
    return {a.slot: a.recipe for a in reversed(attempts) if a.round == newest}


def _receipts(attempts: Sequence[Attempt], at: Round, slots: Mapping[str, str]) -> tuple[Receipt, ...]:
    here = [a for a in attempts if a.round == at.number]
    return tuple(receipt_of(of_slot(here, slot), at, at.number, slot, recipe) for slot, recipe in slots.items())


def _past(attempts: Sequence[Attempt], at: Round | None, times: Mapping[int, Round]) -> tuple[PastRound, ...]:
    numbers = [n for n in dict.fromkeys(a.round for a in attempts) if at is None or n != at.number]
    found = []
    for number in numbers[:PAST_ROUNDS]:
        here = [a for a in attempts if a.round == number]
        recipes = {a.slot: a.recipe for a in reversed(here)}
        receipts = [
            receipt_of(of_slot(here, slot), times.get(number), number, slot, recipe)
            for slot, recipe in sorted(recipes.items())
        ]
        found.append(PastRound(number=number, receipts=tuple(receipts)))
    return tuple(found)


def _models(
    home: Path, configuration: Configuration | None, recipes: set[str], now_utc: datetime
) -> tuple[ModelInUse, ...]:
    """Of each recipe the newest model that would stand in, or else the newest."""
    folders: dict[str, list[tuple[float, Path]]] = {}
    for path in Store(home).models_folder.glob("*-*/model.json"):
        recipe = path.parent.name.rpartition("-")[0]
        if not recipes or recipe in recipes:
            with suppress(OSError):
                folders.setdefault(recipe, []).append((path.stat().st_mtime, path))
    chosen = []
    for recipe, paths in sorted(folders.items()):
        newest = [path for _, path in sorted(paths, reverse=True)[:MODELS_READ]]
        models = [m for path in newest if (m := _model(path, recipe, configuration or Configuration(), now_utc))]
        models.sort(key=lambda model: (model.against is None, model.made_at_utc), reverse=True)
        chosen += models[:1]
    return tuple(chosen)


def _model(path: Path, recipe: str, configuration: Configuration, now_utc: datetime) -> ModelInUse | None:
    try:
        told = json.loads(path.read_bytes())
        made_at_utc = utc_moment(told["made_at_utc"])
        score = told["validation"]["spearman_mean"]
        score = None if score is None else float(score)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if made_at_utc is None:
        return None
    against = configuration.against(
        cut=bool(told.get("cut")),
        data_version=told.get("data_version"),
        age_s=(now_utc - made_at_utc).total_seconds(),
        spearman_mean=score,
    )
    return ModelInUse(
        recipe=recipe, model_id=path.parent.name, made_at_utc=made_at_utc, spearman_mean=score, against=against
    )


def _due(configuration: Configuration | None, now_utc: datetime) -> tuple[Due, ...]:
    if configuration is None:
        return ()
    schedule = configuration.schedule
    found = [
        Due(deployment=name, at_utc=moment)
        for name in ("weekly", "daily", "watch")
        for moment in next_times(getattr(schedule, name), schedule.time_zone, now_utc, 1)
    ]
    return tuple(sorted(found, key=lambda due: due.at_utc))


def _state_of_up(home: Path) -> Mapping[str, Any] | None:
    """What the `eraflow up` of this home says of itself; None if there is none, or its process has gone."""
    try:
        told: Mapping[str, Any] = json.loads((home / UP_FILE).read_bytes())
        pid = int(told["pid"])
        if pid <= 0 or not (isinstance(told["url"], str) and isinstance(told["api_url"], str)):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return told  # another user's
    except (OSError, OverflowError):
        return None
    return told


def _up(told: Mapping[str, Any] | None, ends_at_s: float) -> Up | None:
    if told is None:
        return None
    answers = False
    with suppress(EraflowError):
        health = Later(lambda: _is_healthy(told["api_url"]), "the Prefect server")
        answers = health.result(max(ends_at_s - time.monotonic(), ASK_LIMIT_S / 4))
    return Up(pid=int(told["pid"]), url=told["url"], answers=answers)


def _is_healthy(api_url: str) -> bool:
    with get(f"{api_url}/health", "the Prefect server") as body:
        return body.status == 200


def _at_work(home: Path, at: Round) -> bool:
    try:
        return at_work_s(Store(home), at.number) is not None
    except (EraflowError, OSError):
        return False


def _newer(configuration: Configuration | None, versions: Sequence[str]) -> list[str]:
    pinned = (configuration or Configuration()).data_version
    newest = newer_version(pinned, versions)
    if newest is None:
        return []
    return [f"the tournament has data version {newest}, and data_version = {pinned} is configured"]
