"""Time and memory of a process as the system tells them, not by the process's own word.

    found = watched([sys.executable, "-m", "benchmarks.something", "one-side"])

The child calls `begin()` after its imports and `end()` after its work. Memory is read from /proc, every two
milliseconds between the two; Linux only.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "BEGIN-WORK", "END-WORK"
EVERY_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What one child took between `begin` and `end`."""

    seconds: float
    processor_s: float
    """Of all its threads."""
    base_anonymous_bytes: int
    """At `begin`: interpreter and imports."""
    base_rss_bytes: int
    peak_anonymous_bytes: int
    peak_rss_bytes: int
    """Maps of files included."""
    printed: tuple[str, ...]
    """What the child printed besides."""

    @property
    def added_anonymous_bytes(self) -> int:
        return self.peak_anonymous_bytes - self.base_anonymous_bytes

    @property
    def added_rss_bytes(self) -> int:
        return self.peak_rss_bytes - self.base_rss_bytes


def begin() -> None:
    """Said by the child when its imports are done."""
    print(BEGIN, flush=True)


def end() -> None:
    """Said by the child when its work is done."""
    print(END, flush=True)


def watched(command: Sequence[str]) -> Watched:
    """Run `command` to its end. Raises `CalledProcessError` if it fails, `ValueError` if it says no begin or end."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - a script of this folder
    times: dict[str, float] = {}
    memory: dict[str, int] = {}
    printed: list[str] = []
    over, busy_s = threading.Event(), 0.0
    watcher = threading.Thread(target=_watch, args=(child.pid, over, memory), daemon=True)
    for line in child.stdout or ():
        if line.strip() == BEGIN:
            memory["base"], memory["base_rss"] = anonymous_bytes(child.pid), _status(child.pid)["VmRSS"]
            times[BEGIN], busy_s = time.perf_counter(), processor_s(child.pid)
            watcher.start()
        elif line.strip() == END:
            times[END], busy_s = time.perf_counter(), processor_s(child.pid) - busy_s
            over.set()
            watcher.join()
        else:
            printed.append(line.rstrip("\n"))
    over.set()
    if child.wait():
        raise subprocess.CalledProcessError(child.returncode, list(command), "\n".join(printed))
    if set(times) != {BEGIN, END}:
        raise ValueError(f"a watched process must say begin and end, however {command} said {sorted(times)}")
    return Watched(
        seconds=times[END] - times[BEGIN],
        processor_s=busy_s,
        base_anonymous_bytes=memory["base"],
        base_rss_bytes=memory["base_rss"],
        peak_anonymous_bytes=memory["anonymous"],
        peak_rss_bytes=memory["rss"],
        printed=tuple(printed),
    )


def anonymous_bytes(pid: int) -> int:
    """Memory of the process that is no map of a file [bytes]."""
    return _status(pid)["RssAnon"]


def processor_s(pid: int) -> float:
    """Processor time of the process so far, user and system [s]."""
    # The name in parentheses may hold spaces; the 14th and 15th fields count ticks.
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _watch(pid: int, over: threading.Event, memory: dict[str, int]) -> None:
    memory["anonymous"] = memory["rss"] = 0
    while True:
        try:
            now = _status(pid)
        except (OSError, KeyError):
            return  # the child has ended
        memory["anonymous"] = max(memory["anonymous"], now["RssAnon"])
        memory["rss"] = max(memory["rss"], now["VmRSS"])
        if over.wait(EVERY_S):
            return


def _status(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}
