"""Registers the deployments with a running Prefect server and serves them: `python -m deployments.deploy CONFIG`.

The server is the one at `PREFECT_API_URL`. Of several attempts in a round's window the first that succeeds makes the
others no-ops: the tournament and the ledger are asked before anything is sent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eraflow.errors import EraflowError, InputError
from eraflow.request import Request, make_request
from eraflow.store import Store, default_home
from flows import prefect_home
from tasks.health import answers

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

# The weekly round opens on Saturday at 12:00 UTC, often minutes later, and closes on Sunday at 14:00 UTC.
WEEKLY_CRONS = ("10 12,13,16,20 * * 6", "10 2,8,12 * * 0")
TIME_ZONE = "UTC"


def weekly_deployment(request: Request) -> RunnerDeployment:
    """The scheduled weekly round. One run at a time: a second one that comes due meanwhile is cancelled."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows.weekly_flow import weekly

    return RunnerDeployment.from_flow(
        weekly,
        name="weekly",
        description="The open round from nothing to verified receipts.",
        schedules=[CronSchedule(cron=cron, timezone=TIME_ZONE) for cron in WEEKLY_CRONS],
        parameters={"request": request},
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        tags=["weekly"],
        # A file entrypoint would rename the module and shadow packages of the same name.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def serve(config_file: Path, environ: Mapping[str, str]) -> None:
    """Serve the deployments of this configuration until stopped.

    Raises `InputError` for a wrong configuration, or if there is no server to serve them from: Prefect itself would
    go on with a temporary one, which schedules nothing.
    """
    request = make_request(home=Store.open(default_home(environ)).home, config_file=config_file)
    url = environ.get("PREFECT_API_URL")
    if not url:
        raise InputError(
            "PREFECT_API_URL must name a running Prefect server, however it is not set; start one with"
            " `prefect server start`, then set it"
        )
    if not answers(url):
        raise InputError(
            f"a Prefect server must answer at PREFECT_API_URL, however {url} does not; start or correct it"
        )
    prefect_home.prepare(os.environ, request.home)
    import prefect

    # By default a stop would pause the deployment and delete its scheduled runs.
    prefect.serve(weekly_deployment(request), pause_on_shutdown=False)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    try:
        if len(arguments) != 1:
            raise InputError("one configuration file must be named: python -m deployments.deploy weekly.toml")
        serve(Path(arguments[0]), os.environ)
    except EraflowError as error:
        sys.stderr.write(f"eraflow: {error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
