"""Registers the deployments with a running Prefect server and serves them: `python -m deployments.deploy CONFIG`.

The server is the one at `PREFECT_API_URL`. Of several attempts in a round's window the first that succeeds makes the
others no-ops: the tournament and the ledger are asked before anything is sent.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from eraflow.request import Request, make_request
from eraflow.store import Store, default_home
from flows import prefect_home

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
        schedules=[CronSchedule(cron=cron, timezone=TIME_ZONE) for cron in WEEKLY_CRONS],
        parameters={"request": request},
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        tags=["weekly"],
        # A file entrypoint would rename the module and shadow packages of the same name.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def main(config_file: Path) -> None:
    """Serve the deployments of this configuration until stopped."""
    home = Store.open(default_home(os.environ)).home
    request = make_request(home=home, config_file=config_file)
    prefect_home.prepare(os.environ, home)
    from prefect import serve

    # By default a stop would pause the deployment and delete its scheduled runs.
    serve(weekly_deployment(request), pause_on_shutdown=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
