"""How a run is found in the dashboard: its name and its tags."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterTags
from prefect.runtime import flow_run

from tasks.artifacts import show


def describe_run(*, tags: Sequence[str] = (), round_number: int | None = None) -> None:
    """Give the flow run that this is part of `tags` beside those that it began with, and with `round_number` a tag
    and a name that tell the round, and the how manieth attempt at it this is.

    Not with Prefect's `tags` around the flow: tasks inherit those, and ask the server about each before they start.
    """

    def describe() -> None:
        with get_client(sync_client=True) as client:
            of_round = [] if round_number is None else [f"round-{round_number}"]
            name = None if round_number is None else f"round {round_number}, attempt {_attempt(client, of_round)}"
            known = dict.fromkeys([*flow_run.tags, *of_round, *tags])
            client.update_flow_run(flow_run.id, name=name, tags=list(known))

    show("name of the run", describe)


def _attempt(client: SyncPrefectClient, of_round: list[str]) -> int:
    """1 for the first run on the round that this server knows of."""
    others = FlowRunFilter(tags=FlowRunFilterTags(all_=of_round), id=FlowRunFilterId(any_=None, not_any_=[flow_run.id]))
    return 1 + client.count_flow_runs(flow_run_filter=others)
