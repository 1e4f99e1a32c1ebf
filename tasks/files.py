"""The round's files."""

from __future__ import annotations

from prefect import task

from eraflow import steps
from eraflow.budget import Budget
from eraflow.files import Files
from eraflow.request import Request
from eraflow.rounds import Round
from tasks import artifacts
from tasks.policy import NETWORK
from tasks.progress import ShownProgress


@task(name="gather files", task_run_name="gather files", timeout_seconds=6 * 3600, **NETWORK)
def gather_files(request: Request, opened: Round | None, budget: Budget) -> Files:
    """Download or adopt the files, verified; what changed is shown in the dashboard."""
    found = steps.gather_files(request, opened, budget, ShownProgress())
    artifacts.data(request, found)
    return found
