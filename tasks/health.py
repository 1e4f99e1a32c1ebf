"""Whether a Prefect server answers, asked without Prefect: its client waits for minutes for one that does not."""

from __future__ import annotations

import http.client
import urllib.request
from urllib.parse import urlsplit

TIMEOUT_S = 1.0
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def answers(api_url: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the Prefect server at `api_url` (as `http://127.0.0.1:4200/api`) says within `timeout_s` [s] that it
    is healthy.
    """
    if not api_url.startswith(("http://", "https://")):
        return False
    try:
        # A proxy of the environment has no way to what listens on this machine's loopback.
        proxies: dict[str, str] | None = {} if urlsplit(api_url).hostname in LOOPBACK else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
        with opener.open(f"{api_url.rstrip('/')}/health", timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException, ValueError):
        return False
