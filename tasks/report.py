"""The round's report, and its models in the dashboard."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from eraflow import steps
from eraflow.request import Request
from eraflow.result import RoundResult
from tasks import artifacts
from tasks.policy import PLAIN


@task(name="report", task_run_name="report", timeout_seconds=600, **PLAIN)
def report(request: Request, result: RoundResult) -> Path:
    """One page for the round. Everything is drawn here, when nothing waits to be sent any more."""
    path = steps.report(request, result)
    for model in result.models:
        artifacts.model(model)
    return path
