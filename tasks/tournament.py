"""What the tournament is asked before a round: the slots and the round itself."""

from __future__ import annotations

from prefect import task

from eraflow import steps
from eraflow.budget import Budget
from eraflow.request import Request, recipe_names
from eraflow.rounds import Round
from eraflow.tournament import Slot
from tasks import artifacts
from tasks.policy import NETWORK
from tasks.run import describe_run


@task(name="find slots", task_run_name="find slots", timeout_seconds=900, **NETWORK)
def find_slots(request: Request) -> dict[str, Slot]:
    """The account's slots that this run is for."""
    return steps.find_slots(request)


@task(name="open round", task_run_name="open round", timeout_seconds=4 * 3600, **NETWORK)
def open_round(request: Request) -> Round:
    """The open round and its deadline, waited for and shown in the dashboard and in the run's name."""
    opened = steps.open_round(request)
    describe_run(tags=recipe_names(request), round_number=opened.number)
    artifacts.week_begins(request, opened)
    return opened


@task(name="find budget", task_run_name="find budget", timeout_seconds=900, **NETWORK)
def find_budget(request: Request, recipe_of_slots: tuple[str, ...]) -> Budget:
    """How long a fresh model may take before the deadline."""
    return steps.find_budget(request, recipe_of_slots)
