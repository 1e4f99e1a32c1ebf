"""The round's report."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from eraflow import weekly
from eraflow.request import Request
from eraflow.result import RoundResult
from tasks.policy import PLAIN


@task(name="report", **PLAIN)
def report(request: Request, result: RoundResult) -> Path:
    """One page for the round, with its pictures."""
    return weekly.report(request, result)
