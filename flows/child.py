"""One process that `eraflow up` keeps alive: started, watched, started again with a growing pause, stopped.

It leads a process group of its own, ends with its parent (see `flows.lifeline`) and writes to a log of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from eraflow.errors import EraflowError, StorageError
from eraflow.store import replacing, utc_text
from flows.process_group import kill_group, members, send, wait_until

logger = logging.getLogger("eraflow")

LARGEST_LOG_BYTES = 5_000_000
LONGEST_PAUSE_S = 60.0
# One that has run this long is not dying again and again [s].
RAN_WELL_S = 60.0
# So often a child may end before it was ever ready.
FIRST_STARTS = 3


class Child:
    """A child, running or about to be started again."""

    def __init__(
        self, *, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path, linger_s: float = 0.0
    ) -> None:
        """`command` is a module and its arguments; `linger_s` [s] is how long it stays after its parent has gone."""
        self.name = name
        self.log = log
        self.ready = False
        """Does its work, since it was started the last time."""
        self.was_ready = False
        """Has done its work at least once."""
        self.started_at_utc = datetime.now(UTC)
        self._command = [sys.executable, "-P", "-m", "flows.lifeline", str(linger_s), *command]
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._due_s = 0.0
        self._deaths = 0
        self._log_begins = 0
        self._groups: set[int] = set()  # of its predecessors too, whose own children may outlive them

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def runs_s(self) -> float:
        """How long it has been running [s]."""
        return time.monotonic() - self._started_s if self._process else 0.0

    def tend(self) -> float:
        """Start it if it is due, notice it if it ended; returns how long nothing needs to be done here [s].

        Raises `EraflowError` when it has ended three times without ever having been ready.
        """
        if self._process and (code := self._process.poll()) is not None:
            self._ended(code)
        if len(self._groups) > 1:  # a number is used again some day, so those that are empty are forgotten
            self._groups = {group for group in self._groups if group == self.pid or members(group)}
        if self._process is None and time.monotonic() >= self._due_s:
            try:
                self._start()
            except OSError as error:  # no room for the log, no more processes: that passes
                self._died(f"it could not be started: {error.strerror}")
        return 0.0 if self._process else max(0.0, self._due_s - time.monotonic())

    def tell_ready(self) -> None:
        """Note that it does its work."""
        if self.was_ready:
            logger.info("%s runs again", self.name)
        self.ready = self.was_ready = True

    def followers(self) -> set[int]:
        """What it and its predecessors have started and still runs."""
        return {process for group in self._groups for process in members(group)} - {self.pid}

    def kill(self) -> None:
        """End it and its group at once."""
        if self._process:
            kill_group(self._process.pid)

    def stop(self, grace_s: float, hurry: Callable[[], bool]) -> None:
        """End it in an orderly way; after `grace_s` [s], or when in a `hurry`, kill it. Nothing of its groups stays."""
        if process := self._process:
            send([process.pid], signal.SIGTERM)
            wait_until(lambda: process.poll() is not None or hurry(), grace_s)
        for group in self._groups:
            kill_group(group)
        if process:
            with suppress(subprocess.TimeoutExpired):  # what SIGKILL does not end at once, nobody can
                process.wait(1.0)
            self._let_go(process)

    def rotate_log(self) -> None:
        """Keep a large log as the one old log and begin it anew; the process writes on into it."""
        # A log that stays large harms less than a supervisor that ends.
        with suppress(OSError, StorageError):
            if self.log.stat().st_size > LARGEST_LOG_BYTES:
                with replacing(self.log.with_suffix(".old.log")) as old:
                    old.touch(mode=0o600)
                    shutil.copyfile(self.log, old)
                os.truncate(self.log, 0)
                self._log_begins = 0

    def last_words(self) -> str:
        """The last line that it wrote since it was started."""
        lines: list[str] = []
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self._log_begins, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")

    def _start(self) -> None:
        self.rotate_log()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            self.started_at_utc = datetime.now(UTC)
            log.write(f"-- started at {utc_text(self.started_at_utc)}\n".encode())
            log.flush()
            self._log_begins = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  # our own modules
                self._command, env=dict(self._environ), stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which stops them in order
            )  # fmt: skip
        self._started_s = time.monotonic()
        self._groups.add(self._process.pid)

    def _ended(self, code: int) -> None:
        if self.runs_s > RAN_WELL_S:
            self._deaths = 0
        if self._process:
            self._let_go(self._process)
        self._died(f"signal {-code}" if code < 0 else f"exit code {code}")

    def _died(self, how: str) -> None:
        self.ready = False
        self._deaths += 1
        if not self.was_ready and self._deaths >= FIRST_STARTS:
            raise EraflowError(
                f"{self.name} must start, however it ended {self._deaths} times ({how}): {self.last_words()};"
                f" see {self.log}",
                code="did-not-start",
            )
        pause_s = min(2.0 ** min(self._deaths - 1, 10), LONGEST_PAUSE_S)
        self._due_s = time.monotonic() + pause_s
        logger.warning("%s ended (%s) and is started again in %.0f s; see %s", self.name, how, pause_s, self.log)

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin:
            process.stdin.close()
        self._process = None
