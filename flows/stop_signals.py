"""Signals that ask a program to end, and those that tell of a child's end, as something to wait for."""

from __future__ import annotations

import select
import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
