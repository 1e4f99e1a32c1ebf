"""Live predictions."""

from __future__ import annotations

from prefect import task

from eraflow import fallback, steps
from eraflow.fallback import StandIn
from eraflow.request import Request
from eraflow.result import ModelReport
from eraflow.rounds import Round
from eraflow.steps import Predicted, Prepared
from tasks.policy import NETWORK, PLAIN


@task(name="predict", task_run_name="predict with {model.recipe}", **PLAIN)
def predict(request: Request, prepared: Prepared, model: ModelReport) -> Predicted:
    """One prediction for each live id of this round."""
    return steps.predict(request, prepared, model)


@task(name="stand in", task_run_name="stand in for {recipe}", timeout_seconds=1800, **NETWORK)
def stand_in(request: Request, opened: Round, recipe: str, why: str, fresh: ModelReport | None) -> StandIn:
    """Predictions of the newest good model, or of the benchmark, on this round's live data."""
    return fallback.stand_in(request, opened, recipe, why, fresh)
