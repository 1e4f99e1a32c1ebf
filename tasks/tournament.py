"""What the tournament is asked before a round: the slots and the round itself."""

from __future__ import annotations

from prefect import task

from eraflow import weekly
from eraflow.request import Request
from eraflow.rounds import Round
from eraflow.tournament import Slot
from tasks import artifacts
from tasks.policy import NETWORK


@task(name="find slots", timeout_seconds=300, **NETWORK)
def find_slots(request: Request) -> dict[str, Slot]:
    """The account's slots that this run is for."""
    return weekly.find_slots(request)


@task(name="open round", timeout_seconds=300, **NETWORK)
def open_round(request: Request) -> Round:
    """The open round and its deadline, shown as an artifact."""
    opened = weekly.open_round(request)
    artifacts.round_and_deadline(opened)
    return opened
