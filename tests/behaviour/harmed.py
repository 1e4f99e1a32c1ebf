"""A round in a process of its own that is harmed in one way: killed, starved, or refused its disk.

Read `Harm`, then `play_harmed`. The process is forked from one that has its imports done, so that it costs no more than
the round itself. What it writes on standard output and standard error goes to a file, and what its round came to into
another one; nothing is handed over in memory, since it may be killed at any moment.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eraflow.request import Request
from eraflow.result import json_object
from eraflow.weekly import play
from tests.behaviour.crash_points import FOR_WRITING, NEEDS_IT, RENAMED, Watch
from tests.behaviour.week import CHILDREN, without_report

# All waits of a minute and less are shortened, so that a year passes in half an hour [s].
READ_TIMEOUT_S = 1.0
STALLED_AFTER_S = 1.0
# The largest file of this market has less than a megabyte.
LARGEST_FILE_BYTES = 8 << 20
# A run that takes longer hangs: nothing in it may wait for longer than the sum of its tries [s].
PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What happens to the process of one run; by default nothing."""

    name: str = ""
    signal: signal.Signals | None = None
    after_s: float = 0.0
    """When the signal comes, if the run has not ended by then [s]."""
    stop_before: int | None = None
    """The point (`crash_points`) before which it is ended by SIGKILL."""
    disk_error: int = 0
    """What the system answers, as errno.ENOSPC, to everything that would write below the home..."""
    from_write: int = 0
    """... from this one on."""
    largest_file_bytes: int | None = None
    """The disk has room for no more of any file."""
    memory_bytes: int | None = None
    """What it may take beside what it has when the round begins."""
    write_s: float = 0.0
    """What each write takes longer, as on a slow disk [s]."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of one."""

    exit_code: int
    """Negative: the signal that ended it. 128 + signal: it ended itself after one."""
    result: dict[str, Any] | None
    """`result.json_object`, if it came so far."""
    told: str
    """What it wrote on standard output and standard error."""
    seconds: float

    @property
    def is_killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL


class Started:
    """A run that is at work."""

    def __init__(self, environment: Mapping[str, str], request: Request, folder: Path, harm: Harm) -> None:
        folder.mkdir(parents=True)
        self._folder, self._harm, self._began_s = folder, harm, time.monotonic()
        self._process = CHILDREN.Process(target=_played, args=(environment, request, folder, harm), daemon=True)
        self._process.start()

    def ended(self) -> Run:
        """Harm it, wait for its end, and say what became of it."""
        harm, process = self._harm, self._process
        if harm.signal is not None:
            process.join(harm.after_s)
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, harm.signal)
        process.join(PATIENCE_S)
        hangs = process.is_alive()
        if hangs:
            process.kill()
            process.join()
        told = (self._folder / "told.txt").read_text(errors="replace") if (self._folder / "told.txt").exists() else ""
        assert not hangs, f"a run with the harm {harm} took more than {PATIENCE_S:g} s: {told}"
        result = self._folder / "result.json"
        return Run(
            exit_code=process.exitcode or 0,
            result=json.loads(result.read_text()) if result.exists() else None,
            told=told,
            seconds=time.monotonic() - self._began_s,
        )


def play_harmed(environment: Mapping[str, str], request: Request, folder: Path, harm: Harm | None = None) -> Run:
    """Play the round to whatever end it comes to; `folder` is made for what it says."""
    return Started(environment, request, folder, harm or Harm()).ended()


def _played(environment: Mapping[str, str], request: Request, folder: Path, harm: Harm) -> None:
    import torch

    told = os.open(folder / "told.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(told, 1)
    os.dup2(told, 2)
    _log_as_the_command_does()
    # As the command does it, so that what is held is let go of.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.update(environment)
    torch.set_num_threads(1)
    _hurry()
    _take_hold(harm, request.home)
    result = play(request, without_report())
    _let_go()
    (folder / "result.json").write_text(json.dumps(json_object(result)))
    sys.exit(result.exit_code)


def _log_as_the_command_does() -> None:
    logger = logging.getLogger("eraflow")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _hurry() -> None:
    from eraflow import submission, tournament, transport

    transport.READ_TIMEOUT_S = READ_TIMEOUT_S
    transport.STALLED_AFTER_S = STALLED_AFTER_S
    transport.ANSWER_LIMIT_S = READ_TIMEOUT_S
    transport.HEAD_LIMIT_S = READ_TIMEOUT_S
    transport.LARGEST_FILE_BYTES = LARGEST_FILE_BYTES
    tournament.RETRY_WAITS_S = (0.01, 0.02, 0.05, 0.1)
    tournament.LONGEST_WAIT_S = 0.1
    submission.READBACK_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)


def _take_hold(harm: Harm, home: Path) -> None:
    if harm.stop_before is not None:
        Watch(home, harm.stop_before)
    if harm.disk_error or harm.write_s:
        sys.addaudithook(_Disk(harm, str(home)).asked)
    if harm.largest_file_bytes is not None:
        # Without this the signal of a file that is too large ends the process; a full disk sends none.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (harm.largest_file_bytes, resource.RLIM_INFINITY))
    if harm.memory_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + harm.memory_bytes, -1))


def _let_go() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class _Disk:
    """A disk that refuses what is written to it from some moment on, or takes its time."""

    def __init__(self, harm: Harm, home: str) -> None:
        self._harm, self._home, self._writes = harm, home, 0

    def asked(self, event: str, given: tuple[Any, ...]) -> None:
        if not given or not isinstance(given[0], str | os.PathLike) or not os.fspath(given[0]).startswith(self._home):
            return
        if event == "open":
            mode, flags = given[1], given[2]
            if not (any(letter in mode for letter in "wax+") if mode else flags & FOR_WRITING):
                return
        elif event not in RENAMED and event not in NEEDS_IT:
            return
        self._writes += 1
        time.sleep(self._harm.write_s)
        # A full disk still lets go of what is there.
        gives = self._harm.disk_error == errno.ENOSPC and event in ("os.remove", "os.rmdir", "os.rename")
        if self._harm.disk_error and self._writes > self._harm.from_write and not gives:
            raise OSError(self._harm.disk_error, os.strerror(self._harm.disk_error), os.fspath(given[0]))
