"""Who is at work on a round: a lock that a run holds, which is free at once when its process is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from eraflow.errors import StorageError
from eraflow.store import Store, exclusive

AT_WORK = "at-work"


@contextmanager
def at_work(store: Store, round_number: int) -> Iterator[None]:
    """Inside, `in_progress` says so to every process of this home."""
    name = f"{AT_WORK}-{os.getpid()}-{secrets.token_hex(4)}"
    folder = store.round_folder(round_number)
    try:
        with exclusive(folder / name):
            yield
    finally:
        (folder / f".{name}.lock").unlink(missing_ok=True)


def in_progress(store: Store, round_number: int) -> bool:
    """Whether a process is at work on this round; one that was killed is not."""
    folder = store.home / "rounds" / str(int(round_number))
    for lock in folder.glob(f".{AT_WORK}-*.lock"):
        try:
            with exclusive(folder / lock.name[1 : -len(".lock")], timeout_s=0):
                lock.unlink(missing_ok=True)
        except StorageError:
            return True
    return False
