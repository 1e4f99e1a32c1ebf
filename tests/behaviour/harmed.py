"""A round in a process of its own that is harmed in one way: killed, starved, refused its disk, or robbed of a file.

Read `Harm`, then `play_harmed`. The process is forked from one that has its imports done, so that it costs no more than
the round itself. What it writes on standard output and standard error goes to a file, and what its round came to into
another one; nothing is handed over in memory, since it may be killed at any moment. When its round begins it leaves a
mark, so that a signal's moment and the time that a round takes are counted from there. Several may be started and
waited for in threads at once.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from eraflow.rehearsal import Fault
from eraflow.request import Request
from eraflow.result import json_object
from eraflow.store import PARTIAL
from eraflow.weekly import play
from tests.behaviour.crash_points import FOR_WRITING, LEDGER, NEEDS_IT, RENAMED, Watch
from tests.behaviour.week import CHILDREN, without_report

# All waits of a minute and less are shortened, so that a year passes in half an hour [s].
READ_TIMEOUT_S = 1.0
CONNECT_TIMEOUT_S = 1.0
STALLED_AFTER_S = 1.0
# The largest file of this market has less than a megabyte.
LARGEST_FILE_BYTES = 8 << 20
# A run that takes longer hangs: nothing in it may wait for longer than the sum of its tries [s].
PATIENCE_S = 120.0
BEGAN, SPOILED, STRUCK = "began", "spoiled.txt", "struck"
# What a run says of a file that is not written as the disk has no room, and of memory that it does not get.
NO_ROOM = (os.strerror(errno.EFBIG), "disk I/O error", "disk is full")
NO_MEMORY = ("memory", "can't start new thread")
# What a process does first to reach an address.
REACHED = ("socket.getaddrinfo", "socket.connect")
# A process's exit code is read once, from a pipe: two threads that ask for it at once would find it empty.
_ASKING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What happens to the process of one run; by default nothing."""

    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its environment has in place of the right values."""
    fault: Fault | None = None
    """What the tournament was told to do; it has no effect on the process itself."""
    signal: signal.Signals | None = None
    after_s: float = 0.0
    """When the signal comes, counted from the beginning of the round, if the run has not ended by then [s]."""
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
    spoils_before: int | None = None
    """Before its write of that index a file of the home is removed or cut, as by somebody else..."""
    spoils_with: str = ""
    """... which one is drawn with this seed."""
    asks: tuple[str, ...] = ()
    """The requests, by root field or end of their path, of which a run must make one to meet it."""
    is_there: bool = True
    """There was something to harm."""
    altered: set[str] | None = None
    """sha256 of the uploads that were altered on their way, as they come; None where none is to be."""

    @property
    def signals(self) -> frozenset[int]:
        """Those that may end the process; of a file that is mapped and cut the system tells by a SIGBUS."""
        sent = {self.signal} if self.signal else set[signal.Signals]()
        sent |= {signal.SIGKILL} if self.stop_before is not None else set()
        return frozenset(int(one) for one in sent | ({signal.SIGBUS} if self.spoils_before is not None else set()))


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
    """From the beginning of its round, or from that of its process where it never came so far."""
    signals: frozenset[int] = frozenset()
    """Those that may have ended it."""
    hangs: bool = False
    """It had to be ended, as it would not end."""
    spoiled: str = ""
    """How a file was harmed while it was at work, and which; empty if none was."""
    was_struck: bool = False
    """A write was refused or slow, or it asked for an address that it was given in place of the right one."""

    def says(self, *texts: str) -> bool:
        """Whether one of them stands in what it told or in what its round came to."""
        whole = self.told + json.dumps(self.result, ensure_ascii=False)
        return any(text in whole for text in texts)

    @property
    def is_killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL and not self.hangs

    @property
    def is_ended(self) -> bool:
        """SIGTERM has ended it, by its handler or before that was there."""
        return self.exit_code in (128 + signal.SIGTERM, -signal.SIGTERM)


class Started:
    """A run that is at work."""

    def __init__(self, environment: Mapping[str, str], request: Request, folder: Path, harm: Harm) -> None:
        folder.mkdir(parents=True)
        self._folder, self._harm, self._started_s = folder, harm, time.monotonic()
        given = {**environment, **harm.environment}
        self._process = CHILDREN.Process(target=_played, args=(given, request, folder, harm), daemon=True)
        with _ASKING:
            self._process.start()

    def ended(self) -> Run:
        """Harm it, wait for its end, and say what became of it."""
        if self._harm.signal is not None:
            while not self._read(BEGAN) and not self._is_over(0.005):
                pass
            if not self._is_over(self._harm.after_s):
                self._end(self._harm.signal)
        hangs = not self._is_over(PATIENCE_S)
        if hangs:
            self._end(signal.SIGKILL)
            self._is_over(PATIENCE_S)
        began_s = float(self._read(BEGAN) or self._started_s)
        with _ASKING:
            exit_code = self._process.exitcode or 0
        result = self._read("result.json")
        return Run(
            exit_code=exit_code, result=json.loads(result) if result else None, told=self._read("told.txt"),
            seconds=time.monotonic() - began_s, signals=self._harm.signals, hangs=hangs, spoiled=self._read(SPOILED),
            was_struck=(self._folder / STRUCK).exists(),
        )  # fmt: skip

    def _is_over(self, patience_s: float) -> bool:
        return bool(wait([self._process.sentinel], patience_s))

    def _end(self, number: signal.Signals) -> None:
        if self._process.pid is not None:
            os.kill(self._process.pid, number)

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text(errors="replace") if path.exists() else ""


def files_by_kind(home: Path) -> dict[str, list[Path]]:
    """Kind of a file of the home -> those that are there: the data each by its name, others by what they are of."""
    found = dict[str, list[Path]]()
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            found.setdefault(_kind(path.relative_to(home)), []).append(path)
    return found


def _kind(path: Path) -> str:
    folder, name = path.parts[0], path.name
    if any(part.startswith(PARTIAL) for part in path.parts):
        return f"{folder} half-written"
    if name.startswith(LEDGER):
        return LEDGER
    if "decoded" in path.parts:
        return f"decoded {folder} {name}"
    return f"{folder} {name}" if folder == "data" else f"{folder} {path.suffix}"


def drawn_of(files: Mapping[str, Sequence[Path]], draw: random.Random) -> list[Path]:
    """One file of a kind that is drawn first, since of some kinds there are many; none if there is none.

    As often as not the newest one: those of earlier weeks nobody reads.
    """
    if not files:
        return []
    kind, is_newest = files[draw.choice(sorted(files))], draw.random() < 0.5
    return [max(kind, key=lambda path: path.stat().st_mtime_ns) if is_newest else draw.choice(kind)]


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
    # Ctrl-C is for the campaign, which lets its runs come to their ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    tempfile.tempdir = None  # it was found before this process had its own environment
    torch.set_num_threads(1)
    _hurry()
    _mark(folder / BEGAN, str(time.monotonic()))
    _take_hold(harm, request.home, folder)
    result = play(request, without_report())
    _let_go()
    _mark(folder / "result.json", json.dumps(json_object(result)))
    sys.exit(result.exit_code)


def _mark(path: Path, text: str) -> None:
    """Write it whole, or not at all: the process may be killed meanwhile."""
    partial = path.with_suffix(".part")
    partial.write_text(text)
    partial.rename(path)


def _log_as_the_command_does() -> None:
    logger = logging.getLogger("eraflow")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _hurry() -> None:
    from eraflow import submission, tournament, transport

    transport.CONNECT_TIMEOUT_S = CONNECT_TIMEOUT_S
    transport.REACH_LIMIT_S = READ_TIMEOUT_S
    transport.READ_TIMEOUT_S = READ_TIMEOUT_S
    transport.STALLED_AFTER_S = STALLED_AFTER_S
    transport.ANSWER_LIMIT_S = READ_TIMEOUT_S
    transport.HEAD_LIMIT_S = READ_TIMEOUT_S
    transport.LARGEST_FILE_BYTES = LARGEST_FILE_BYTES
    tournament.RETRY_WAITS_S = (0.01, 0.02, 0.05, 0.1)
    tournament.LONGEST_WAIT_S = 0.1
    submission.READBACK_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)


def _take_hold(harm: Harm, home: Path, folder: Path) -> None:
    if harm.stop_before is not None:
        Watch(home, harm.stop_before)
    if harm.disk_error or harm.write_s or harm.spoils_before is not None:
        sys.addaudithook(_Disk(harm, home, folder).asked)
    if harm.environment:
        sys.addaudithook(partial(_reached, folder))
    if harm.largest_file_bytes is not None:
        # Without this the signal of a file that is too large ends the process; a full disk sends none.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (harm.largest_file_bytes, resource.RLIM_INFINITY))
    if harm.memory_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + harm.memory_bytes, -1))


def _reached(folder: Path, event: str, given: tuple[Any, ...]) -> None:
    if event in REACHED:
        (folder / STRUCK).touch()


def _let_go() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class _Disk:
    """A disk that refuses what is written to it from some moment on, takes its time, or loses a file."""

    def __init__(self, harm: Harm, home: Path, folder: Path) -> None:
        self._harm, self._home, self._folder, self._writes = harm, home, folder, 0
        self._lock, self._is_spoiling = threading.Lock(), False

    def asked(self, event: str, given: tuple[Any, ...]) -> None:
        if not given or not isinstance(given[0], str | os.PathLike):
            return
        if not os.fspath(given[0]).startswith(str(self._home)) or self._is_spoiling:
            return
        if event == "open":
            mode, flags = given[1], given[2]
            if not (any(letter in mode for letter in "wax+") if mode else flags & FOR_WRITING):
                return
        elif event not in RENAMED and event not in NEEDS_IT:
            return
        with self._lock:
            self._writes += 1
            if self._writes - 1 == self._harm.spoils_before:
                self._spoil()
        if self._harm.write_s:
            (self._folder / STRUCK).touch()
            time.sleep(self._harm.write_s)
        # A full disk still lets go of what is there.
        gives = self._harm.disk_error == errno.ENOSPC and event in ("os.remove", "os.rmdir", "os.rename")
        if self._harm.disk_error and self._writes > self._harm.from_write and not gives:
            (self._folder / STRUCK).touch()
            raise OSError(self._harm.disk_error, os.strerror(self._harm.disk_error), os.fspath(given[0]))

    def _spoil(self) -> None:
        """Remove or cut a file of the home, and tell which."""
        draw = random.Random(self._harm.spoils_with)  # noqa: S311 -- a plan that must repeat
        self._is_spoiling = True
        # Another run at work may have been quicker.
        with suppress(FileNotFoundError):
            for path in drawn_of(files_by_kind(self._home), draw):
                size_bytes, is_cut = path.stat().st_size, draw.random() < 0.5
                os.truncate(path, draw.randrange(size_bytes)) if is_cut and size_bytes else path.unlink()
                (self._folder / SPOILED).write_text(f"{'cut' if is_cut and size_bytes else 'removed'}: {path.name}")
        self._is_spoiling = False
