"""Where a round can be stopped: before each thing that it does to the disk, to the ledger or to the network.

Read `points_of`, then `Watch`. A child process plays the round with a watch on it, which counts whatever outlives the
process, whoever asks for it: every opening for writing, renaming, removal and making of a folder, every statement that
writes to the ledger and its commit, and of every request the moments before it begins and when all of it is sent.
Python's own audit events tell it, so that no door can be forgotten. To be stopped before the next point is to be
stopped after this one, since nothing that lasts lies between them. What is not told apart are the blocks inside one
file, which is written under a name that nobody reads, and what SQLite does inside one commit.
"""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eraflow.request import Request
from eraflow.store import PARTIAL
from eraflow.weekly import play
from tests.behaviour.week import CHILDREN, without_report

FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
RENAMED = ("os.rename", "os.truncate", "os.link", "os.symlink", "os.chmod")
NEEDS_IT = {"os.mkdir": False, "os.remove": True, "os.rmdir": True}
"""Whether there must be something at the path for this to do anything."""
READING = ("SELECT", "PRAGMA")
DOORS = ("/eraflow/store.py", "/eraflow/ledger.py", "/eraflow/transport.py")


@dataclass(frozen=True, kw_only=True)
class Points:
    """Those of a round that was played to its end."""

    names: list[str]
    """In order."""
    around_the_doors: list[str]
    """Of these, what neither the store nor the ledger nor the transport asked for, nor is inside a partial file."""


class Watch:
    """Counts the points of this process, and ends it by SIGKILL before the one that it is told."""

    def __init__(self, home: Path, stop_before: int | None) -> None:
        self.names: list[str] = []
        self.around_the_doors: list[str] = []
        self._home, self._stop_before = str(home), stop_before
        self._watch_ledger()
        self._watch_answers()
        sys.addaudithook(self._audit)

    def point(self, name: str, path: str = "") -> None:
        """One more point; the end of this process if it is the one."""
        if len(self.names) == self._stop_before:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(f"{name} {_plain(path)}".strip())
        if not _by_a_door() and PARTIAL not in path:
            self.around_the_doors.append(f"{name} {path}".strip())

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            self.point("request")
            return
        if not given or not isinstance(given[0], str | os.PathLike):
            return
        path = os.fspath(given[0])
        if not path.startswith(self._home):
            return
        if event == "open":
            mode, flags = given[1], given[2]
            if any(letter in mode for letter in "wax+") if mode else flags & FOR_WRITING:
                self.point("open", path)
        elif event in RENAMED or NEEDS_IT.get(event) == os.path.lexists(path):
            self.point(event, path)

    def _watch_answers(self) -> None:
        point, getresponse = self.point, http.client.HTTPConnection.getresponse

        def watched(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
            point("answer")
            return getresponse(connection)

        http.client.HTTPConnection.getresponse = watched  # type: ignore[method-assign, assignment]

    def _watch_ledger(self) -> None:
        point, connect = self.point, sqlite3.connect

        class Watched(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if not statement.lstrip().startswith(READING):
                    point(f"ledger {statement.split()[0]}")
                return super().execute(statement, *values)

            def __exit__(self, *error: Any) -> Any:
                point("ledger commit")
                return super().__exit__(*error)

        def watched(path: Any, **given: Any) -> sqlite3.Connection:
            return connect(path, factory=Watched, **given)

        sqlite3.connect = watched  # type: ignore[assignment]


def points_of(environment: Mapping[str, str], request: Request, told: Path) -> Points:
    """Play the round to its end in a process of its own, which writes to `told` what it came to."""
    assert _ended(environment, request, None, told) == 0
    names, _, around = told.read_text().partition("\n\n")
    return Points(names=names.splitlines(), around_the_doors=around.splitlines())


def stopped_before(point: int, environment: Mapping[str, str], request: Request, told: Path) -> bool:
    """Play the round in a process that is ended by SIGKILL before the point of that index; False if it has no such."""
    code = _ended(environment, request, point, told)
    assert code in (0, -signal.SIGKILL), f"stopped before point {point} it ended with {code}"
    return code != 0


def _ended(environment: Mapping[str, str], request: Request, stop_before: int | None, told: Path) -> int | None:
    run = CHILDREN.Process(target=_played, args=(environment, request, stop_before, told), daemon=True)
    run.start()
    run.join()
    return run.exitcode


def _played(environment: Mapping[str, str], request: Request, stop_before: int | None, told: Path) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    watch = Watch(request.home, stop_before)
    code = play(request, without_report()).exit_code
    told.write_text("\n".join(watch.names) + "\n\n" + "\n".join(watch.around_the_doors))
    sys.exit(code)


def _by_a_door() -> bool:
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_code.co_filename.endswith(DOORS):
            return True
        frame = frame.f_back
    return False


def _plain(path: str) -> str:
    """A path's last part, without what is drawn at random in it."""
    name = Path(path).name
    return f"{PARTIAL}*" if PARTIAL in path else ".at-work-*" if name.startswith(".at-work") else name
