"""The dead man's switch: is every slot of the open round verified? If not, the alarm, and then the round itself.

Read `check`, which a timer of the operating system starts (`eraflow status --check`), and `watch`, which is a
deployment too. Tournament and ledger are asked, the alarm rings before anything is done about it, and the round is
played by direct calls. Nothing is waited for without end: a round that hangs is left to itself when it is time for
the fallback. What is heavy is imported where it is needed, so that this too cannot keep the alarm from ringing.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from eraflow import alarms
from eraflow.alarms import Alarm
from eraflow.at_work import at_work_s
from eraflow.errors import NO_ROUND, ClosedError, CredentialsError, EraflowError, InputError, StorageError
from eraflow.known import Known, ask, remember
from eraflow.later import Later
from eraflow.ledger import AlarmNote, Ledger
from eraflow.receipt import Receipt
from eraflow.result import RoundResult
from eraflow.rounds import Round, duration_text, system_now_utc
from eraflow.store import ANOTHER_HOME, Store, against_home
from eraflow.tournament import Tournament
from eraflow.untold import unexpected, way_to
from eraflow.verdict import counted_text, is_verified, verdict
from eraflow.weekly_config import AlarmConfig, default_config_file, read_configuration

if TYPE_CHECKING:
    from eraflow.request import Request

T = TypeVar("T")

logger = logging.getLogger("eraflow")

# How long tournament and ledger are asked before the alarm rings; a hanging API takes the client's tries longer [s].
ASK_LIMIT_S = 90.0
LEDGER_LIMIT_S = 5.0
# For a round that is sent late, and for one of which nobody knows how long it is open [s].
UNKNOWN_LEFT_S = 3600.0
# Beyond the deadline, for the read-back of what was sent just before it [s].
READBACK_S = 120.0
# A run that has been at work for less than this share of the round's window is not late yet.
PATIENCE = 0.25
# A run that waits for the opening asks every 15 s, so it may come to a round that has just opened a little later [s].
JUST_OPENED_S = 20.0
LOOK_EACH_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What was found, and what was done about it."""

    round: int | None
    was_safe: bool
    """Nothing had to be done: no round is open, or every slot is verified."""
    is_safe: bool
    """The same at the end, after what was done."""
    did: tuple[str, ...]
    """In words, in order."""
    left_s: float | None = None
    """Before the on-time deadline when it was asked [s]; negative after it."""
    missing: tuple[str, ...] = ()
    """The slots that had no verified receipt."""
    receipts: tuple[Receipt, ...] = ()
    """As of the end."""
    told: int = 0
    """How many addresses took the first alarm; 0 too if somebody was told the same before."""
    exit_code: int = 1
    """0 only if nothing had to be done."""

    @property
    def sentence(self) -> str:
        return "; ".join(self.did)


def check(
    home: Path, config_file: Path | None, environ: Mapping[str, str], unfit: EraflowError | None = None
) -> Watched:
    """`watch` with the configuration in `config_file`, or that of the home. What is wrong with it rings too, where it
    can, and so does `unfit`: why nothing can be asked at all.
    """
    alarm = AlarmConfig()
    try:
        path = config_file or default_config_file(home)
        alarm = read_configuration(path).alarm
        if unfit is not None:
            raise unfit
        request = Later(lambda: _request(home, path), "reading the configuration").result(ASK_LIMIT_S)
    except Exception as found:
        error = unfit or _ours(found)
        told = _ring_once(home, _blind(None, error), alarm, environ)
        did = (f"whether this week is safe cannot be asked: {error.message}",)
        return Watched(round=None, was_safe=False, is_safe=False, did=did, told=told, exit_code=error.exit_code)
    return watch(request, alarm, environ)


def watch(request: Request, alarm: AlarmConfig, environ: Mapping[str, str]) -> Watched:
    """Ask, ring, rescue. What goes wrong on the way stands in what is returned."""
    return _Watch(replace(request, wait_s=0.0), alarm, environ).watched()


def json_object(watched: Watched) -> dict[str, Any]:
    """With stable keys; `submissions` is as in the JSON of `weekly`."""
    from eraflow import result

    plain = {name: getattr(watched, name) for name in ("round", "was_safe", "is_safe", "left_s", "told")}
    told = result.json_object(RoundResult(round=watched.round, receipts=watched.receipts))
    lists = {"missing": list(watched.missing), "did": list(watched.did), "submissions": told["submissions"]}
    return {**plain, **lists}


class _Watch:
    """One look at the round, and what follows from it."""

    def __init__(self, request: Request, alarm: AlarmConfig, environ: Mapping[str, str]) -> None:
        self.request, self.alarm, self.environ = request, alarm, environ
        self.home, self.takeover_s = request.home, request.config.fallback.takeover_s

    def watched(self) -> Watched:
        try:
            found = Later(lambda: _reading(self.request, ask), "the tournament").result(ASK_LIMIT_S)
        except ClosedError as error:
            return Watched(round=None, was_safe=True, is_safe=True, did=(error.message,), exit_code=0)
        except Exception as error:
            return self._unasked(_ours(error))
        missing = found.missing(self.request)
        if not missing:
            return _safe(found, self.home)
        if not self._is_played(found.round):
            did = f"round {found.round.number} is of a kind for which nothing is scheduled"
            return Watched(round=found.round.number, was_safe=True, is_safe=True, did=(did,), exit_code=0)
        if found.left_s <= 0 and self.request.config.submission.late == "skip":
            return self._missed(found, missing)
        against = _against(self.home)
        busy_s = None if against else _at_work_s(self.home, found)
        busy = busy_s is not None
        leave = bool(against) or (busy and found.left_s > self.takeover_s)
        if leave and busy_s is not None and busy_s < PATIENCE * _window_s(found.round):
            did = (
                f"round {found.round.number} is not safe yet: a run has been at work on it for {duration_text(busy_s)}"
            )
            return Watched(
                round=found.round.number, was_safe=False, is_safe=False, did=(did,), left_s=found.left_s,
                missing=missing, receipts=tuple(found.receipts.values()), exit_code=0,
            )  # fmt: skip
        what = (
            f"the round cannot be played: {against}"
            if against
            else self._plan(found.round, found.left_s, busy=busy, leave=leave)
        )
        told = self._ring(alarms.missed(found.round, missing, found.now_utc, what))
        watched = Watched(
            round=found.round.number, was_safe=False, is_safe=False, did=(what,), left_s=found.left_s,
            missing=missing, receipts=tuple(found.receipts.values()), told=told,
        )  # fmt: skip
        return watched if leave else self._rescued(watched, found.round, found.left_s)

    def _is_played(self, opened: Round) -> bool:
        try:
            return read_configuration(self.request.config_file).schedule.plays(opened)
        except EraflowError:
            return True  # a file that has gone is no reason to be quiet

    def _unasked(self, error: EraflowError) -> Watched:
        """Nobody answered: the ledger may still know that all is well. Otherwise ring, and try all the same."""
        known = _remembered(self.request)
        if known is not None and not known.missing(self.request):
            safe = _safe(known, self.home)
            return replace(safe, did=(f"{safe.did[0]}, says the ledger; {error.message}", *safe.did[1:]))
        told = _ring_once(self.home, _blind(known, error), self.alarm, self.environ)
        watched = Watched(
            round=known.round.number if known else None, was_safe=False, is_safe=False, told=told,
            did=(f"whether the round is safe cannot be asked: {error.message}",),
            left_s=known.left_s if known else None, missing=known.missing(self.request) if known else (),
            exit_code=error.exit_code,
        )  # fmt: skip
        if isinstance(error, InputError | CredentialsError) or against_home(self.home):
            return watched  # the round would be refused for the same reason
        left_s = known.left_s if known else UNKNOWN_LEFT_S
        return self._rescued(watched, known.round if known else None, left_s)

    def _missed(self, found: Known, missing: tuple[str, ...]) -> Watched:
        """The deadline has passed: that is told once."""
        number = found.round.number
        did = f"round {number} was missed: the deadline passed {duration_text(found.left_s)} ago"
        alarm = alarms.missed(found.round, missing, found.now_utc, "no attempt made one before the deadline")
        alarm = replace(alarm, title=f"eraflow: round {number} was missed")
        told = _ring_once(self.home, alarm, self.alarm, self.environ)
        return Watched(
            round=number, was_safe=False, is_safe=False, did=(did,), left_s=found.left_s, missing=missing,
            receipts=tuple(found.receipts.values()), told=told,
        )  # fmt: skip

    def _plan(self, opened: Round, left_s: float, *, busy: bool, leave: bool) -> str:
        takeover = duration_text(self.takeover_s)
        if leave:
            return f"a run is at work on it, and is left alone until {takeover} before the deadline"
        first = "a run is at work on it, but there is little time" if busy else "no run is at work on it"
        if self._trains_first(opened, left_s):
            return f"{first}; the round is started now, without Prefect"
        return f"{first}; the newest good model is sent now, without Prefect"

    def _trains_first(self, opened: Round | None, left_s: float) -> bool:
        if opened is None or opened.is_daily:  # an hour is no time to train
            return False
        return self.request.train and (left_s <= 0 or left_s > self.takeover_s)

    def _rescued(self, watched: Watched, opened: Round | None, left_s: float) -> Watched:
        """Play the round, and tell what came of it."""
        done = self._rescue(opened, left_s)
        if isinstance(done, EraflowError):
            did = f"the round could not be played: {done.message}"
            self._ring(replace(_blind(None, done), round=watched.round, title=f"eraflow: {did}"))
            return replace(watched, did=(*watched.did, did))
        if done.round is None and _is_over(done):
            return replace(watched, is_safe=True, did=(*watched.did, "no round is open after all"))
        from eraflow.tell import tell

        # For a round of an hour an older model is the plan, and no fallback that anybody has to be told of.
        tell(replace(self.request, train=self.request.train and not (opened and opened.is_daily)), done)
        judged = verdict(done)
        if judged.kind == "safe":
            body = (
                f"{judged.sentence}. Nothing has to be done now; look at `eraflow status` for why it was not in time."
            )
            title = f"eraflow: round {done.round} is safe now"
            self._ring(Alarm(kind="receipt", round=done.round, title=title, body=body))
        return replace(
            watched, round=done.round or watched.round, is_safe=judged.kind == "safe", receipts=done.receipts,
            did=(*watched.did, judged.sentence, *([judged.reason] if judged.reason else [])),
        )  # fmt: skip

    def _rescue(self, opened: Round | None, left_s: float) -> RoundResult | EraflowError:
        """Play the round: with training while there is time, else with what is there."""
        ends_at_s = time.monotonic() + (left_s if left_s > 0 else UNKNOWN_LEFT_S)
        if not self._trains_first(opened, left_s):
            return _outcome(self._begun(train=False), ends_at_s + READBACK_S)
        trained = self._begun(train=True)
        done = _outcome(trained, ends_at_s - (self.takeover_s if left_s > 0 else 0.0))
        if _is_over(done) or ends_at_s - time.monotonic() > self.takeover_s:
            return done  # what went wrong is told, and the next attempt has its time
        logger.warning("the round has no submission yet; now the newest good model is sent")
        done = _outcome(self._begun(train=False), ends_at_s + READBACK_S)
        # Without a model the training that is left is all that can help: it is cut in time, unless this process ends.
        return done if _is_over(done) else _outcome(trained, ends_at_s + READBACK_S)

    def _begun(self, *, train: bool) -> Later[RoundResult]:
        """One round by direct calls."""
        request = replace(self.request, train=train)
        return Later(lambda: _played(request), "the round")

    def _ring(self, alarm: Alarm) -> int:
        return _ring(self.home, alarm, self.alarm, self.environ)


def _outcome(begun: Later[RoundResult], until_s: float) -> RoundResult | EraflowError:
    """What the round came to; an error if it has not ended by then, or could not be played."""
    try:
        return begun.result(until_s - time.monotonic())
    except Exception as error:
        return _ours(error)


def _at_work_s(home: Path, found: Known) -> float | None:
    """For how long a run has been at work; one that waited for the opening is given the time to notice it."""
    until_s = time.monotonic() + JUST_OPENED_S - (found.now_utc - found.round.opens_at_utc).total_seconds()
    while (busy_s := at_work_s(Store(home), found.round.number)) is None and time.monotonic() < until_s:
        time.sleep(LOOK_EACH_S)
    return busy_s


def _window_s(opened: Round) -> float:
    return (opened.closes_at_utc - opened.opens_at_utc).total_seconds()


def _request(home: Path, config_file: Path | None) -> Request:
    from eraflow.request import make_request

    return make_request(home=_found(home), config_file=config_file)


def _found(home: Path) -> Path:
    """The home, made if it is not there; one that can only be read will do for asking. Raises `StorageError`."""
    try:
        return Store.open(home).home
    except StorageError:
        if not os.path.isfile(Store(home).ledger_path):
            raise
        return home.resolve()


def _against(home: Path) -> str | None:
    why = against_home(home)
    return f"{why}; {ANOTHER_HOME}" if why else None


def _reading(request: Request, call: Callable[[Request], T]) -> T:
    """What `call` returns of a request whose home can be read and written to. Raises `StorageError`."""
    with _readable(request.home) as home:
        return call(replace(request, home=home))


@contextmanager
def _readable(home: Path) -> Iterator[Path]:
    """`home`; where that cannot be written to, a folder that lasts as long as the block, with a copy of its ledger:
    whoever asks the tournament writes down what it answers. Raises `StorageError` if there can be no such copy.
    """
    against = _against(home)
    if against is None:
        yield home
        return
    try:
        with TemporaryDirectory(prefix="eraflow-", ignore_cleanup_errors=True) as folder:
            ledger, copy = Store(home).ledger_path, Store(Path(folder)).ledger_path
            with suppress(FileNotFoundError):  # what a killed process had begun, which is undone in the copy
                shutil.copyfile(f"{ledger}-journal", f"{copy}-journal")
            shutil.copyfile(ledger, copy)
            yield Path(folder)
    except (OSError, StorageError) as error:
        raise StorageError(against) from error


def _played(request: Request) -> RoundResult:
    from eraflow.weekly import plain_steps, play

    return play(request, plain_steps())


def _remembered(request: Request) -> Known | None:
    """The round that is open as far as the ledger remembers; None if there is none, or it cannot be read in time."""
    with suppress(EraflowError):
        return _in_time(lambda: _reading(request, lambda readable: remember(readable, system_now_utc())))
    return None


def _ledger(home: Path) -> Ledger:
    return Ledger(Store.open(home).ledger_path, Tournament.from_environment().url)


def _notes(home: Path) -> list[AlarmNote]:
    with _readable(home) as readable:
        return _ledger(readable).alarms(50)


def _in_time(call: Callable[[], T]) -> T:
    """What a call of the ledger returns. Raises `EraflowError`, also where no thread can be started for it."""
    try:
        return Later(call, "the ledger").result(LEDGER_LIMIT_S)
    except Exception as error:
        raise _ours(error) from error


def _ring_once(home: Path, alarm: Alarm, config: AlarmConfig, environ: Mapping[str, str]) -> int:
    """Tell, unless somebody was told the same already."""
    with suppress(EraflowError):
        if alarms.was_told(alarm, _in_time(lambda: _notes(home)), system_now_utc()):
            return 0
    return _ring(home, alarm, config, environ)


def _ring(home: Path, alarm: Alarm, config: AlarmConfig, environ: Mapping[str, str]) -> int:
    """Tell, then note it; a ledger that hangs or is lost keeps nobody from being told."""
    told = alarms.ring(alarm, config, environ)
    try:
        _in_time(lambda: _ledger(home).note_alarm(alarm.round, alarm.kind, alarm.title, told))
    except EraflowError as error:
        logger.warning("the alarm could not be kept: %s", error.message)
    return told


def _blind(known: Known | None, error: EraflowError) -> Alarm:
    """The alarm for what nobody can answer."""
    number = known.round.number if known else None
    here = f"round {number}" if known else "this week"
    left = f", {duration_text(known.left_s)} left" if known else ""
    body = f"""What happened:
- {error.message}
What it means: It is not known whether all slots of the open round have verified submissions.
What to do now: Look at the tournament's web page and at `eraflow doctor`; `eraflow status --check` asks again."""
    title = f"eraflow: whether {here} is safe cannot be asked{left}"
    return Alarm(kind="missed", round=number, title=title, body=body)


def _safe(found: Known, home: Path) -> Watched:
    slots = counted_text(len(found.receipts), "slot")
    did = f"round {found.round.number} is safe: {slots} verified"
    against = _against(home)
    warning = (f"warning: the next round cannot be played: {against}",) if against else ()
    return Watched(
        round=found.round.number, was_safe=True, is_safe=True, did=(did, *warning), left_s=found.left_s,
        receipts=tuple(found.receipts.values()), exit_code=0,
    )  # fmt: skip


def _is_over(done: RoundResult | EraflowError) -> bool:
    """Nothing is left to do: every slot is verified, or no round is open after all."""
    if isinstance(done, EraflowError):
        return False
    code = (done.error or {}).get("code")
    return code in NO_ROUND or all(is_verified(receipt) or receipt.error_code in NO_ROUND for receipt in done.receipts)


def _ours(error: Exception) -> EraflowError:
    if isinstance(error, EraflowError):
        return error
    logger.debug("stopped by %s", way_to(error))
    return unexpected(error)
