"""Training with a hold-out, and the refit."""

from __future__ import annotations

from prefect import task

from eraflow import weekly
from eraflow.request import Request
from eraflow.result import ModelReport
from eraflow.weekly import Prepared
from tasks import artifacts
from tasks.policy import PLAIN
from tasks.progress import shown_progress


@task(name="train", **PLAIN)
def train(request: Request, prepared: Prepared) -> ModelReport:
    """Fit the recipe; the curve and the validation by era are shown as artifacts."""
    with shown_progress() as progress:
        model = weekly.train(request, prepared, progress)
    artifacts.training(model)
    artifacts.validation(model)
    return model
