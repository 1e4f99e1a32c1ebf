"""Keeps the Prefect server and the process that serves the deployments alive, and ends both in the right order.

Read `Supervisor.run`. It sleeps until a signal comes, a child ends or something is due, once a minute at rest.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import select
import signal
import socket
import time
import urllib.request
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from flows import prefect_home, server
from flows.child import Child
from flows.process_group import send, wait_until
from flows.terminal import show
from tasks.health import answers

logger = logging.getLogger("eraflow")

# A child that is starting is asked whether it is ready; asking the server takes another second, see `answers` [s].
STARTING_SERVER_EACH_S = 0.25
STARTING_SERVING_EACH_S = 1.0
# A server that has not answered after this long is started anew; 7 s is usual in a fresh home, 17 s on a busy machine.
READY_LIMIT_S = 180.0
HEALTH_EACH_S = 60.0
HEALTH_LIMIT_S = 2.0
HUNG_AFTER = 5
LONGEST_ANSWER_BYTES = 16 << 20
# The password goes to our own server: to no proxy of the environment, and to nobody whom an answer names.
OPENER = urllib.request.OpenerDirector()
for handler in (urllib.request.HTTPHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor):
    OPENER.add_handler(handler())
# After its parent was killed the server still waits for those who tell it how they ended [s].
LINGER_S = 3.0
# Flow processes say that they crashed, then the runner ends, then the server: 14 s at most, 1 to 4 s usually.
RUNS_GRACE_S, SETTLING_S, SERVING_GRACE_S, SERVER_GRACE_S = 4.0, 2.0, 4.0, 4.0

AUTH = "PREFECT_SERVER_API_AUTH_STRING"
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Both children, from the first start to the end of everything they started."""

    def __init__(
        self, config_file: Path, environ: Mapping[str, str], home: Path, port: int, secrets: Collection[str],
        every_s: float | None = None,
    ) -> None:  # fmt: skip
        """`environ` is what both get; the server without the keys and without the variables named in `secrets`."""
        self.url = server.origins(port)[0]
        self.api_url = f"{self.url}/api"
        self._password = environ.get(AUTH, "")
        self.server = Child(
            name="the Prefect server",
            command=["flows.server", str(port)],
            environ=server.environment(environ, home, port, secrets),
            log=home / "prefect" / "server.log",
            linger_s=LINGER_S,
        )
        self.serving = Child(
            name="the serving process",
            command=["deployments.deploy", str(config_file), *(["--every", str(every_s)] if every_s else [])],
            environ=self._environment_of_serving(environ, home),
            log=home / "prefect" / "serve.log",
        )
        self._health_due_s = 0.0
        self._unanswered = 0

    def _environment_of_serving(self, environ: Mapping[str, str], home: Path) -> dict[str, str]:
        kept = {name: text for name, text in environ.items() if name != AUTH}
        prefect_home.prepare(kept, home)
        login = {"PREFECT_API_AUTH_STRING": self._password} if self._password else {}
        return {**kept, "PREFECT_API_URL": self.api_url, **login}

    def run(self) -> None:
        """Keep both alive until a signal; then end everything.

        Raises `EraflowError` when one of them does not start at all.
        """
        with StopSignals() as signals:
            try:
                while not signals.count:
                    signals.wait(self._step())
                logger.info("%s: stopping", signals.first)
            finally:
                self._stop(signals)

    def _step(self) -> float:
        """Do what is due; returns how long nothing else will be, unless a child ends [s]."""
        wait_s = self.server.tend()
        if not self.server.pid:
            return wait_s
        if not self.server.ready:
            return self._await_server()
        # Without a server it would end at once.
        wait_s = self.serving.tend() or HEALTH_EACH_S
        if self.serving.pid and not self.serving.ready:
            self._await_serving()
            wait_s = HEALTH_EACH_S if self.serving.ready else STARTING_SERVING_EACH_S
        return min(wait_s, self._look_after_health())

    def _await_server(self) -> float:
        # It takes connections almost at once and answers when it is ready: the waiting is done in here.
        if answers(self.api_url):
            self.server.tell_ready()
            self._health_due_s = time.monotonic() + HEALTH_EACH_S
            return 0.0
        if self.server.runs_s > READY_LIMIT_S:
            self.server.kill()
        return STARTING_SERVER_EACH_S

    def _await_serving(self) -> None:
        if not self._serves():
            return
        if not self.serving.was_ready:
            with suppress(OSError):  # a terminal that is gone
                show(f"the dashboard is at {self.url}; stop with Ctrl-C")
        self.serving.tell_ready()

    def _serves(self) -> bool:
        """Whether the serving process has asked the server for work since it was started."""
        try:
            found = self._ask("deployments/filter", {})
        except (OSError, http.client.HTTPException, ValueError):
            return False
        polled = [datetime.fromisoformat(one["last_polled"]) for one in found if one.get("last_polled")]
        return any(moment >= self.serving.started_at_utc for moment in polled)

    def _look_after_health(self) -> float:
        """Once a minute: a server that has not answered for minutes schedules nothing, so end it; tend starts it again.

        Returns how long until the next look [s].
        """
        if (wait_s := self._health_due_s - time.monotonic()) > 0:
            return wait_s
        self._health_due_s = time.monotonic() + HEALTH_EACH_S
        self.server.rotate_log()
        self.serving.rotate_log()
        self._unanswered = 0 if answers(self.api_url, HEALTH_LIMIT_S) else self._unanswered + 1
        if self._unanswered >= HUNG_AFTER:
            logger.warning("the Prefect server has not answered for %.0f s", HUNG_AFTER * HEALTH_EACH_S)
            self._unanswered = 0
            self.server.kill()
        return HEALTH_EACH_S

    def _stop(self, signals: StopSignals) -> None:
        """First the flow processes, then who serves them, then the server, so that each can tell how it ended.

        A runner that ends while a run goes on leaves the run Running for good, with its place taken. A second signal
        takes all patience away.
        """

        def hurry() -> bool:
            return signals.count > 1

        if runs := self.serving.followers():
            send(runs, signal.SIGTERM)
            wait_until(lambda: hurry() or not self.serving.followers(), RUNS_GRACE_S)
            send(self.serving.followers(), signal.SIGKILL)
            wait_until(lambda: hurry() or self._settled(), SETTLING_S)
        self.serving.stop(SERVING_GRACE_S, hurry)
        self.server.stop(SERVER_GRACE_S, hurry)

    def _settled(self) -> bool:
        """Whether the server knows of no run that goes on; True if it does not say."""
        going_on = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
        with suppress(OSError, http.client.HTTPException, ValueError):
            return bool(self._ask("flow_runs/count", going_on) == 0)
        return True

    def _ask(self, what: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._password:
            headers["Authorization"] = f"Basic {base64.b64encode(self._password.encode()).decode()}"
        request = urllib.request.Request(f"{self.api_url}/{what}", json.dumps(body).encode(), headers)  # noqa: S310
        with OPENER.open(request, timeout=HEALTH_LIMIT_S) as response:
            return json.loads(response.read(LONGEST_ANSWER_BYTES))


class StopSignals:
    """In its block SIGTERM, SIGINT and SIGHUP are counted instead of ending the program; for the main thread."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""
        """The name of the first that came."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        # The interpreter itself writes to it as soon as a signal comes, so none can come just before the wait.
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in ASKING:
            # What was ignored before, as SIGHUP by nohup, stays ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._asked)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reading.close()
        self._writing.close()

    def wait(self, limit_s: float) -> None:
        """Wait until any signal comes, a child's end among them, or until `limit_s` [s] have passed."""
        select.select([self._reading], [], [], max(0.0, limit_s))
        with suppress(BlockingIOError):
            self._reading.recv(4096)

    def _asked(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self.first = self.first or signal.Signals(number).name
