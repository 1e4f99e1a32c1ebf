"""Live predictions."""

from __future__ import annotations

from prefect import task

from eraflow import steps
from eraflow.request import Request
from eraflow.result import ModelReport
from eraflow.steps import Predicted, Prepared
from tasks.policy import PLAIN


@task(name="predict", task_run_name="predict with {model.recipe}", **PLAIN)
def predict(request: Request, prepared: Prepared, model: ModelReport) -> Predicted:
    """One prediction for each live id of this round."""
    return steps.predict(request, prepared, model)
