"""The real `eraflow up` against a local tournament, to be harmed: for `benchmarks/outages.py` and its short forms.

Read `World`, then `Outcome`. Server, serving process and runs are processes of their own; the tournament, its clock
and who is told of alarms are in this one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

from eraflow.ledger import Attempt, Ledger
from eraflow.rehearsal import Fault, LocalTournament, MarketConfig
from eraflow.rounds import duration_text
from eraflow.store import Store
from eraflow.tournament import Tournament
from tests.real_prefect import ROOT, clean_environment, free_port, processes_of, run, wait_until

SLOTS = ("rehearsal_one", "rehearsal_two")
# Trains for a second or two, long enough to be killed in each stage.
MARKET = MarketConfig(features=20, train_eras=60, validation_eras=20, rows_per_era=300)
NEVER = "0 0 1 1 *"
PATIENCE_S = 180.0
# Prefect's server waits for its locked database for a minute before it says so.
ANSWER_S = 90.0
SERVER, SERVING, FLOW = "flows.server", "deployments.deploy", "prefect.engine"
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
UP = """
import logging, os, sys
from pathlib import Path
from eraflow.errors import EraflowError
from flows.up import up
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
try:
    sys.exit(up(Path(sys.argv[1]), os.environ, port=int(sys.argv[2]), every_s=float(sys.argv[3]) or None))
except EraflowError as error:
    print(error.message, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Bell:
    """Takes alarms at an address of this machine, as a user's own service would."""

    def __init__(self) -> None:
        bell = self
        self.heard: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                bell.heard.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self._server.server_address[1]}/alarms"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def titles(self, since: int = 0) -> tuple[str, ...]:
        return tuple(str(alarm["title"]) for alarm in self.heard[since:])

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one round."""

    outage: str
    happened: str
    after_s: float | None
    """From the outage, restart or trigger to the last verified receipt [s]; None: there is none."""
    left_s: float
    """Then, until the on-time deadline [s]."""
    sources: tuple[str, ...]
    accepted: Mapping[str, int]
    """Slot -> how many submissions the tournament took."""
    late: int
    alarms: tuple[str, ...]

    @property
    def is_saved(self) -> bool:
        """Each slot has exactly one submission, on time and verified."""
        return self.after_s is not None and self.left_s > 0 and not self.late and set(self.accepted.values()) == {1}

    @property
    def row(self) -> str:
        """A line of the table."""
        came = "never" if self.after_s is None else f"{self.after_s:.0f} s"
        taken = ", ".join(sorted({str(count) for count in self.accepted.values()})) or "0"
        # The time that was left has a column of its own.
        titles = Counter(re.sub(r", [^,]* left$", "", title.removeprefix("eraflow: ")) for title in self.alarms)
        told = "; ".join(f"{title}{f' ({n} times)' if n > 1 else ''}" for title, n in titles.items())
        cells = [self.outage, self.happened, came, duration_text(self.left_s), ", ".join(self.sources), taken, told]
        return "| " + " | ".join(cell or "none" for cell in cells) + " |"


@dataclass
class World:
    """One home with its tournament, its configuration, and the `eraflow up` that may run for it."""

    folder: Path
    recipe: str = "simple-mlp"
    slots: Sequence[str] = SLOTS
    schedule: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"weekly": [NEVER]})
    settings: str = ""
    """More of the configuration file."""
    market: MarketConfig = MARKET
    weekly_only: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bell = Bell()
        self.local = LocalTournament(
            self.folder / "tournament", market=self.market, slots=self.slots, weekly_only=self.weekly_only,
            seed=self.seed,
        )  # fmt: skip
        self.local.start()
        self.home = Store.open(self.folder / "home").home
        self.config_file = self.folder / "my.toml"
        self.config_file.write_text(self._configuration())
        self.port = free_port()
        self.up_log = self.folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._heard = 0

    def _configuration(self) -> str:
        named = "\n".join(f'{slot} = "{self.recipe}"' for slot in self.slots)
        plan = {"weekly": [], "daily": [], "watch": [], "scores": [], **self.schedule}
        crons = "\n".join(f"{name} = {json.dumps(list(of_it))}" for name, of_it in plan.items())
        return (
            f'[slots]\n{named}\n[submission]\nreadback_s = 2\n[alarm]\nurls = ["$ERAFLOW_ALARM_URL"]\n'
            f"[schedule]\n{crons}\n{self.settings}\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            **clean_environment(),
            "ERAFLOW_API_URL": self.local.url,
            "NUMERAI_PUBLIC_ID": self.local.public_id,
            "NUMERAI_SECRET_KEY": self.local.secret_key,
            "ERAFLOW_HOME": str(self.home),
            "ERAFLOW_ALARM_URL": self.bell.url,
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        }

    # eraflow up

    @contextmanager
    def up(self, every_s: float = 0.0) -> Iterator[None]:
        """`eraflow up` inside, from when it serves; with `every_s` [s] all schedules are on that interval."""
        self.start_up(every_s)
        try:
            wait_until(lambda: self.is_ready() or not self.lives(), PATIENCE_S)
            assert self.lives(), self.up_log.read_text()
            yield
        finally:
            self.stop_up()

    def start_up(self, every_s: float = 0.0) -> None:
        with self.up_log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, str(self.config_file), str(self.port), str(every_s)],
                cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_ready(self) -> bool:
        return "the dashboard is at" in self.up_log.read_text()

    def stop_up(self) -> None:
        """Stop it as a user would; nothing may stay."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
            wait_until(lambda: not self.processes(), 10)

    def end(self) -> None:
        """Leave nothing running, whatever became of it."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.local.stop()
        self.bell.stop()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # Its processes

    def processes(self, program: str = "") -> list[int]:
        """The living processes of this home, of one program where it is named."""
        return [process for process, command in processes_of(self.home).items() if program in command]

    def kill(self, program: str = "") -> None:
        """SIGKILL for every process of this program; without one, for all at the same instant."""
        for process in self.processes(program):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def kill_up(self) -> None:
        """SIGKILL for `up` alone; what it started ends by itself within some seconds."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One `eraflow` command to its end, as a person or a timer of the system starts it."""
        return run([sys.executable, "-m", "flows", *arguments, "--config", str(self.config_file)], self.environment)

    # Its server

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def ask(self, what: str, body: Mapping[str, Any]) -> Any:
        answer = requests.post(f"{self.api_url}/{what}", json=body, timeout=ANSWER_S)
        while answer.status_code == 503:  # its database was locked; every client of Prefect's asks again
            answer = requests.post(f"{self.api_url}/{what}", json=body, timeout=ANSWER_S)
        answer.raise_for_status()
        return answer.json()

    def trigger(self, name: str = "weekly", *, wait_s: float | None = None) -> str:
        """Start a run of a deployment by hand, as the dashboard does; returns its id.

        With `wait_s` [s] it waits for a round no longer than that.
        """
        (found,) = [one for one in self.ask("deployments/filter", {}) if one["name"] == name]
        body: dict[str, Any] = {"state": {"type": "SCHEDULED"}}
        if wait_s is not None:
            body["parameters"] = {"request": {**found["parameters"]["request"], "wait_s": wait_s}}
        return str(self.ask(f"deployments/{found['id']}/create_flow_run", body)["id"])

    def run_of(self, identity: str) -> dict[str, Any]:
        (found,) = self.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [identity]}}})
        return dict(found)

    # The round

    def open_next_round(self, delay_s: float = 0.0) -> int:
        """Open it; from here on alarms and submissions are this round's."""
        self.forget_alarms()
        number = self.local.open_next_round(delay_s=delay_s)
        self.look_at_round()
        return number

    def announce_next_round(self, *, delay_s: float, lead_s: float) -> int:
        """Move the clock to `lead_s` [s] before the noon at which the next round should open, but will this late."""
        self.forget_alarms()
        number = self.local.delay_next_round(delay_s)
        # Nobody outside is told of a round before it opens.
        core = self.local._core
        at = core.timetable.round(number)
        core.publisher.prepare(at)
        core.move_to(at.scheduled_utc - timedelta(seconds=lead_s))
        self.opens_at_utc = at.opens_at_utc
        return number

    def opens_in_s(self) -> float:
        """Until the round that was announced last really opens [s]."""
        return (self.opens_at_utc - self.local.now_utc()).total_seconds()

    def alarms(self) -> tuple[str, ...]:
        """The titles of what was raised since the round was opened."""
        return self.bell.titles(self._heard)

    def forget_alarms(self) -> None:
        """What was raised so far belongs to something else."""
        self._heard = len(self.bell.heard)

    def look_at_round(self) -> int:
        """From here on the deadline is that of the round that is open."""
        opened = Tournament.from_environment(self.environment).current_round()
        self.closes_at_utc = opened.closes_at_utc
        return opened.number

    def left_s(self) -> float:
        """Until the on-time deadline of the round that was looked at last [s]."""
        return (self.closes_at_utc - self.local.now_utc()).total_seconds()

    def move_to_left(self, left_s: float) -> None:
        """Let time pass until so much is left of the round [s]."""
        self.local.move_clock(self.left_s() - left_s)

    def slowed(self, name: str, seconds: float) -> Fault:
        """Let the next download of this file take about so long [s]."""
        size_bytes = max(path.stat().st_size for path in (self.folder / "tournament").rglob(name))
        fault = Fault(where=f"get:{name}", what="slow", n=max(1, int(size_bytes / seconds)))
        self.local.faults.add(fault)
        return fault

    def attempts(self, number: int) -> list[Attempt]:
        ledger = Ledger(Store.open(self.home).ledger_path, self.local.url)
        return [attempt for slot in self.slots for attempt in ledger.attempts(number, slot)]

    def is_safe(self, number: int) -> bool:
        """Whether the ledger has a verified receipt for each slot."""
        return {a.slot for a in self.attempts(number) if a.state == "verified"} == set(self.slots)

    def outcome(
        self, outage: str, happened: str, number: int, since_s: float, *, patience_s: float = PATIENCE_S,
        settle_s: float = PATIENCE_S,
    ) -> Outcome:  # fmt: skip
        """Wait for the receipts of a round, and for whoever is still at work; what became of it since `since_s`."""
        after_s: float | None = None
        with suppress(AssertionError):
            wait_until(lambda: self.is_safe(number), patience_s)
            after_s = time.monotonic() - since_s
        left_s = self.left_s()
        # Whoever is still at work may send twice or raise an alarm: that counts too.
        at_work = set(self.processes(FLOW))
        with suppress(AssertionError):
            wait_until(lambda: not at_work & set(self.processes(FLOW)), settle_s)
        made = [one for one in self.local.accepted(number) if not one.carried_over]
        return Outcome(
            outage=outage,
            happened=happened,
            after_s=after_s,
            left_s=left_s,
            sources=tuple(dict.fromkeys(a.source for a in self.attempts(number) if a.state == "verified")),
            accepted={slot: sum(one.slot == slot for one in made) for slot in self.slots},
            late=sum(one.late for one in made),
            alarms=self.alarms(),
        )


@contextmanager
def nobody_answers(port: int) -> Iterator[None]:
    """Somebody else takes the port, accepts whoever comes, and never says a word."""
    taken: list[socket.socket] = []

    def try_to_listen() -> bool:
        with suppress(OSError):
            taken.append(socket.create_server(("127.0.0.1", port), backlog=128))
        return bool(taken)

    wait_until(try_to_listen, 10)
    held: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                held.append(taken[0].accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        for one in (*taken, *held):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def reached(what: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
    """Wait in small steps until `what` holds; returns when that was, by the monotonic clock [s]."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < patience_s, "it never came so far"
        time.sleep(0.002)
    return time.monotonic()
