"""Tell somebody: send an alarm to any address that apprise knows, and request the heartbeat's.

Read `ring`, `beat` and `check`; what is told stands in `alarm_texts`. An alarm may come twice but never silently not
at all: it stands in the log before it is sent. Sending raises nothing and ends in time, whatever an address does,
since the round goes on meanwhile.

Addresses hold passwords: no log line, text or error here has more of one than its scheme. The loggers of apprise and
of what it uses say nothing about what is sent from here, for the same reason.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from eraflow.alarm_texts import Alarm, Kind, alarms_of, missed, was_told
from eraflow.environment import SHORTEST_SECRET, secrets_in
from eraflow.errors import EraflowError, InputError
from eraflow.later import start
from eraflow.transport import checked_address, get, refusal
from eraflow.untold import untold, without_secrets
from eraflow.weekly_config import AlarmConfig, from_environment

if TYPE_CHECKING:
    import apprise

__all__ = ["Alarm", "alarms_of", "beat", "check", "missed", "ring", "was_told"]

logger = logging.getLogger("eraflow")

RING_LIMIT_S = 10.0
HEARTBEAT_LIMIT_S = 10.0
AGAIN_AFTER_S = 0.5
LONGEST_TITLE = 150
LONGEST_BODY = 2000


def check(config: AlarmConfig, environ: Mapping[str, str]) -> None:
    """Raises `InputError` with the dotted path of an address that cannot be used; connects to nothing."""
    for i, text in enumerate(config.urls):
        path = f"alarm.urls[{i}]"
        url = from_environment(text, path, environ).strip()
        if _parsed(url) is None:
            raise InputError(
                f"{path} must be an address that apprise knows, as ntfys://host/topic or mailtos://user:password@host,"
                f" however it is none ({_scheme(url)}); correct it"
            )
    if config.heartbeat_url:
        _heartbeat(config, environ)


def ring(alarm: Alarm, config: AlarmConfig, environ: Mapping[str, str], *, timeout_s: float = RING_LIMIT_S) -> int:
    """Tell all addresses at once; returns how many took it within `timeout_s` [s]. Raises nothing."""
    try:
        return _rung(alarm, config, environ, timeout_s)
    except Exception as found:  # what rings last must not be what stops a round
        logger.warning("the alarm %r could not be sent (%s)", alarm.title, type(found).__name__)
        return 0


def beat(config: AlarmConfig, environ: Mapping[str, str]) -> bool:
    """Request the heartbeat's address once; whether it was answered with a success. Raises nothing."""
    if not config.heartbeat_url:
        return False
    try:
        # A name server that hangs is in no time-out of the request's own.
        (outcome,) = _in_time([partial(_ask, _heartbeat(config, environ))], HEARTBEAT_LIMIT_S)
    except Exception as found:
        outcome = found
    if outcome is True:
        logger.info("the heartbeat was sent")
        return True
    logger.warning("the heartbeat could not be sent: %s", _reason(outcome, HEARTBEAT_LIMIT_S))
    return False


def _rung(alarm: Alarm, config: AlarmConfig, environ: Mapping[str, str], timeout_s: float) -> int:
    ends_at_s = time.monotonic() + timeout_s
    secrets = _secrets(config, environ)
    title = without_secrets(alarm.title, secrets)[:LONGEST_TITLE]
    body = "\n".join(without_secrets(line, secrets) for line in alarm.body.splitlines())[:LONGEST_BODY]
    good = alarm.kind in ("receipt", "test") and config.urls
    # Before anything is sent: a machine that is being switched off may not get any further.
    logger.log(logging.INFO if good else logging.WARNING, "alarm: %s | %s", title, " | ".join(body.splitlines()))
    if not config.urls:
        logger.warning("the alarm was told to nobody: alarm.urls of the configuration is empty")
        return 0
    calls = [partial(_deliver, _connected(text, i, environ), alarm.kind, title, body, ends_at_s)
             for i, text in enumerate(config.urls)]  # fmt: skip
    outcomes = _in_time(calls, ends_at_s - time.monotonic())
    for i, outcome in enumerate(outcomes):
        if outcome is not True:
            scheme = _scheme(_resolved(config.urls[i], environ))
            reason = _reason(outcome, timeout_s)
            logger.warning("alarm %d of %d could not be delivered (%s): %s", i + 1, len(outcomes), scheme, reason)
    return sum(outcome is True for outcome in outcomes)


def _connected(text: str, i: int, environ: Mapping[str, str]) -> apprise.Apprise | Exception:
    """What sends to this address, or why nothing does; made here, so that the threads import nothing."""
    try:
        found = _parsed(from_environment(text, f"alarm.urls[{i}]", environ).strip())
    except Exception as error:
        return error
    return found or InputError("it is no address that apprise knows")


def _parsed(url: str) -> apprise.Apprise | None:
    # The first use loads some hundred services, a few of which import what Python is about to drop.
    with untold(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import apprise

        asset = apprise.AppriseAsset(app_id="eraflow", app_desc="eraflow", async_mode=False)
        # Who is told is for the address to say, not for who answers there; an address may ask for it (?redirect=yes).
        asset.http_redirects = False
        service = apprise.Apprise.instantiate(url, asset=asset)
        if service is None:
            return None
        sender = apprise.Apprise(asset=asset)
        sender.add(service)
        return sender


def _deliver(sender: apprise.Apprise | Exception, kind: Kind, title: str, body: str, ends_at_s: float) -> bool:
    """Send, and once more if it failed: a dropped packet should not cost an alarm."""
    if isinstance(sender, Exception):
        raise sender
    import apprise

    types = {"failure": apprise.NotifyType.FAILURE, "missed": apprise.NotifyType.FAILURE,
             "receipt": apprise.NotifyType.SUCCESS, "test": apprise.NotifyType.INFO}  # fmt: skip
    send = partial(
        sender.notify, body, title, types.get(kind, apprise.NotifyType.WARNING), body_format=apprise.NotifyFormat.TEXT
    )
    if send():
        return True
    if time.monotonic() + AGAIN_AFTER_S >= ends_at_s:
        return False
    time.sleep(AGAIN_AFTER_S)
    return bool(send())


def _heartbeat(config: AlarmConfig, environ: Mapping[str, str]) -> str:
    name = "alarm.heartbeat_url"
    return checked_address(from_environment(config.heartbeat_url, name, environ).strip(), name)


def _ask(url: str) -> bool:
    with get(url, "the heartbeat's address") as body:
        if not 200 <= body.status < 300:
            raise refusal(body.status, "the heartbeat's address")
        return True


Outcome = bool | Exception | None


def _in_time(calls: Sequence[Callable[[], bool]], limit_s: float) -> list[Outcome]:
    """What each call returned or raised, all at once; None for one that has not come back after `limit_s` [s].

    Such a one is left behind in a thread that does not keep the process alive.
    """
    outcomes: list[Outcome] = [None] * len(calls)
    overs = [threading.Event() for _ in calls]

    def run(i: int) -> None:
        with untold():
            try:
                outcomes[i] = calls[i]()
            except Exception as error:
                outcomes[i] = error
            finally:
                overs[i].set()

    ends_at_s = time.monotonic() + limit_s
    for i, over in enumerate(overs):
        try:
            start(partial(run, i))
        except RuntimeError as error:  # no thread for this one, which costs no other
            outcomes[i] = error
            over.set()
    for over in overs:
        over.wait(max(0.0, ends_at_s - time.monotonic()))
    return list(outcomes)


def _reason(outcome: Outcome, limit_s: float) -> str:
    """Why it was not told; of foreign errors the kind alone, as their texts hold addresses."""
    if isinstance(outcome, EraflowError):
        return outcome.message
    if isinstance(outcome, Exception):
        return type(outcome).__name__
    return "it was refused or not reached" if outcome is False else f"no answer within {limit_s:g} s"


def _resolved(text: str, environ: Mapping[str, str]) -> str:
    try:
        return from_environment(text, "", environ).strip()
    except InputError:
        return ""


def _secrets(config: AlarmConfig, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What must not stand in an alarm even if an error's text brings it along."""
    addresses = {_resolved(text, environ) for text in (*config.urls, config.heartbeat_url)}
    found = {*secrets_in(environ), *(address for address in addresses if len(address) >= SHORTEST_SECRET)}
    return tuple(sorted(found, key=len, reverse=True))


def _scheme(url: str) -> str:
    named = re.match(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://", url)
    return f"{named[1].lower()}://" if named else "without a scheme"
