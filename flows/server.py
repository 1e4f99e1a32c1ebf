"""The Prefect server of `eraflow up`: API, dashboard and all services. A program: `python -m flows.server PORT`.

Prefect's own command has no way to refuse anybody: by default any web page that is open on this machine may start
runs and read their parameters. Any account of the machine may do more: a deployment that it replaces runs its commands
as the user of `eraflow up`, who has the keys. So the application is wrapped in `Guard`, and served by what serves it
there too. Read `environment`, which the parent calls, then `main`, then `Guard`. Loopback only.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from flows import caller, prefect_home

HOST = "127.0.0.1"
EXIT_PORT_TAKEN = 98  # EADDRINUSE on Linux
EXIT_NOT_STARTED = 3  # uvicorn's own

# Finished runs, their logs and artifacts are kept this long [s]: 90 days, about 820 runs, some 30 MB of database.
RETENTION_S = 90 * 24 * 3600
# For open connections, of which a dashboard in a browser always has some [s].
CLOSING_S = 1
AUTH = "PREFECT_SERVER_API_AUTH_STRING"
ROOT = 0
# What a POST may ask for that changes nothing; blocks are left out, as they may hold secrets. The dashboard asks so.
READS = re.compile(
    r"/api/(?:(?!block_)[\w/-]+/(?:filter|count|paginate|history|lateness)|events/count-by/\w+|ui/[\w/-]+)"
)
# What a GET may show that is not for everybody.
SHOWS_SECRETS = ("/block_", "/admin/settings")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def origins(port: int) -> tuple[str, ...]:
    """How a browser on this machine may name the server; the first is how we do."""
    return tuple(f"http://{name}:{port}" for name in (HOST, "localhost", "[::1]"))


def environment(environ: Mapping[str, str], home: Path, port: int, secrets: Collection[str] = ()) -> dict[str, str]:
    """What the server's process gets: `environ` without the keys and the variables named in `secrets`."""
    own, *others = origins(port)
    kept = {
        name: text
        for name, text in environ.items()
        # With an address it would be a client.
        if name not in {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING", *secrets} and not name.startswith("NUMERAI_")
    }
    if not kept.get(AUTH):
        kept.pop(AUTH, None)
    prefect_home.prepare(kept, home)
    kept.setdefault("PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED", "events,flow_runs")
    kept.setdefault("PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD", str(RETENTION_S))
    kept.setdefault("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT", "false")
    return {
        **kept,
        # Where the dashboard's pages look for the API; by default port 4200, whatever the port is.
        "PREFECT_SERVER_UI_API_URL": f"{own}/api",
        # For pages that were opened under another name of the same server.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join((own, *others)),
        # By default they are unpacked into the installed package, which may be read-only or another user's.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "prefect" / "ui"),
    }


def main(arguments: list[str]) -> int:
    """Serve at the port until SIGTERM; returns the exit code."""
    port = int(arguments[0])
    os.umask(0o077)  # the database, which Prefect makes, is its owner's alone, whatever becomes of its folder's mode
    try:
        listening = socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        sys.stderr.write(f"port {port} of {HOST} cannot be used: {os.strerror(error.errno or 0)}\n")
        return EXIT_PORT_TAKEN if error.errno == errno.EADDRINUSE else 1

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    of_api = get_current_settings().server.api
    config = uvicorn.Config(
        Guard(create_app(final=True), port, trusted=trusted(os.environ)),
        log_level="error",
        proxy_headers=False,  # a header must not say where a request comes from
        lifespan="on",
        timeout_keep_alive=of_api.keepalive_timeout,
        ws_ping_interval=of_api.websocket_ping_interval,
        ws_ping_timeout=of_api.websocket_ping_timeout,
        timeout_graceful_shutdown=CLOSING_S,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    return 0 if server.started else EXIT_NOT_STARTED


def trusted(environ: Mapping[str, str]) -> frozenset[int] | None:
    """The accounts whose programs may change something; None where a password or nothing at all tells them apart."""
    if environ.get(AUTH) or not caller.can_tell():
        return None
    return frozenset({os.geteuid(), ROOT})


class Guard:
    """An ASGI application that answers 403 for what does not come from this machine's programs or the dashboard.

    A browser names in `Host` whom it thinks it asks, and in `Origin` which page asks: for every web socket and every
    request but a plain GET. Programs send no `Origin`, and may write what they like: whose they are is asked of the
    kernel. Those of other accounts may look, as a dashboard does that is seen through a tunnel, and change nothing.
    """

    def __init__(self, application: Application, port: int, *, trusted: Collection[int] | None = None) -> None:
        """`trusted` are the accounts that may change something, all where it is None."""
        self._application = application
        self._trusted = trusted
        self._origins = {origin.encode() for origin in origins(port)}
        self._hosts = {origin.removeprefix(b"http://") for origin in self._origins}
        # The dashboard would ask a company's address how to record its user, whatever the analytics setting says.
        own = " ".join(f"{origin} {origin.replace('http', 'ws', 1)}" for origin in origins(port))
        # No other page may show the dashboard inside itself and have its buttons clicked.
        policy = f"connect-src 'self' {own}; frame-ancestors 'self'"
        self._headers = [(b"content-security-policy", policy.encode()), (b"x-frame-options", b"SAMEORIGIN")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif complaint := self._complaint(scope) or self._complaint_about_account(scope):
            await _refuse(scope, send, complaint)
        else:
            await self._application(scope, receive, self._with_headers(send))

    def _with_headers(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        return sent

    def _complaint(self, scope: Scope) -> str | None:
        headers = [(bytes(name).lower(), bytes(value).strip().lower()) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            # A name of an attacker's that leads here, by which his page is of the same origin as the server.
            return "the Host is not this server's own"
        pages = [value for name, value in headers if name == b"origin"]
        if any(page not in self._origins for page in pages):
            return "the request comes from another origin"
        changes = scope["type"] == "websocket" or scope["method"] not in {"GET", "HEAD"}
        # Its own pages, opened as localhost, ask at 127.0.0.1, which a browser calls another site.
        if changes and not pages and (b"sec-fetch-site", b"cross-site") in headers:
            return "the request comes from another site"
        return None

    def _complaint_about_account(self, scope: Scope) -> str | None:
        if self._trusted is None or _only_looks(scope):
            return None
        client, own = scope.get("client"), scope.get("server")
        if client and own and caller.account_of((client[0], client[1]), (own[0], own[1])) in self._trusted:
            return None
        return f"another account of this machine may look and change nothing; a password opens it to all: {AUTH}"


def _only_looks(scope: Scope) -> bool:
    """Whether a request reads what every account may, and changes nothing."""
    path = str(scope["path"])
    if scope["type"] == "websocket":
        return path.endswith("/out")
    if scope["method"] in {"GET", "HEAD"}:
        return not any(part in path for part in SHOWS_SECRETS)
    return bool(scope["method"] == "POST" and READS.fullmatch(path))


async def _refuse(scope: Scope, send: Send, complaint: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: answered with 403
        return
    text = f"refused: {complaint}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": text})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
