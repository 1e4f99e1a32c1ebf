"""Processes by their group: who is in one, told to end, waited for.

What a child starts is in the child's group, also after the child itself is dead; that is how nothing is left behind.
Read from /proc where there is one, else asked of `ps`. For systems that have process groups: Linux, macOS.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

LOOK_EACH_S = 0.05


def members(group: int) -> set[int]:
    """The processes of a group that live; one that ended and waits for its parent to ask counts as gone."""
    table = _from_proc() if Path("/proc/self/stat").exists() else _from_ps()
    return {process for process, of_group, state in table if of_group == group and not state.startswith("Z")}


def send(processes: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each; one that has gone meanwhile is passed over."""
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def kill_group(group: int) -> None:
    """Send SIGKILL to the whole group at once, so that nobody in it can start another."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def wait_until(reached: Callable[[], bool], limit_s: float) -> bool:
    """Look every 0.05 s whether `reached`, for at most `limit_s` [s]; the last answer."""
    started = time.monotonic()
    while not (found := reached()) and time.monotonic() - started < limit_s:
        time.sleep(LOOK_EACH_S)
    return found


def _from_proc() -> Iterable[tuple[int, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            # The name, in parentheses, may hold anything; state, parent and group follow it.
            state, _, group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            yield int(folder.name), int(group), state


def _from_ps() -> Iterable[tuple[int, int, str]]:
    listing = subprocess.run(
        ["ps", "-axo", "pid=,pgid=,stat="],  # noqa: S607  # its place differs between systems
        capture_output=True, text=True, check=False, timeout=10,
    ).stdout  # fmt: skip
    for line in listing.splitlines():
        process, group, state = line.split()[:3]
        yield int(process), int(group), state
