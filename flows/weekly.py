"""The weekly round as a Prefect flow: `eraflow.weekly.play` with each step as a task.

The chain itself stands in `eraflow.weekly.play`, so that the same round can be played without Prefect.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from eraflow.progress import for_this_terminal
from eraflow.request import Request
from eraflow.result import RoundResult
from eraflow.store import Store
from eraflow.weekly import plain_steps, play
from flows import prefect_home

if TYPE_CHECKING:
    from prefect import State

logger = logging.getLogger("eraflow")


def run_weekly(request: Request) -> RoundResult:
    """Play the round under Prefect; if Prefect itself stands in the way, play it without.

    Playing twice is harmless: the ledger and the tournament are asked before anything is sent.
    """
    prefect_home.prepare(os.environ, Store.open(request.home).home)
    try:
        from flows.weekly_flow import weekly

        with prefect_home.reachable_server():
            state: State[Any] = weekly(request, return_state=True)
            found = state.result(raise_on_failure=False)
        if isinstance(found, RoundResult):
            return found
        logger.warning("Prefect ended the run as %s (%s); the round goes on without it", state.name, state.message)
    except Exception as error:
        # Anything may come out of a broken Prefect, and none of it may cost a round.
        logger.warning("Prefect failed (%s: %s); the round goes on without it", type(error).__name__, error)
    return play(request, plain_steps(for_this_terminal()))
