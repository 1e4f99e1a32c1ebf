"""The Prefect flow of the weekly round. Import `flows.prefect_home` and prepare it first."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace

from prefect import State, flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from eraflow.request import Request, recipe_names
from eraflow.result import RoundResult
from eraflow.store import utc_text
from eraflow.verdict import verdict
from eraflow.weekly import Steps, play
from tasks import artifacts, dataset, files, predictions, report, submission, tournament, training
from tasks.run import describe_run

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


@flow(name="weekly", flow_run_name="weekly", persist_result=False)
def weekly(request: Request) -> State[RoundResult]:
    """The open round from nothing to verified receipts. Completed only if every slot is safe."""
    describe_run(tags=recipe_names(request))
    # A deployment's parameters were written when it was registered; what is replaced counts from this run's own start.
    asked_at_utc = utc_text(flow_run.scheduled_start_time, "microseconds")
    request = replace(request, asked_at_utc=max(request.asked_at_utc, asked_at_utc))
    result = play(request, TASKS)
    results = RESULTS.get()
    if results is not None:
        results.append(result)
    artifacts.checks(result)
    artifacts.receipts(result)
    ended = Failed if result.exit_code else Completed
    return ended(message=_message(result), data=result)


def _message(result: RoundResult) -> str:
    """The verdict, and for what is not safe the reasons, each once."""
    reasons = [f"{receipt.slot}: {receipt.error_message}" for receipt in result.receipts if receipt.exit_code]
    if result.error:
        reasons = [str(result.error["message"])]
    return "; ".join([verdict(result).sentence, *reasons])
