"""Prefect's surroundings: its state below ERAFLOW_HOME, quiet, offline, and which server a run talks to.

Importing this imports no Prefect; `prepare` must run before anything does.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows.temporary_server import new_login, temporary_server
from tasks.health import answers

logger = logging.getLogger("eraflow")

# A temporary server has answered after 2 s, after 8 s with a fresh database; a loaded machine takes longer [s].
START_PATIENCE_S = 60.0
# By default one request to a server that has gone takes 75 s, one that is never answered 6 minutes.
REQUEST_TIMEOUT_S = 10.0
REQUEST_RETRIES = 1
DRAIN_S = 5.0


def prepare(environ: MutableMapping[str, str], home: Path) -> None:
    """Set what Prefect reads at import; what the user has set already stays."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    # The database holds every parameter and Prefect makes it readable for all: owner only.
    folder.chmod(0o700)
    values = {
        "PREFECT_HOME": str(folder),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        # At ERROR it prints, whole, every event that a server which has gone did not take.
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_CONFIG_PATH": str(Path(__file__).with_name("logging.yml")),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "DO_NOT_TRACK": "1",
    }
    _ask_this_machine_directly(environ)
    if logger.level:
        # Prefect sets up logging when it is imported, and would undo what --debug asked for.
        values["PREFECT_LOGGING_LOGGERS_ERAFLOW_LEVEL"] = logging.getLevelName(logger.level)
    for name, value in values.items():
        environ.setdefault(name, value)


def _ask_this_machine_directly(environ: MutableMapping[str, str]) -> None:
    """A proxy of the environment has no way to this machine's loopback, and would be told the dashboard's password."""
    if not any(name.lower() in {"http_proxy", "all_proxy"} for name in environ):
        return
    kept = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in kept.split(",") if host.strip()]
    if "*" in hosts:  # all of them already, and only where it stands alone
        return
    told = ",".join([*hosts, *(host for host in ("127.0.0.1", "localhost") if host not in hosts)])
    environ["no_proxy"] = environ["NO_PROXY"] = told


@contextmanager
def chosen_server(environ: Mapping[str, str]) -> Iterator[str]:
    """Run inside with the server at `PREFECT_API_URL` if it answers, else with a temporary one; yields its address.

    The environment alone says which: Prefect's own settings take 0.7 s to import, and meanwhile a temporary server
    starts. It may not be ready yet, see `wait_until_ready`. A configured one that is dead or hangs is noticed within
    about a second, and said.
    """
    configured = environ.get("PREFECT_API_URL")
    if configured and answers(configured):
        with _patience(), _letting_go(configured):
            yield configured
        return
    if configured:
        logger.warning("the Prefect server at %s does not answer; this run goes on with a temporary one", configured)
    login = new_login()
    with temporary_server(login) as url, _patience(), _only(url, login), _letting_go(url):
        yield url


def wait_until_ready(api_url: str) -> None:
    """Wait for a server that is starting. Raises `RuntimeError` if it does not come up."""
    if not answers(api_url, START_PATIENCE_S):
        raise RuntimeError(f"the Prefect server at {api_url} did not start")


@contextmanager
def _patience() -> Iterator[None]:
    """An unreachable server may cost seconds, not the round."""
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    values = {PREFECT_API_REQUEST_TIMEOUT: REQUEST_TIMEOUT_S, PREFECT_CLIENT_MAX_RETRIES: REQUEST_RETRIES}
    with temporary_settings(values):
        yield


@contextmanager
def _only(api_url: str, login: str) -> Iterator[None]:
    """Talk to a server that is there for this run alone, and asks for this login.

    It has our version, and asking for that costs 0.3 s. Nobody watches it for missing heartbeats, and ending those
    costs a second. If it dies it does not come back, so nothing is tried again.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    values: dict[Any, Any] = {
        PREFECT_API_URL: api_url,
        PREFECT_API_AUTH_STRING: login,
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
    }
    with temporary_settings(values):
        yield


@contextmanager
def _letting_go(api_url: str) -> Iterator[None]:
    """At the end send the events and logs that still wait in threads; drop them if the server has gone.

    When the process ends Prefect would try each of them for 8 s, or for 2 minutes if the server hangs.
    """
    try:
        yield
    finally:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        workers: tuple[Any, ...] = (EventsWorker, APILogWorker)
        for worker in workers:
            if not answers(api_url):
                for instance in tuple(worker._instances.values()):
                    _empty(instance._queue)
            worker.drain_all(timeout=DRAIN_S)


def _empty(waiting: queue.Queue[Any]) -> None:
    with suppress(queue.Empty):
        while True:
            waiting.get_nowait()
