"""`eraflow up`: the Prefect server and the process that serves the deployments, kept alive until a signal.

Read `up`, then `_Supervisor`. This process imports no Prefect, no torch and no client: it stays for months and needs
20 MB. What could cost a round is not here: whether a round is safe is decided by the ledger and the tournament.
"""

from __future__ import annotations

import base64
import errno
import http.client
import json
import logging
import os
import select
import signal
import socket
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import Timeout

from eraflow.errors import EXIT_DONE, EraflowError, InputError, StorageError
from eraflow.store import Store, default_home, exclusive, utc_text, write_json
from flows import prefect_home, server
from flows.child import Child
from flows.judge import judge, judge_apart
from flows.lifeline import GRACE_S as LIFELINE_GRACE_S
from flows.process_group import send, wait_until
from flows.terminal import show
from tasks.health import answers

logger = logging.getLogger("eraflow")

PORT = 4200
STATE_FILE = "up.json"
# How often a child that is starting is asked whether it is ready, and how often a server that runs whether it still
# answers [s].
STARTING_EACH_S = 0.5
HEALTH_EACH_S = 60.0
HEALTH_LIMIT_S = 2.0
HUNG_AFTER = 5
# A server that has not answered after this long is started anew; 7 s is usual in a fresh home, 17 s on a busy machine.
READY_LIMIT_S = 180.0
# After its parent was killed the server still waits for those who tell it how they ended [s].
LINGER_S = 3.0
# Flow processes say that they crashed, then the runner ends, then the server: 14 s at most, 1 to 4 s usually.
RUNS_GRACE_S, SETTLING_S, SERVING_GRACE_S, SERVER_GRACE_S = 4.0, 2.0, 4.0, 4.0


def up(config_file: Path | None, environ: Mapping[str, str], *, port: int = PORT, check_only: bool = False) -> int:
    """Judge the configuration, then serve until SIGINT, SIGTERM or SIGHUP; returns the exit code.

    A stop that was asked for is no failure, so it returns 0, whatever signal asked: a service manager must not start
    again what its user has stopped. Raises `EraflowError` for what keeps it from starting. Port 0 is any free one.
    """
    home = Store.open(default_home(environ)).home
    path = _configuration(config_file, home)
    if check_only:
        show(judge(path, environ))
        return EXIT_DONE
    judge_apart(path, _with_our_modules({**environ, "ERAFLOW_HOME": str(home)}))
    with _alone(home):
        port = _require_port(port, leftover=(home / STATE_FILE).exists())
        with _announced(home, port, path):
            _Supervisor(path, environ, home, port).run()
    return EXIT_DONE


def _configuration(config_file: Path | None, home: Path) -> Path:
    from eraflow.weekly_config import default_config_file

    path = config_file or default_config_file(home)
    if path is None:
        raise InputError(
            f"a configuration must be there, however --config was not given and {home / 'weekly.toml'} is not there;"
            " copy deployments/weekly.toml and name your slots in it"
        )
    return path.resolve()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold this home. Raises `StorageError` naming the address of the one that does already."""
    lock = exclusive(home / STATE_FILE, timeout_s=0)
    try:
        lock.__enter__()
    except StorageError as error:
        if not isinstance(error.__cause__, Timeout):
            raise
        state = read_state(home) or {"url": "an address it has not said yet", "pid": "unknown"}
        raise StorageError(
            f"one `eraflow up` may run for {home}, however one does already, at {state['url']}"
            f" (process {state['pid']}); stop that one first, or set ERAFLOW_HOME to another folder",
            code="already-up",
        ) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def read_state(home: Path) -> dict[str, Any] | None:
    """What the running `eraflow up` of this home says of itself; None if there is none to read."""
    try:
        found: dict[str, Any] = json.loads((home / STATE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return found


def _require_port(port: int, *, leftover: bool) -> int:
    """The port, which is free. Raises `InputError` if it is not."""
    # The server of one that was killed goes by itself, a few seconds later.
    limit_s = LINGER_S + 2 * LIFELINE_GRACE_S if leftover else 0.0
    started = time.monotonic()
    while True:
        try:
            with socket.create_server((server.HOST, port)) as probe:
                return int(probe.getsockname()[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InputError(f"port {port} must be one to listen at, however: {error.strerror}; give --port") from None
        if time.monotonic() - started >= limit_s:
            raise InputError(
                f"port {port} of {server.HOST} must be free, however another program listens there; stop it, or give"
                " another with --port",
                code="port-in-use",
            )
        time.sleep(0.2)


@contextmanager
def _announced(home: Path, port: int, config_file: Path) -> Iterator[None]:
    url = server.origins(port)[0]
    state = {
        "pid": os.getpid(),
        "url": url,
        "api_url": f"{url}/api",
        "config_file": str(config_file),
        "started_at_utc": utc_text(datetime.now(UTC)),
    }
    write_json(home / STATE_FILE, state)
    try:
        yield
    finally:
        (home / STATE_FILE).unlink(missing_ok=True)


def _with_our_modules(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which programs find our packages, and do not find the working folder's."""
    root = str(Path(__file__).resolve().parents[1])
    installed = root in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    path = [*([] if installed else [root]), *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


class _Supervisor:
    """Both children, from the first start to the end of everything they started."""

    def __init__(self, config_file: Path, environ: Mapping[str, str], home: Path, port: int) -> None:
        self.url = server.origins(port)[0]
        self.api_url = f"{self.url}/api"
        self.password = environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
        basic = _with_our_modules({**environ, "ERAFLOW_HOME": str(home)})
        logs = home / "prefect"
        of_server = server.environment(basic, home, port, _secrets(config_file))
        self.server = Child(
            "the Prefect server", ["flows.server", str(port)], of_server, logs / "server.log", LINGER_S
        )
        self.serving = Child(
            "the serving process",
            ["deployments.deploy", str(config_file)],
            _environment_of_serving(basic, home, self.api_url, self.password),
            logs / "serve.log",
            0.0,
        )
        self._health_due_s = 0.0
        self._unanswered = 0

    def run(self) -> None:
        """Keep both alive until a signal; then end everything."""
        with _Signals() as signals:
            try:
                while not signals.stop:
                    signals.wait(self._step())
            finally:
                self._stop(signals)

    def _step(self) -> float:
        """Do what is due; returns how long nothing else will be, unless a child ends [s]."""
        idle_s = self.server.tend()
        if self.server.pid is None:
            return idle_s
        if not self.server.ready:
            return self._await_server()
        idle_s = self.serving.tend()
        if self.serving.pid is None:
            return min(idle_s, HEALTH_EACH_S)
        if not self.serving.ready and self._serves():
            first = not self.serving.was_ready
            self.serving.tell_ready()
            if first:
                show(f"the dashboard is at {self.url}; stop with Ctrl-C")
        self._look_after_health()
        return HEALTH_EACH_S if self.serving.ready else STARTING_EACH_S

    def _await_server(self) -> float:
        # It takes connections almost at once and answers them when it is ready, so this does not have to be often.
        if answers(self.api_url):
            self.server.tell_ready()
            self._health_due_s = time.monotonic() + HEALTH_EACH_S
            return 0.0
        if self.server.runs_s > READY_LIMIT_S:
            self.server.kill()
        return STARTING_EACH_S

    def _serves(self) -> bool:
        """Whether the serving process has asked the server for work since it was started."""
        try:
            found = self._ask("deployments/filter", {})
        except (OSError, http.client.HTTPException, ValueError):
            return False
        polled = [datetime.fromisoformat(one["last_polled"]) for one in found if one.get("last_polled")]
        return any(moment >= self.serving.started_at_utc for moment in polled)

    def _look_after_health(self) -> None:
        """A server that does not answer for minutes schedules nothing: end it, and it is started again."""
        if time.monotonic() < self._health_due_s:
            return
        self._health_due_s = time.monotonic() + HEALTH_EACH_S
        for child in (self.server, self.serving):
            child.rotate_log()
        self._unanswered = 0 if answers(self.api_url, HEALTH_LIMIT_S) else self._unanswered + 1
        if self._unanswered >= HUNG_AFTER:
            logger.warning("the Prefect server has not answered for %.0f s", HUNG_AFTER * HEALTH_EACH_S)
            self._unanswered = 0
            self.server.kill()

    def _stop(self, signals: _Signals) -> None:
        """First the flow processes, then who serves them, then the server, each told how the one before ended.

        A runner that ends while a run goes on leaves it Running for good, with its place taken.
        """

        def hurry() -> bool:
            return signals.count > 1

        if runs := self.serving.followers():
            send(runs, signal.SIGTERM)
            wait_until(lambda: not self.serving.followers() or hurry(), RUNS_GRACE_S)
            send(self.serving.followers(), signal.SIGKILL)
            wait_until(lambda: self._settled() or hurry(), SETTLING_S)
        self.serving.stop(SERVING_GRACE_S, hurry)
        self.server.stop(SERVER_GRACE_S, hurry)

    def _settled(self) -> bool:
        """Whether the server knows of no run that still goes on."""
        with suppress(OSError, http.client.HTTPException, ValueError):
            going_on = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
            return bool(self._ask("flow_runs/count", going_on) == 0)
        return True

    def _ask(self, what: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.password:
            headers["Authorization"] = f"Basic {base64.b64encode(self.password.encode()).decode()}"
        request = urllib.request.Request(f"{self.api_url}/{what}", json.dumps(body).encode(), headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=HEALTH_LIMIT_S) as response:  # noqa: S310
            return json.load(response)


def _environment_of_serving(environ: Mapping[str, str], home: Path, api_url: str, password: str) -> dict[str, str]:
    kept = {name: text for name, text in environ.items() if name != "PREFECT_SERVER_API_AUTH_STRING"}
    prefect_home.prepare(kept, home)
    return {**kept, "PREFECT_API_URL": api_url, **({"PREFECT_API_AUTH_STRING": password} if password else {})}


def _secrets(config_file: Path) -> set[str]:
    """The variables that the configuration reads alarm addresses from."""
    from eraflow.weekly_config import read_configuration

    with suppress(EraflowError):
        alarm = read_configuration(config_file).alarm
        return {text.strip("${}") for text in (*alarm.urls, alarm.heartbeat_url) if text.startswith("$")}
    return set()


class _Signals:
    """Signals that ask for the end, and those that tell of a child's, as something to wait for."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def stop(self) -> bool:
        return self.count > 0

    def __enter__(self) -> _Signals:
        # The interpreter itself writes to it as soon as a signal comes, so none can come just before the wait.
        self._awake, writing = socket.socketpair()
        self._writing = writing
        for end in (self._awake, writing):
            end.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # What was ignored before, as SIGHUP by nohup, stays ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._asked)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._awake.close()
        self._writing.close()

    def wait(self, limit_s: float) -> None:
        """Until any signal comes, or `limit_s` [s] have passed."""
        select.select([self._awake], [], [], max(0.0, limit_s))
        with suppress(BlockingIOError):
            self._awake.recv(4096)

    def _asked(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            logger.info("%s: stopping", signal.Signals(number).name)
