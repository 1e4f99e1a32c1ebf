"""The Prefect flow of the weekly round. Import `flows.prefect_home` and prepare it first."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Completed, Failed

from eraflow.request import Request
from eraflow.result import RoundResult, headline
from eraflow.weekly import Steps, play
from tasks import artifacts, dataset, files, predictions, report, submission, tournament, training

TASKS = Steps(
    find_slots=tournament.find_slots,
    open_round=tournament.open_round,
    look_up=submission.look_up,
    gather_files=files.gather_files,
    prepare=dataset.prepare,
    train=training.train,
    predict=predictions.predict,
    submit_slot=submission.submit_slot,
    report=report.report,
)


@flow(name="weekly", persist_result=False, validate_parameters=True)
def weekly(request: Request) -> State[RoundResult]:
    """The open round from nothing to verified receipts. Completed only if every slot is safe."""
    result = play(request, TASKS)
    artifacts.receipts(result)
    ended = Failed if result.exit_code else Completed
    return ended(message=headline(result), data=result)
