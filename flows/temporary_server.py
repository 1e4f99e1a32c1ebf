"""A Prefect server for one run of this program, when none is configured or the configured one does not answer.

Prefect has its own, but it starts only after the client has imported the whole server too (1.7 s more before the
first task) and stays behind when its parent is killed. This one starts while the client imports, and ends with its
parent however that ends: its standard input is a pipe whose other end only the parent holds. It may write to the
database of an `eraflow up`, which does what stands there, so it is closed to everybody but its parent: a password that
only both know, and `flows.server.Guard`.

Read `temporary_server`, which the parent calls, then `main`, which is the child.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# It ends within 0.3 s; after this long it is ended [s].
GRACE_S = 5.0


def new_login() -> str:
    """A user and password that nobody can guess, as Prefect's settings want them."""
    return f"eraflow:{secrets.token_urlsafe(32)}"


@contextmanager
def temporary_server(login: str | None = None) -> Iterator[str]:
    """Start a server on a free port of 127.0.0.1 and yield its API address at once; on exit it has ended.

    Whoever asks it must know `login`, by default one that nobody knows; only its health is told to all. Requests made
    before it is ready (2 s after the start, 8 s with a fresh database) wait until it is. Raises `RuntimeError` if it
    does not start.
    """
    child = subprocess.Popen(  # noqa: S603  # this very file
        # -P: the folder of this file must not stand first on the child's path.
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(login or new_login()),
        start_new_session=True,  # Ctrl-C is for the run, which still has to tell the server how it ended
    )
    lifeline, answer = child.stdin, child.stdout
    if lifeline is None or answer is None:  # never: both are pipes
        raise RuntimeError("the temporary Prefect server has no pipes")
    try:
        port = answer.readline().decode().strip()
        if not port:
            raise RuntimeError(f"the temporary Prefect server ended with exit code {child.wait()}")
        answer.close()
        yield f"http://127.0.0.1:{port}/api"
    finally:
        lifeline.close()
        answer.close()
        try:
            child.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _environment(login: str) -> dict[str, str]:
    kept = {
        name: text
        for name, text in os.environ.items()
        # The keys are not the server's business, and with an address it would be a client.
        if name != "PREFECT_API_URL" and not name.startswith("NUMERAI_")
    }
    return {
        **kept,
        # By default any page in a browser on this machine may ask the server and read its answers.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",
        "PREFECT_SERVER_API_AUTH_STRING": login,
    }


def main() -> None:
    """Tell the port on standard output, then serve until standard input ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.umask(0o077)
    # Connections are taken from here on and answered when the imports, nine tenths of the start, are done.
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    port = listening.getsockname()[1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    # Nobody reads it any more: what is printed later must neither fail nor fill the pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    import uvicorn
    from prefect.server.api.server import create_app

    # A checkout that is not installed is not on the path; last, so that nothing of it hides anything.
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from flows.server import Guard

    # Ephemeral: no dashboard, no scheduler, only the services that record what runs and tasks report.
    guarded = Guard(create_app(ephemeral=True), port)
    _tell_reasons_only()
    config = uvicorn.Config(guarded, log_config=None, log_level="error", lifespan="on", proxy_headers=False)
    uvicorn.Server(config).run(sockets=[listening])


def _tell_reasons_only() -> None:
    """Of each error of the server a line in place of its traceback: mostly its database is locked or damaged."""

    class Reason(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            lines = [record.getMessage(), *([str(record.exc_info[1])] if record.exc_info else [])]
            told = [line.strip() for text in lines for line in text.splitlines() if "Error" in line]
            reason = (told or lines[0].splitlines() or [""])[-1][:200]
            return f"Prefect's server: {reason}; if its database in PREFECT_HOME is damaged, move it away"

    handler = logging.StreamHandler()
    handler.setFormatter(Reason())
    handler.setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").handlers = [handler]
    for logger in (logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))):
        if logger.handlers:
            logger.handlers, logger.propagate = [handler], False


def _end_with_parent() -> None:
    # Not through a buffer, whose lock this thread would still hold when the interpreter ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    # Until uvicorn runs this ends the process, then it stops the server in an orderly way.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
