"""Training with a hold-out, and the refit."""

from __future__ import annotations

from prefect import task

from eraflow import steps
from eraflow.budget import Budget
from eraflow.request import Request
from eraflow.result import ModelReport
from eraflow.steps import Prepared
from tasks.policy import PLAIN
from tasks.progress import ShownProgress


@task(name="train", task_run_name="train {prepared.recipe.name}", **PLAIN)
def train(request: Request, prepared: Prepared, budget: Budget) -> ModelReport:
    """Fit the recipe until the budget is over, with its progress in the dashboard."""
    return steps.train(request, prepared, budget, ShownProgress())
