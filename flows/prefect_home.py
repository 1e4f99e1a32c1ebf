"""Prefect's surroundings, set before it is imported: its state below ERAFLOW_HOME, quiet, offline, and which server.

Importing this imports no Prefect; `prepare` must run before anything does.
"""

from __future__ import annotations

import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("eraflow")

HEALTH_TIMEOUT_S = 1.0


def prepare(environ: MutableMapping[str, str], home: Path) -> None:
    """Set what Prefect reads at import; what the user has set already stays."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    # A failed run's exception is pickled here, and the database holds every parameter: owner only.
    folder.chmod(0o700)
    for name, value in {
        "PREFECT_HOME": str(folder),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_CONFIG_PATH": str(Path(__file__).with_name("logging.yml")),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "DO_NOT_TRACK": "1",
    }.items():
        environ.setdefault(name, value)


@contextmanager
def reachable_server() -> Iterator[None]:
    """Run inside with the configured server if it answers, else with a temporary one of this process.

    A server that is dead or hangs is noticed within about a second.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    url = PREFECT_API_URL.value()
    if url and answers(url):
        yield
        return
    if url:
        logger.warning("the Prefect server at %s does not answer; this run goes on with a temporary one", url)
    with temporary_settings({PREFECT_API_URL: None, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True}):
        yield


def answers(api_url: str) -> bool:
    """Whether a Prefect server is healthy at `api_url` (as `http://127.0.0.1:4200/api`)."""
    if not api_url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S) as response:  # noqa: S310
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError):
        return False
