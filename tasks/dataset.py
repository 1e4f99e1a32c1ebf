"""Parquet to memory-mapped matrices."""

from __future__ import annotations

from prefect import task

from eraflow import steps
from eraflow.budget import Budget
from eraflow.files import Files
from eraflow.request import Request
from eraflow.steps import Prepared
from tasks.policy import PLAIN
from tasks.progress import ShownProgress


@task(name="prepare dataset", task_run_name="prepare dataset for {recipe}", **PLAIN)
def prepare(request: Request, files: Files, recipe: str, budget: Budget) -> Prepared:
    """Decode what the recipe needs, once for each content."""
    return steps.prepare(request, files, recipe, budget, ShownProgress())
