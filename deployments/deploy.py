"""Registers the deployments with a running Prefect server and serves them: `python -m deployments.deploy CONFIG`.

`eraflow up` starts this beside a server of its own; by hand the server is the one at `PREFECT_API_URL`. Before
anything is served, what a crash left behind is swept up: a run that nobody is at work on would hold its place and
have every later one cancelled. Then an open round without receipts is caught up.

    weekly   Saturday's round, several attempts: the first that succeeds makes the others no-ops
    daily    Tuesday to Friday, live data alone, the newest good model
    watch    is every slot verified? if not, the alarm, and the round without Prefect
    scores   what past rounds scored
    manual   a round with its whole configuration as a form
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eraflow.environment import ENVIRONMENT_FILE, load
from eraflow.errors import ClosedError, EraflowError, InputError
from eraflow.request import Request, make_request
from eraflow.rounds import Round
from eraflow.store import Store, default_home
from eraflow.tournament import Tournament
from eraflow.weekly_config import Configuration, ScheduleConfig, next_times, read_configuration
from flows import prefect_home
from tasks.health import answers

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.deployments.runner import RunnerDeployment

# A round opens late by minutes, and once did by 64; the attempt at its opening waits for it.
WEEKLY_WAIT_S = 75 * 60.0
# A late daily round stays open for an hour after its opening.
DAILY_WAIT_S = 2 * 3600.0
# One that was due longer ago than this, when nothing was served, is not made up for: the open round is caught up.
OVERDUE = timedelta(minutes=1)
# A machine on which a training goes on takes its time [s].
SERVER_PATIENCE_S = 15.0
LEFT_BEHIND = ("PENDING", "RUNNING", "CANCELLING")


def deployments(request: Request, configuration: Configuration, every_s: float | None = None) -> list[RunnerDeployment]:
    """All deployments of this configuration; with `every_s` [s] each scheduled one on that interval, for rehearsals."""
    from flows import care_flows, round_flows

    schedule = configuration.schedule
    plan: list[tuple[Any, str, Sequence[str], dict[str, Any], bool]] = [
        (round_flows.weekly, "weekly", schedule.weekly, {"request": replace(request, wait_s=WEEKLY_WAIT_S)}, True),
        (
            round_flows.daily,
            "daily",
            schedule.daily,
            {"request": replace(request, wait_s=DAILY_WAIT_S, train=False)},
            True,
        ),
        (care_flows.watch, "watch", schedule.watch, {"request": request}, False),
        (care_flows.scores, "scores", schedule.scores, {"request": request}, False),
        (round_flows.manual, "manual", (), {"config": configuration.weekly}, False),
    ]
    return [
        _deployment(flow, name, _schedules(crons, schedule.time_zone, every_s), parameters, alone=alone)
        for flow, name, crons, parameters, alone in plan
    ]


def _schedules(crons: Sequence[str], time_zone: str, every_s: float | None) -> list[Any]:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    if every_s and crons:
        return [IntervalSchedule(interval=timedelta(seconds=every_s), timezone=time_zone)]
    return [CronSchedule(cron=cron, timezone=time_zone) for cron in crons]


def _deployment(
    flow: Any, name: str, schedules: list[Any], parameters: dict[str, Any], *, alone: bool
) -> RunnerDeployment:
    """One deployment; `alone` means that a run which comes due while another is at work is cancelled."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    return RunnerDeployment.from_flow(
        flow,
        name=name,
        description=flow.description,
        schedules=schedules,
        parameters=parameters,
        concurrency_limit=limit if alone else None,
        tags=[name],
        # A file entrypoint would rename the module and shadow packages of the same name.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def serve(config_file: Path | None, environ: Mapping[str, str], every_s: float | None = None) -> None:
    """Serve the deployments of this configuration until stopped.

    Raises `InputError` for a wrong configuration, or if there is no server to serve them from: Prefect itself would
    go on with a temporary one, which schedules nothing.
    """
    home = Store.open(default_home(environ)).home
    configuration = read_configuration(config_file)
    request = make_request(home=home, config_file=config_file)
    require_server(environ)
    prefect_home.prepare(os.environ, home)
    asyncio.run(_serve(deployments(request, configuration, every_s), configuration))


def require_server(environ: Mapping[str, str]) -> None:
    """Raises `InputError` if there is no server to serve from."""
    url = environ.get("PREFECT_API_URL")
    if not url:
        raise InputError(
            "PREFECT_API_URL must name a running Prefect server, however it is not set; run `eraflow up`, or start"
            " one with `prefect server start` and set it"
        )
    if not answers(url, SERVER_PATIENCE_S):
        raise InputError(
            f"a Prefect server must answer at PREFECT_API_URL, however {url} does not; start or correct it"
        )


async def _serve(made: list[RunnerDeployment], configuration: Configuration) -> None:
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    # By default a stop would pause the deployments and delete their scheduled runs.
    runner = Runner(pause_on_shutdown=False)
    identities = {one.name: await runner.aadd_deployment(one) for one in made}
    async with get_client() as client:
        await sweep(client, list(identities.values()))
        if (late := await asyncio.to_thread(to_catch_up, configuration)) is not None:
            name, wait_s = late
            request = next(one.parameters["request"] for one in made if one.name == name)
            await client.create_flow_run_from_deployment(
                identities[name],
                parameters={"request": replace(request, wait_s=wait_s)},
                tags=[name, "catch-up"],
            )
    await runner.start()


async def sweep(client: PrefectClient, deployment_ids: Sequence[Any]) -> int:
    """End what nobody is at work on any more, so that it holds no place; returns how many runs that were."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Cancelled, Crashed

    async def found(**filters: Any) -> list[FlowRun]:
        return await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=list(deployment_ids))),
            flow_run_filter=FlowRunFilter.model_validate(filters),
            limit=200,
        )

    overdue = {"before_": datetime.now(UTC) - OVERDUE}
    left = await found(state={"type": {"any_": LEFT_BEHIND}})
    late = await found(state={"type": {"any_": ["SCHEDULED"]}}, expected_start_time=overdue)
    crashed, cancelled = "nobody was at work on it any more", "nothing was served when it was due"
    for run in left:
        await client.set_flow_run_state(run.id, Crashed(message=crashed), force=True)
    for run in late:
        await client.set_flow_run_state(run.id, Cancelled(message=cancelled), force=True)
    return len(left) + len(late)


def to_catch_up(configuration: Configuration) -> tuple[str, float] | None:
    """What is to be started at once: the deployment that plays the round which is open now, and how long it waits [s].

    Where none is open, it is the one that would be waiting for one now, had it been served when it was due. None if
    there is nothing to do. Whether the slots are safe already is for the run to find out, which then ends at once.
    """
    if not configuration.slots:
        return None
    latest = None
    try:
        tournament = Tournament.from_environment()
        with suppress(ClosedError):
            latest = tournament.latest_round()
    except EraflowError as error:
        sys.stderr.write(f"eraflow: whether a round is open could not be asked: {error.message}\n")
        name = next((name for name in ("weekly", "daily") if getattr(configuration.schedule, name)), None)
        return (name, 0.0) if name else None
    if latest is not None and latest.is_open(tournament.now_utc()):
        return _deployment_for(latest, configuration)
    return _still_waiting(configuration.schedule, latest, tournament.now_utc())


def _deployment_for(opened: Round, configuration: Configuration) -> tuple[str, float] | None:
    name = "daily" if opened.is_daily else "weekly"
    return (name, 0.0) if configuration.schedule.plays(opened) else None


def _still_waiting(schedule: ScheduleConfig, latest: Round | None, now_utc: datetime) -> tuple[str, float] | None:
    for name, crons, wait_s in (("weekly", schedule.weekly, WEEKLY_WAIT_S), ("daily", schedule.daily, DAILY_WAIT_S)):
        due = next_times(crons, schedule.time_zone, now_utc - timedelta(seconds=wait_s), 1)
        # Otherwise the round that it would have waited for is over.
        if due and due[0] <= now_utc and (latest is None or latest.closes_at_utc <= due[0]):
            return name, wait_s - (now_utc - due[0]).total_seconds()
    return None


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.deploy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the configuration, as weekly.toml")
    parser.add_argument("--every", type=float, metavar="S", help="all schedules on this interval, for rehearsals")
    options = parser.parse_args(arguments)
    try:
        load(default_home(os.environ) / ENVIRONMENT_FILE, os.environ)
        serve(options.config, os.environ, options.every)
    except EraflowError as error:
        sys.stderr.write(f"eraflow: {error.message}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
