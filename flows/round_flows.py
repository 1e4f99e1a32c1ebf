"""The Prefect flows that play a round: `weekly`, `daily`, and `manual` with its configuration as a form.

Import `flows.prefect_home` and prepare it first. The chain itself stands in `eraflow.weekly.play`.
"""

from __future__ import annotations

import logging
import os
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import State, flow, runtime
from prefect.states import Completed, Failed

from eraflow.alarms import Alarm
from eraflow.errors import NO_ROUND
from eraflow.request import Request, make_request, recipe_names
from eraflow.result import RoundResult
from eraflow.rounds import duration_text
from eraflow.status import look
from eraflow.store import default_home, utc_text
from eraflow.tell import alarm_config, ring, tell
from eraflow.verdict import is_verified, verdict
from eraflow.weekly import Steps, is_ours, plain_steps, play
from eraflow.weekly_config import WeeklyConfig, default_config_file
from tasks import artifacts, dataset, files, predictions, report, submission, tournament, training
from tasks.progress import ShownProgress
from tasks.run import describe_run

logger = logging.getLogger("eraflow")

TASKS = Steps(
    find_slots=tournament.find_slots,
    open_round=tournament.open_round,
    look_up=submission.look_up,
    find_budget=tournament.find_budget,
    gather_files=files.gather_files,
    prepare=dataset.prepare,
    train=training.train,
    predict=predictions.predict,
    stand_in=predictions.stand_in,
    submit_slot=submission.submit_slot,
    report=report.report,
)
# Where a caller finds the result even if Prefect fails after the round is over.
RESULTS: ContextVar[list[RoundResult] | None] = ContextVar("RESULTS", default=None)


def tell_of_crash(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ARG001  # Prefect's signature
    """Raise the alarm for a run that was ended from outside before its round was safe.

    Runs where the run was started from, which is still alive; `flow_run` has the name that it had before it began.
    """
    request = make_request(home=default_home(os.environ), submit=False)
    given = (flow_run.parameters or {}).get("request") or {}
    if config_file := given.get("config_file"):
        request = replace(request, config_file=Path(config_file))
    found = look(request.home, os.environ, request.config_file)
    missing = [receipt.slot for receipt in found.receipts if not is_verified(receipt)]
    opened = found.round if found.is_open else None
    if opened and found.receipts and not missing:
        return  # its work was done
    title = f"eraflow: a {flow.name} run was ended from outside"
    waits = f"Whether a round is open cannot be asked: {found.trouble}." if found.trouble else "No round is open yet."
    if opened:
        title += f", round {opened.number} is not safe, {duration_text(opened.left_s(found.now_utc))} left"
        waits = f"Without a verified submission for round {opened.number}: {', '.join(missing) or 'every slot'}."
    alarm = Alarm(
        kind="failure",
        round=opened.number if opened else None,
        title=title,
        body=f"""What happened:
- the process of the run died or was stopped before the round was over
What it means: {waits} The next attempt goes on where this one stopped.
What to do now: Look at `eraflow status` for when that is; `eraflow weekly` goes on at once. The machine's log says
what ended the process (memory?).""",
    )
    ring(request, alarm, alarm_config(request))


@flow(name="weekly", flow_run_name="weekly", persist_result=False, on_crashed=[tell_of_crash])
def weekly(request: Request) -> State[RoundResult]:
    """The open round from nothing to verified receipts. Completed only if every slot is safe."""
    return _played(request)


@flow(name="daily", flow_run_name="daily", persist_result=False, on_crashed=[tell_of_crash])
def daily(request: Request) -> State[RoundResult]:
    """The open round with the newest good model: live data alone, in time for a window of one hour."""
    return _played(request)


@flow(name="manual", flow_run_name="manual", persist_result=False)
def manual(
    config: WeeklyConfig,
    recipe: str | None = None,
    overrides: dict[str, str] | None = None,
    train: bool = True,
    submit: bool = True,
    resubmit: bool = False,
) -> State[RoundResult]:
    """The open round with everything as it is set here.

    Args:
        config: slots and their recipes, data version, what may stand in, and what happens after the deadline
        recipe: this recipe for every slot, or for a run without slots
        overrides: parts of every recipe replaced, as `training.epochs` to `6`
        train: if not, the newest good model predicts
        submit: if not, only train and validate
        resubmit: replace a submission that is already there
    """
    home = default_home(os.environ)
    made = make_request(
        home=home,
        form=config,
        recipe=recipe,
        assignments=overrides,
        submit=submit and bool(config.slots),
        resubmit=resubmit,
        train=train,
    )
    # The form is the whole configuration; the file says only who is told.
    return _played(replace(made, config_file=default_config_file(home)))


def _played(request: Request) -> State[RoundResult]:
    describe_run(tags=recipe_names(request))
    # A deployment's parameters were written when it was registered; what is replaced counts from this run's own start.
    asked_at_utc = utc_text(runtime.flow_run.scheduled_start_time, "microseconds")
    request = replace(request, asked_at_utc=max(request.asked_at_utc, asked_at_utc))
    result = play(request, TASKS)
    results = RESULTS.get()
    if results is not None:
        results.append(result)
    else:
        if not is_ours(result):
            logger.warning("Prefect may have failed inside a task; the round is played again without it")
            result = play(request, plain_steps(ShownProgress()))
        tell(request, result)
    artifacts.checks(result)
    artifacts.week_ends(request, result)
    return _ended(request, result)


def _ended(request: Request, result: RoundResult) -> State[RoundResult]:
    if not request.wait_s and (why := _no_round(result)):
        # Nobody waited for it, so nothing is wrong.
        return Completed(message=why, data=result)
    ended = Failed if result.exit_code else Completed
    return ended(message=_message(result), data=result)


def _no_round(result: RoundResult) -> str | None:
    """Why no round was played, if it is because none was open; with slots each of them says so."""
    told = [(result.error["code"], result.error["message"])] if result.error else []
    told = told or [(receipt.error_code, receipt.error_message) for receipt in result.receipts]
    is_none = result.round is None and bool(told) and all(code in NO_ROUND for code, _ in told)
    return str(told[0][1]) if is_none else None


def _message(result: RoundResult) -> str:
    """The verdict, and for what is not safe the reasons, each once."""
    reasons = [f"{receipt.slot}: {receipt.error_message}" for receipt in result.receipts if receipt.exit_code]
    if result.error:
        reasons = [str(result.error["message"])]
    if result.receipts and all(receipt.status == "already-submitted" for receipt in result.receipts):
        reasons.append("this run sent nothing, as all of it was submitted before")
    return "; ".join([verdict(result).sentence, *reasons])
