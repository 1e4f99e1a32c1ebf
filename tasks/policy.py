"""What all tasks have in common: nothing is cached, and only passing faults of the network are tried again."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from eraflow.errors import TransientError

PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


def passing_fault(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001  # Prefect's signature
    """Whether the failure may go away by itself. Refused keys and closed rounds never do."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


# The door to the network has tried for about twenty seconds by itself before a task is asked again.
NETWORK: dict[str, Any] = {
    **PLAIN,
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": passing_fault,
}
