"""The weekly round under Prefect, and without it if Prefect itself stands in the way.

The chain stands in `eraflow.weekly.play`; `flows.round_flows` is the flow that plays it with each step as a task.
"""

from __future__ import annotations

import logging
import os

from eraflow.errors import EraflowError, StorageError
from eraflow.progress import for_this_terminal
from eraflow.request import Request
from eraflow.result import RoundResult, error_entry
from eraflow.store import Store
from eraflow.tell import alarm_config, tell
from eraflow.weekly import is_ours, plain_steps, play
from flows import prefect_home

logger = logging.getLogger("eraflow")


def run_weekly(request: Request) -> RoundResult:
    """Play the round under Prefect; if Prefect fails before the round is over, play it without.

    Playing twice is harmless: the ledger and the tournament are asked before anything is sent. Without a home that can
    be written to there is no ledger, so nothing is played.
    """
    try:
        Store.open(request.home)
    except StorageError as error:
        return refused(request, error)
    results: list[RoundResult] = []
    failure = ""
    try:
        failure = _run_flow(request, results)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Anything may come out of a broken Prefect, its own signals included, and none of it may cost a round.
        failure = f"{type(error).__name__}: {error}"
    if results and is_ours(results[-1]):
        if failure:
            logger.warning("Prefect failed when the round was over (%s)", failure)
        result = results[-1]
    else:
        logger.warning("Prefect failed (%s); the round goes on without it", failure or "as the errors say")
        result = play(request, plain_steps(for_this_terminal()))
    tell(request, result)
    return result


def refused(request: Request, error: EraflowError) -> RoundResult:
    """A round that was not begun, because there are no keys for it or there is nowhere to keep what was sent; who is
    to be told is told.
    """
    result = RoundResult(round=None, error=error_entry(error))
    if alarm_config(request).urls:
        tell(request, result)
    return result


def _run_flow(request: Request, results: list[RoundResult]) -> str:
    """Run the flow; its result goes into `results`. Returns how it ended if there is none."""
    prefect_home.prepare(os.environ, Store.open(request.home).home)
    with prefect_home.chosen_server(os.environ) as url:
        # Meanwhile a temporary server starts.
        from flows.round_flows import RESULTS, daily, weekly

        prefect_home.wait_until_ready(url)
        token = RESULTS.set(results)
        try:
            played = weekly if request.train else daily
            state = played(request, return_state=True)
        finally:
            RESULTS.reset(token)
    return "" if results else f"the run ended as {state.name}: {state.message}"
