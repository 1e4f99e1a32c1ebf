"""Submitting, once, and reading back."""

from __future__ import annotations

from prefect import task

from eraflow import steps
from eraflow.receipt import Receipt
from eraflow.request import Request
from eraflow.rounds import Round
from eraflow.steps import Predicted
from eraflow.tournament import Slot
from tasks.policy import NETWORK


@task(name="look up", task_run_name="look up {slot.name}", timeout_seconds=600, **NETWORK)
def look_up(request: Request, opened: Round, slot: Slot) -> Receipt | None:
    """What the tournament already has of this slot."""
    return steps.look_up(request, opened, slot)


@task(name="submit", task_run_name="submit {slot.name}", timeout_seconds=1800, **NETWORK)
def submit_slot(request: Request, opened: Round, slot: Slot, predicted: Predicted) -> Receipt:
    """Send the predictions of one slot; the ledger makes a repetition harmless."""
    return steps.submit_slot(request, opened, slot, predicted)
