"""How a run is found in the dashboard: its name and its tags."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from tasks.artifacts import show


def describe_run(*, name: str | None = None, tags: Sequence[str] = ()) -> None:
    """Give the flow run that this is part of a name, and `tags` beside those that it began with.

    Not with Prefect's `tags` around the flow: tasks inherit those, and ask the server about each before they start.
    """

    def describe() -> None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name, tags=list(dict.fromkeys([*flow_run.tags, *tags])))

    show("name of the run", describe)
