"""Tries the tasks' common parts inside a real flow run, and prints what came of it as JSON.

Run as a program by the tests of this folder: Prefect is not imported into their own process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eraflow.progress import silent
from eraflow.request import make_request
from flows import prefect_home
from tests.eraflow.made_up import failed, model_of, round_of, sent
from tests.eraflow.raw_server import Server, never


def main(home: Path) -> None:
    """Everything, under the server that the environment names."""
    prefect_home.prepare(os.environ, home)
    from prefect import flow

    found: dict[str, Any] = {"policies": policies()}

    @flow(name="trying")
    def trying() -> None:
        from prefect.runtime import flow_run

        found["run"] = str(flow_run.id)
        found["tries"] = tries()
        found["timeouts"] = [timed_out(lambda: time.sleep(60)), timed_out(blocked)]
        found["harmless"] = harmless()
        found["hung_s"] = hung_s()
        shown(home)
        named()
        named()
        found["updates"] = progress()

    @flow(name="again")
    def again() -> None:
        from prefect.runtime import flow_run

        found["again"] = str(flow_run.id)
        named()

    with prefect_home.chosen_server(os.environ):
        trying()
        again()
    sys.stdout.write(json.dumps(found) + "\n")


def named() -> None:
    """Say which round the run is at."""
    from tasks.run import describe_run

    describe_run(tags=["simple-mlp"], round_number=77)


def policies() -> dict[str, dict[str, Any]]:
    """What is set for each task of the weekly flow."""
    from prefect.cache_policies import NO_CACHE

    from flows.round_flows import TASKS

    return {
        name: {
            "cached": task.cache_policy != NO_CACHE,
            "persisted": task.persist_result,
            "timeout_s": task.timeout_seconds,
            "retries": task.retries,
            "tags": sorted(task.tags),
        }
        for name, task in vars(TASKS).items()
    }


def tries() -> dict[str, int]:
    """How often a network task is tried for each kind of error."""
    from prefect import task

    from eraflow import errors
    from tasks.policy import NETWORK

    counted: dict[str, int] = {}
    kinds: list[type[Exception]] = [
        errors.TransientError,
        errors.RefusedError,
        errors.ClosedError,
        errors.CredentialsError,
        errors.UnknownOutcomeError,
        errors.DataError,
        ValueError,
        TimeoutError,
    ]
    for kind in kinds:

        @task(**{**NETWORK, "retry_delay_seconds": 0})
        def failing(kind: type[Exception] = kind) -> None:
            counted[kind.__name__] = counted.get(kind.__name__, 0) + 1
            raise kind("it went wrong")

        state = failing(return_state=True)
        assert type(state.result(raise_on_failure=False)) is kind
    return counted


def timed_out(body: Callable[[], object]) -> str:
    """How a directly called task ends that does not come back within its time."""
    from prefect import task

    from tasks.policy import PLAIN

    @task(timeout_seconds=0.5, **PLAIN)
    def stuck() -> None:
        body()

    return str(stuck(return_state=True).name)


def blocked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_connection(silent.getsockname()) as waiting:
        waiting.recv(1)


def harmless() -> list[object]:
    """What comes back from calls that fail: the API refuses the first, the second raises."""
    from prefect.artifacts import create_markdown_artifact

    from tasks.artifacts import show

    def broken() -> None:
        raise RuntimeError("two\nlines")

    return [
        show("artifact", lambda: create_markdown_artifact(markdown="text", key="Not A Key!")),
        show("other artifact", broken),
        str(show("third", lambda: "shown")),
    ]


def hung_s() -> float:
    """How long a server holds up a call that says it is well and answers nothing else [s]."""
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import SyncClientContext

    from tasks.artifacts import show

    server = Server(never)
    with server.running() as url, SyncClientContext() as of_run, patch("tasks.artifacts.LIMIT_S", 0.2):
        client = of_run.client._client
        there, client.base_url = client.base_url, f"{url}/api"
        started = time.monotonic()
        show("page", lambda: create_markdown_artifact(markdown="text", key="page"))
        client.base_url = there
        return time.monotonic() - started


def shown(home: Path) -> None:
    """The artifacts of two models, of which one has an odd name, of one that has gone, of weeks and of scores."""
    from tasks import artifacts

    report = model_of(home / "models" / "simple-mlp-1")
    artifacts.model(report)
    artifacts.model(replace(report, recipe="My Recipe_2"))
    artifacts.model(replace(report, recipe="gone", folder=home / "nowhere"))
    request = make_request(home=home, slots=["main"], recipe="simple-mlp")
    done = round_of(sent("main", status="already-submitted"))
    for result in (done, done, round_of(failed("main")), round_of(failed("main")), done, done):
        artifacts.week_ends(request, result)
    artifacts.scores("Round 1430: 0.0123", "| round |\n|---|\n| 1430 |", None)


def progress() -> dict[str, int]:
    """How often the dashboard is told, by stage: a long one, one whose end is unknown, a short one."""
    from tasks.artifacts import show
    from tasks.progress import ShownProgress

    told: dict[str, int] = {}

    def counting(what: str, call: Callable[[], Any]) -> Any:
        told[what] = told.get(what, 0) + 1
        return show(what, call)

    watched = ShownProgress(silent)
    started = time.monotonic()
    with patch("tasks.progress.show", counting):
        while (passed_s := time.monotonic() - started) < 2.5:
            watched("long", passed_s, 2.5, "loss 0.1")
            watched("unknown", 0, 0)
            time.sleep(0.002)
        watched("long", 2.5, 2.5, "loss 0.05")
        for step in range(100):
            watched("short", step + 1, 100)
    return told


if __name__ == "__main__":
    main(Path(os.environ["ERAFLOW_HOME"]))
