"""The weekly round under Prefect, and without it if Prefect itself stands in the way.

The chain stands in `eraflow.weekly.play`; `flows.weekly_flow` is the flow that plays it with each step as a task.
"""

from __future__ import annotations

import logging
import os

from eraflow.progress import for_this_terminal
from eraflow.request import Request
from eraflow.result import RoundResult
from eraflow.store import Store
from eraflow.weekly import plain_steps, play
from flows import prefect_home

logger = logging.getLogger("eraflow")


def run_weekly(request: Request) -> RoundResult:
    """Play the round under Prefect; if Prefect fails before the round is over, play it without.

    Playing twice is harmless: the ledger and the tournament are asked before anything is sent.
    """
    results: list[RoundResult] = []
    try:
        _run_flow(request, results)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Anything may come out of a broken Prefect, its own signals included, and none of it may cost a round.
        logger.warning("Prefect failed (%s: %s)", type(error).__name__, error)
    if results:
        return results[-1]
    logger.warning("the round goes on without Prefect")
    return play(request, plain_steps(for_this_terminal()))


def _run_flow(request: Request, results: list[RoundResult]) -> None:
    prefect_home.prepare(os.environ, Store.open(request.home).home)
    with prefect_home.chosen_server() as url:
        # Meanwhile a temporary server starts.
        from flows.weekly_flow import RESULTS, weekly

        prefect_home.wait_until_ready(url)
        token = RESULTS.set(results)
        try:
            state = weekly(request, return_state=True)
        finally:
            RESULTS.reset(token)
    if not results:
        logger.warning("Prefect ended the run as %s: %s", state.name, state.message)
