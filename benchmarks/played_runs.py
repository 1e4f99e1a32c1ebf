"""Weeks of `eraflow up` in minutes: what its pinned schedules would run, one after the other in this process.

A run costs its server the same rows wherever its flow is executed, and most of its time is the start of a process. So
each run is created from its deployment and taken up as the serving process would, and then only its flow is called;
`PlayedRuns.run_apart` has one executed as in life, to compare. The local tournament's clock is moved from one moment
at which something is due to the next, and to a round's opening where a run would wait for it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from deployments.deploy import DAILY_WAIT_S, WEEKLY_WAIT_S
from eraflow.steps import POLL_S
from eraflow.weekly_config import ScheduleConfig, next_times
from flows import prefect_home
from tests.behaviour.outage import OVER, World
from tests.real_prefect import wait_until

PINNED = ScheduleConfig()
SCHEDULED = ("weekly", "daily", "watch", "scores")
WEEK = timedelta(days=7)
WAIT_S = {"weekly": WEEKLY_WAIT_S, "daily": DAILY_WAIT_S}


def due_times(after_utc: datetime) -> Iterator[tuple[datetime, str]]:
    """What is due when by the pinned schedules, without end."""
    while True:
        yield from due_in_a_week(after_utc)
        after_utc += WEEK


def due_in_a_week(after_utc: datetime) -> list[tuple[datetime, str]]:
    """What is due in the week that follows, in order."""
    found = []
    for name in SCHEDULED:
        times_utc = next_times(getattr(PINNED, name), PINNED.time_zone, after_utc, 100)
        found += [(at_utc, name) for at_utc in times_utc if at_utc <= after_utc + WEEK]
    return sorted(found)


class PlayedRuns:
    """What came due in a world whose `eraflow up` is running."""

    def __init__(self, world: World) -> None:
        """From here on Prefect in this process belongs to that world; import it nowhere before."""
        os.environ.update(world.environment, PREFECT_API_URL=world.api_url)
        prefect_home.prepare(os.environ, world.home)
        import torch
        from prefect.client.orchestration import get_client

        from flows import care_flows, round_flows

        torch.set_num_threads(1)
        for handler in logging.getLogger("eraflow").handlers:
            if isinstance(handler, logging.StreamHandler):  # what runs say goes to the server alone
                handler.setLevel(logging.CRITICAL)
        self.world = world
        self.ran: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self._client = get_client(sync_client=True)
        self._ids = {one["name"]: one["id"] for one in world.ask("deployments/filter", {})}
        self._flows: dict[str, Any] = {
            "weekly": round_flows.weekly,
            "daily": round_flows.daily,
            "watch": care_flows.watch,
            "scores": care_flows.scores,
        }
        # It begins before a Saturday's opening, because the days of the week live on its model.
        begins = self._timetable.following(world.local.now_utc())
        while begins.scheduled_utc.weekday() != 5:
            begins = self._timetable.round(begins.number + 1)
        self._due = due_times(begins.scheduled_utc - timedelta(hours=1))

    def play(self, count: int) -> float:
        """Run the next so many; returns how long that took [s]."""
        started = time.perf_counter()
        for at_utc, name in islice(self._due, count):
            self._move_to(at_utc, name)
            self.run(name)
        return time.perf_counter() - started

    def play_until_safe(self) -> None:
        """Run what is due until a round is open that has all its receipts."""
        while (number := self.world.local.open_round()) is None or not self.world.is_safe(number):
            self.play(1)

    def run(self, name: str) -> None:
        """One run of a deployment, now."""
        from prefect.flow_engine import run_flow
        from prefect.states import Pending

        created = self._client.create_flow_run_from_deployment(self._ids[name])
        # Where the serving process was quicker, it is a run of its own.
        if self._client.set_flow_run_state(created.id, Pending()).status.value == "ACCEPT":
            taken_up = self._client.read_flow_run(created.id)
            state: Any = run_flow(self._flows[name], flow_run=taken_up, return_type="state")
            ended = str(state.type.value)
        else:
            ended = self._awaited(str(created.id))
        self.ran[name] += 1
        self.states[ended] += 1

    def run_apart(self, name: str) -> None:
        """The same by the serving process, in a process of its own, as in life."""
        self._awaited(self.world.trigger(name))

    @property
    def _timetable(self) -> Any:
        return self.world.local._core.timetable

    def _move_to(self, at_utc: datetime, name: str) -> None:
        local = self.world.local
        local.move_clock(max(0.0, (at_utc - local.now_utc()).total_seconds()))
        if name in WAIT_S and local.open_round() is None:
            opens_s = (self._timetable.following(local.now_utc()).opens_at_utc - local.now_utc()).total_seconds()
            if opens_s <= WAIT_S[name]:
                local.move_clock(opens_s + POLL_S)

    def _awaited(self, identity: str) -> str:
        wait_until(lambda: self.world.run_of(identity)["state_type"] in OVER)
        return str(self.world.run_of(identity)["state_type"])
