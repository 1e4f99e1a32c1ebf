"""One process at a time."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from eraflow.errors import StorageError
from eraflow.store import exclusive
from tests.eraflow.processes import child

HOLD = """
import sys, pathlib
from eraflow.store import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_keeps_other_processes_out_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    with child(HOLD, path) as holder:
        with (
            pytest.raises(StorageError, match=r"train\.parquet has been in use by another process for 0 s; try again"),
            exclusive(path, timeout_s=0.05),
        ):
            pytest.fail("two processes are inside")
        with exclusive(tmp_path / "live.parquet", timeout_s=0):
            pass  # another file is free
        assert holder.stdin is not None
        threading.Timer(0.1, holder.stdin.close).start()
        with exclusive(path, timeout_s=10):
            pass


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    with child(HOLD, path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with exclusive(path, timeout_s=0):
            pass


def test_threads_exclude_each_other_too(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "file", 0, 0

    def work() -> None:
        nonlocal inside, most
        with exclusive(path):
            inside += 1
            most = max(most, inside)
            time.sleep(0.005)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_is_released_by_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path / "file"):
        raise KeyError("lost")
    with exclusive(tmp_path / "file", timeout_s=0):
        pass


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be locked"), exclusive(tmp_path / "file" / "below"):
        pytest.fail("locked below a file")
