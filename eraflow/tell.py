"""After a round: who is told, and that this machine is alive. Costs the round nothing, whatever fails."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime

from eraflow import alarms
from eraflow.alarms import Alarm, alarms_of, was_told
from eraflow.errors import NO_ROUND, EraflowError
from eraflow.ledger import Ledger
from eraflow.request import Request
from eraflow.result import RoundResult
from eraflow.rounds import duration_text
from eraflow.store import Store
from eraflow.tournament import Tournament
from eraflow.untold import without_secrets
from eraflow.verdict import is_verified
from eraflow.weekly_config import AlarmConfig, read_configuration

logger = logging.getLogger("eraflow")


def tell(request: Request, result: RoundResult) -> None:
    """Raise the alarms of a round that is over, and request the heartbeat if all its slots are verified.

    What an earlier attempt has told of this round is not told again, except for what is still wrong.
    """
    if not request.submit or not request.config.slots:
        return
    config = alarm_config(request)
    for alarm in _alarms(request, result, config):
        ring(request, alarm, config)
    if config.heartbeat_url and result.receipts and all(is_verified(receipt) for receipt in result.receipts):
        alarms.beat(config, os.environ)


def alarm_config(request: Request) -> AlarmConfig:
    """Whom to tell, read when it is needed; nobody where the file has gone or is wrong, which is said."""
    try:
        return read_configuration(request.config_file).alarm
    except EraflowError as error:
        logger.warning("alarms are only in this log: %s", error.message)
        return AlarmConfig()


def ring(request: Request, alarm: Alarm, config: AlarmConfig) -> int:
    """Raise one alarm and keep it in the ledger; returns how many addresses took it."""
    # Where nobody is to be told, what is wrong stands in the log already.
    told = alarms.ring(alarm, config, os.environ) if config.urls else 0
    try:
        ledger = Ledger(Store.open(request.home).ledger_path, Tournament.from_environment().url)
        ledger.note_alarm(alarm.round, alarm.kind, alarm.title, told)
    except EraflowError as error:
        logger.warning("the alarm could not be kept: %s", error.message)
    return told


def _alarms(request: Request, result: RoundResult, config: AlarmConfig) -> list[Alarm]:
    now_utc = datetime.now(UTC)
    found = alarms_of(result, config, now_utc, train=request.train)
    if request.wait_s and (why := _never_opened(result)):
        title = f"eraflow: no round opened within {duration_text(request.wait_s)}"
        body = f"""What happened:
- {without_secrets(why)}
What it means: If a round is open all the same, it has no submission from this run.
What to do now: Look at the tournament's timetable, then at `eraflow status`; `eraflow weekly` plays a round by hand."""
        found.append(Alarm(kind="failure", round=None, title=title, body=body))
    try:
        notes = Ledger(Store.open(request.home).ledger_path, Tournament.from_environment().url).alarms(50)
    except EraflowError:
        notes = []
    return [alarm for alarm in found if not was_told(alarm, notes, now_utc)]


def _never_opened(result: RoundResult) -> str | None:
    """What the tournament said instead of an open round; None if that was not it."""
    told = [(receipt.error_code, receipt.error_message) for receipt in result.receipts]
    told += [(result.error["code"], result.error["message"])] if result.error else []
    return next((str(why) for code, why in told if result.round is None and code in NO_ROUND), None)
