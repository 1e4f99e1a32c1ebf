"""Where a round can be stopped: before each thing that it does to the disk, to the ledger or to the network.

Read `points_of`, then `Watch`. A child process plays the round with a watch on it, which counts whatever outlives the
process, whoever asks for it: every opening for writing, renaming, removal and making of a folder, every statement that
writes to the ledger and its commit, and of every request the moments before it begins and when all of it is sent.
Python's own audit events tell it, whichever module asks. They do not tell of what libraries write by themselves
(`safetensors.save_file`, pyarrow), of `os.utime`, nor of each removal inside `shutil.rmtree`: these are no points. A
file that came to its place by none of the openings and renamings that were told is found, though (`Points.unseen`). To
be stopped before the next point is to be stopped after this one, as far as what lasts between them is told. What is not
told apart are the blocks inside one file, which is written under a name that nobody reads, and what SQLite does inside
one commit. The report, alarms and Prefect are no part of the rounds that are played here.
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
LEDGER = "ledger.sqlite"
DOORS = ("/eraflow/store.py", "/eraflow/ledger.py", "/eraflow/transport.py")


@dataclass(frozen=True, kw_only=True)
class Points:
    """Those of a round that was played to its end."""

    names: list[str]
    """In order."""
    around_the_doors: list[str]
    """Of these, what neither the store nor the ledger nor the transport asked for, nor is inside a partial file."""
    unseen: list[str]
    """Files that the round made or changed, by their place in the home, which no point has opened or moved there."""


class Watch:
    """Counts the points of this process, and ends it by SIGKILL before the one that it is told."""

    def __init__(self, home: Path, stop_before: int | None) -> None:
        self.names: list[str] = []
        self.around_the_doors: list[str] = []
        self.reached: set[str] = set()
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
                self.reached.add(path)
        elif event in RENAMED or NEEDS_IT.get(event) == os.path.lexists(path):
            self.point(event, path)
            if event == "os.rename":
                self.reached.add(os.fspath(given[1]))

    def unseen(self, before: Mapping[str, tuple[int, int]]) -> list[str]:
        """Files that are not as they were `before` (`_files`), the ledger's own aside, and were not reached."""
        changed = [Path(self._home, name) for name, file in _files(self._home).items() if before.get(name) != file]
        return [
            str(path.relative_to(self._home))
            for path in changed
            if not path.name.startswith(LEDGER) and not any(str(one) in self.reached for one in (path, *path.parents))
        ]

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
    names, around, unseen = told.read_text().split("\n\n")
    return Points(
        names=names.splitlines(), around_the_doors=around.splitlines(), unseen=unseen.splitlines()
    )  # fmt: skip


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
    before = _files(request.home)
    watch = Watch(request.home, stop_before)
    code = play(request, without_report()).exit_code
    told.write_text("\n\n".join("\n".join(one) for one in (watch.names, watch.around_the_doors, watch.unseen(before))))
    sys.exit(code)


def _files(home: str | Path) -> dict[str, tuple[int, int]]:
    """Every file below it -> when it was changed [ns] and its number on the disk."""
    found = {str(path.relative_to(home)): path.stat() for path in Path(home).rglob("*") if path.is_file()}
    return {name: (status.st_mtime_ns, status.st_ino) for name, status in found.items()}


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
