"""Who is at work on a round: a lock that a run holds, which is free at once when its process is killed."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eraflow.errors import StorageError
from eraflow.store import Store, discard, exclusive

AT_WORK = "at-work"


@contextmanager
def at_work(store: Store, round_number: int) -> Iterator[None]:
    """Inside, `at_work_s` tells it to every process of this home."""
    # When it began stands in the name: whoever looks whether the lock is held changes the file's own time.
    name = f"{AT_WORK}-{int(time.time())}-{os.getpid()}-{secrets.token_hex(4)}"
    folder = store.round_folder(round_number)
    try:
        with exclusive(folder / name):
            yield
    finally:
        discard(folder / f".{name}.lock")


def at_work_s(store: Store, round_number: int) -> float | None:
    """For how long the longest run has been at work on this round [s]; None if none is, or only one that was killed."""
    folder = store.home / "rounds" / str(int(round_number))
    began = [_began(lock.name) for lock in folder.glob(f".{AT_WORK}-*.lock") if _is_held(lock)]
    return max(0.0, time.time() - min(began)) if began else None


def _began(name: str) -> float:
    told = re.fullmatch(rf"\.{AT_WORK}-(\d+)-.*", name)
    return float(told[1]) if told else 0.0


def _is_held(lock: Path) -> bool:
    try:
        with exclusive(lock.with_name(lock.name[1 : -len(".lock")]), timeout_s=0), suppress(StorageError):
            discard(lock)  # where it may not, it stays, and nobody holds it
    except StorageError:
        return True
    return False
