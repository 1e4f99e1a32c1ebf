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
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eraflow.progress import silent
from flows import prefect_home


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
        pictures()
        found["updates"] = progress()

    with prefect_home.chosen_server(os.environ):
        trying()
    sys.stdout.write(json.dumps(found) + "\n")


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


def pictures() -> None:
    """The artifacts of two models: one of an odd name, one whose picture is too large."""
    from eraflow.result import ModelReport
    from tasks import artifacts

    def model(recipe: str) -> ModelReport:
        return ModelReport(
            recipe=recipe,
            model_id="m",
            folder=Path("nowhere"),
            device="cpu",
            rows=1000,
            features=8,
            target="target",
            epochs=2,
            refit=False,
            validation={"eras": 20, "undefined": 1, "spearman_mean": 0.02, "sharpe": None},
            untrained_spearman=-0.01,
        )

    def drawn(draw: Callable[[ModelReport], bytes], recipe: str) -> None:
        with patch.multiple("tasks.artifacts", training_png=draw, validation_png=draw):
            artifacts.training(model(recipe))
            artifacts.validation(model(recipe))

    def fails(model: ModelReport) -> bytes:
        raise ZeroDivisionError("no picture")

    drawn(lambda model: bytes(300_000), "simple-mlp")
    drawn(lambda model: bytes(300_001), "My Recipe_2")
    drawn(fails, "undrawable")


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
