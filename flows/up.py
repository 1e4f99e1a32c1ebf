"""`eraflow up`: one Prefect server and one process that serves the deployments, for one home, until a signal.

Read `up`, then `supervisor`. This process imports no Prefect, no torch and no client: it stays for months and is to
be small. Nothing that could cost a round is in it: the ledger and the tournament decide whether a round is safe.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from eraflow.errors import EXIT_DONE, InputError, StorageError
from eraflow.store import STATE_FILE, Store, default_home, discard, exclusive, utc_text, write_json
from flows import server
from flows.judge import judge, judge_apart
from flows.lifeline import GRACE_S
from flows.supervisor import LINGER_S, Supervisor
from flows.terminal import show

PORT = 4200


def up(
    config_file: Path | None, environ: Mapping[str, str], *, port: int = PORT, check_only: bool = False,
    every_s: float | None = None,
) -> int:  # fmt: skip
    """Judge the configuration, then serve until SIGINT, SIGTERM or SIGHUP; returns the exit code.

    A stop that was asked for is no failure, so it returns 0 whatever signal asked: no service manager should start
    again what its user has stopped. Raises `EraflowError` for what keeps it from starting. Port 0 is any free one;
    with `every_s` [s] all schedules are on that interval, for rehearsals.
    """
    if check_only:
        show(judge(config_file, environ).line)
        return EXIT_DONE
    home = Store.open(default_home(environ)).home
    for_children = _with_our_modules({**environ, "ERAFLOW_HOME": str(home)})
    judged = judge_apart(config_file, for_children)
    show(judged.line)
    with _alone(home):
        port = _require_port(port, leftover=(home / STATE_FILE).exists())
        supervisor = Supervisor(Path(judged.config_file), for_children, home, port, judged.secrets, every_s)
        with _announced(home, supervisor, judged.config_file):
            supervisor.run()
    return EXIT_DONE


def read_state(home: Path) -> dict[str, Any] | None:
    """What the `eraflow up` of this home says of itself, or one that was killed said; None if nothing is there."""
    try:
        found: dict[str, Any] = json.loads((home / STATE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return found


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold this home. Raises `StorageError` with the address of the one that does already."""
    lock = exclusive(home / STATE_FILE, timeout_s=0)
    try:
        lock.__enter__()
    except StorageError as error:
        if not isinstance(error.__cause__, Timeout):
            raise
        state = read_state(home) or {"url": "an address that it has not said yet", "pid": "unknown"}
        raise StorageError(
            f"one `eraflow up` may run for {home}, however one already does: {state['url']} (process {state['pid']});"
            " stop it first, or set ERAFLOW_HOME to another folder",
            code="already-up",
        ) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _require_port(port: int, *, leftover: bool) -> int:
    """The port, which is free. Raises `InputError` if it is not."""
    # The server of an `up` that was killed goes by itself, some seconds later.
    patience_s = LINGER_S + 2 * GRACE_S if leftover else 0.0
    started = time.monotonic()
    while True:
        try:
            with socket.create_server((server.HOST, port)) as probe:
                return int(probe.getsockname()[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = os.strerror(error.errno or 0)
                raise InputError(
                    f"port {port} must be free to use, however: {reason}; give another with --port"
                ) from None
        if time.monotonic() - started >= patience_s:
            raise InputError(
                f"port {port} of {server.HOST} must be free, however another program listens there; stop that one,"
                " or give another port with --port",
                code="port-in-use",
            )
        time.sleep(0.2)


@contextmanager
def _announced(home: Path, supervisor: Supervisor, config_file: str) -> Iterator[None]:
    state = {
        "pid": os.getpid(),
        "url": supervisor.url,
        "api_url": supervisor.api_url,
        "config_file": config_file,
        "started_at_utc": utc_text(datetime.now(UTC)),
    }
    write_json(home / STATE_FILE, state)
    try:
        yield
    finally:
        discard(home / STATE_FILE)


def _with_our_modules(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which programs find our packages, and not what the working folder has of the same name."""
    root = str(Path(__file__).resolve().parents[1])
    installed = root in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    folders = [*([] if installed else [root]), *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})}
