"""Whether a Prefect server answers, asked without Prefect: its client waits for minutes for one that does not."""

from __future__ import annotations

import http.client
import urllib.request

TIMEOUT_S = 1.0


def answers(api_url: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the Prefect server at `api_url` (as `http://127.0.0.1:4200/api`) says within `timeout_s` [s] that it
    is healthy.
    """
    if not api_url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout_s) as response:  # noqa: S310
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException, ValueError):
        return False
