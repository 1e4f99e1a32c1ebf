"""Who may ask the server of `eraflow up`, and what its process is told; without Prefect."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from flows import server
from flows.server import EXIT_PORT_TAKEN, Guard

PORT = 4200
OWN = "127.0.0.1:4200"


async def application(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"passed"})


def answer(method: str = "GET", kind: str = "http", **headers: str) -> dict[str, Any]:
    """The first message that comes back; headers as in `sec_fetch_site`."""
    sent: list[dict[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    as_bytes = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": kind, "method": method, "path": "/api/deployments/filter", "headers": as_bytes}
    asyncio.run(Guard(application, PORT)(scope, receive, send))
    return sent[0]


def status(method: str = "GET", **headers: str) -> int:
    return int(answer(method, **headers)["status"])


@pytest.mark.parametrize("host", [OWN, "localhost:4200", "[::1]:4200", "LocalHost:4200"])
def test_it_answers_under_its_own_names(host: str) -> None:
    assert status("GET", host=host) == 200
    assert status("POST", host=host, origin=f"http://{host.lower()}", sec_fetch_site="same-origin") == 200


def test_pages_that_were_opened_as_localhost_may_ask_at_the_address() -> None:
    told = {"host": OWN, "origin": "http://localhost:4200", "sec_fetch_site": "cross-site"}
    assert status("POST", **told) == 200
    assert answer(kind="websocket", **told)["type"] == "websocket.accept"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4200", "127.0.0.1", "127.0.0.1:80", "localhost", ""])
def test_a_name_that_was_made_to_lead_here_is_refused(host: str) -> None:
    assert status("GET", host=host) == 403


def test_a_request_without_or_with_two_hosts_is_refused() -> None:
    assert status("GET") == 403
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    hosts = [(b"host", OWN.encode()), (b"host", b"evil.example")]
    asyncio.run(Guard(application, PORT)({"type": "http", "method": "GET", "headers": hosts}, None, send))  # type: ignore[arg-type]  # never receives
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:8888", "https://127.0.0.1:4200"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PATCH", "DELETE"])
def test_a_page_from_elsewhere_is_refused_whatever_it_asks(origin: str, method: str) -> None:
    assert status(method, host=OWN, origin=origin) == 403


def test_a_page_from_elsewhere_may_link_to_the_dashboard_but_change_nothing() -> None:
    assert status("GET", host=OWN, sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 200
    assert status("POST", host=OWN, sec_fetch_site="cross-site") == 403


def test_no_page_from_elsewhere_may_show_the_dashboard_inside_itself() -> None:
    assert (b"x-frame-options", b"SAMEORIGIN") in answer("GET", host=OWN)["headers"]


def test_a_web_socket_of_a_foreign_page_is_closed_before_it_opens() -> None:
    assert answer(kind="websocket", host=OWN)["type"] == "websocket.accept"
    assert answer(kind="websocket", host=OWN, origin=f"http://{OWN}")["type"] == "websocket.accept"
    assert answer(kind="websocket", host=OWN, origin="http://evil.example")["type"] == "websocket.close"
    assert answer(kind="websocket", host="evil.example:4200")["type"] == "websocket.close"


# What its process is told


def test_neither_keys_nor_alarm_addresses_nor_another_server_reach_it(tmp_path: Path) -> None:
    environ = {
        "PATH": "/bin",
        "NUMERAI_SECRET_KEY": "s",
        "NUMERAI_PUBLIC_ID": "p",
        "OUR_ALARM_URL": "u",
        "PREFECT_API_URL": "http://elsewhere/api",
        "PREFECT_API_AUTH_STRING": "a:b",
    }
    told = server.environment(environ, tmp_path, PORT, ["OUR_ALARM_URL"])
    assert set(environ) & set(told) == {"PATH"}
    assert "PREFECT_SERVER_API_AUTH_STRING" not in told


def test_its_state_lies_in_the_home_and_old_runs_are_pruned(tmp_path: Path) -> None:
    told = server.environment({"PREFECT_SERVER_API_AUTH_STRING": ""}, tmp_path, 4300)
    assert told["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert told["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4300/api"
    assert told["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",") == list(server.origins(4300))
    assert told["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert told["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
    assert told["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"] == str(90 * 24 * 3600)
    assert "PREFECT_SERVER_API_AUTH_STRING" not in told, "an empty password is none"


def test_a_port_that_is_taken_ends_it_at_once_with_a_code_of_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "flows.server", str(port)], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == EXIT_PORT_TAKEN
    assert done.stderr == f"port {port} of 127.0.0.1 cannot be used: Address already in use\n"
