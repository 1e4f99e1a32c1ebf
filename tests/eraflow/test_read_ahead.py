"""Reading ahead changes no weight, goes a bounded way ahead, ends with the loop and hides no error."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import mmap
import os
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from eraflow import read_ahead
from eraflow.rows import Plan, Rows
from eraflow.training import TrainingConfig
from tests.eraflow.fitting import ERAWISE, ROWWISE, Enough, KillAfter, Killed, market, run, same_weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes such requests")

IN_ORDER = dataclasses.replace(ROWWISE, shuffle=False)
BLOCKS = dataclasses.replace(ROWWISE, shuffle_block_rows=10)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a matrix of a few kilobytes were larger than memory."""
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 2000)
    monkeypatch.setattr(read_ahead, "free_bytes", lambda device: 1)


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("eraflow-read-ahead")]


def mapped(rows: Rows, folder: Path, columns: list[int] | None = None) -> Rows:
    code = np.empty((len(rows), rows.n_features), np.int8)
    rows.gather(np.arange(len(rows)), code)
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, code)
    chosen = None if columns is None else np.array(columns)
    return Rows.of(np.load(path, mmap_mode="r"), rows.target_M, rows.era_M, columns=chosen)


def in_memory(rows: Rows) -> Rows:
    code = np.empty((len(rows), rows.n_features), np.int8)
    rows.gather(np.arange(len(rows)), code)
    return Rows.of(code, rows.target_M, rows.era_M)


def walk(rows: Rows, training: TrainingConfig) -> set[int]:
    """How many threads read ahead at each step of one pass; the steps are those of the plan."""
    plan, found = Plan(rows, training, None), set[int]()
    plan.steps = plan.steps_a_pass
    for step, index_B, sizes in read_ahead.steps(rows, plan, 0):
        expected_B, expected = Plan(rows, training, None).batch(step)
        np.testing.assert_array_equal(index_B, expected_B)
        assert sizes == expected
        found.add(len(readers()))
    return found


class Present:
    """A progress that notes whether the thread was there."""

    def __init__(self) -> None:
        self.found: set[int] = set()

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
        self.found.add(len(readers()))


@pytest.mark.parametrize("training", [IN_ORDER, ROWWISE, BLOCKS, ERAWISE], ids=["order", "rows", "blocks", "eras"])
def test_maps_give_what_memory_does(tmp_path: Path, training: TrainingConfig, tiny: None) -> None:
    """Two maps joined, of which a part of the columns is used, in another order."""
    columns, files = [7, 2, 3, 1], tmp_path / "files"
    parts = [mapped(market(1), files, columns), mapped(market(2, first_era=20), files, columns)]
    rows, present = Rows.joined(parts), Present()
    fitted = run(tmp_path / "map", training, rows=rows, progress=present)
    assert same_weights(fitted, run(tmp_path / "memory", training, rows=in_memory(rows)))
    assert max(present.found) == 1, "there is one while there is something to ask for"
    assert readers() == []


def test_the_thread_ends_with_the_loop_however_that_ends(tmp_path: Path, tiny: None) -> None:
    rows = mapped(market(), tmp_path / "files")
    with pytest.raises(Killed):
        run(tmp_path / "a", rows=rows, progress=KillAfter(2))
    assert readers() == []
    assert not run(tmp_path / "b", rows=rows, enough=Enough(10)).complete
    assert readers() == []


def test_an_error_of_the_thread_ends_the_loop(tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*given: int) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "posix_fadvise", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "a", IN_ORDER, rows=mapped(market(), tmp_path / "files"))
    assert readers() == []


def test_there_is_no_thread_for_memory_for_small_maps_and_for_a_file_without_a_name(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, nameless = mapped(market(), tmp_path / "files"), mapped(market(), tmp_path / "gone")
    next((tmp_path / "gone").iterdir()).unlink()
    assert walk(rows, IN_ORDER) == walk(rows, ROWWISE) == {1}
    assert walk(market(), IN_ORDER) == walk(nameless, IN_ORDER) == {0}
    monkeypatch.setattr(read_ahead, "free_bytes", lambda device: 2**30)
    assert walk(rows, ROWWISE) == {0}
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 2**20)
    assert walk(rows, IN_ORDER) == {0}


def test_rows_shuffled_singly_that_do_not_fit_into_memory_are_warned_of_once(
    tmp_path: Path, tiny: None, caplog: pytest.LogCaptureFixture
) -> None:
    rows = mapped(market(), tmp_path / "files")
    with caplog.at_level(logging.WARNING, "eraflow"):
        walk(rows, BLOCKS)
        walk(rows.by_era(), ERAWISE)
        assert caplog.messages == []
        walk(rows, ROWWISE)
    assert len(caplog.messages) == 1
    assert "training.shuffle_block_rows=4096 reads whole blocks" in caplog.messages[0]


def test_what_is_asked_for_is_read_in_time_and_not_much_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 2**20)
    codes, path = np.ones((16384, 1024), np.int8), tmp_path / "codes.npy"
    np.save(path, codes)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    code = np.load(path, mmap_mode="r")
    if residents(code).mean() > 0.01:
        pytest.skip("this file system keeps files in memory")
    rows = Rows.of(code, np.zeros(16384, np.float32), np.zeros(16384, np.int32))
    plan = Plan(rows, dataclasses.replace(IN_ORDER, batch_size=256, epochs=1), None)
    for step, index_B, _ in read_ahead.steps(rows, plan, 0):
        wait_until_resident(code[: 256 * (step + 1)])
        if step == 8:
            assert residents(code)[len(residents(code)) // 2 :].mean() < 0.01
        assert index_B[0] == 256 * step
    assert residents(code).all()


def test_a_part_of_a_map_is_found_in_its_file(tmp_path: Path) -> None:
    codes = np.arange(600, dtype=np.int16).astype(np.int8).reshape(100, 6)
    np.save(tmp_path / "codes.npy", codes)
    part = np.asarray(np.load(tmp_path / "codes.npy", mmap_mode="r")[20:][10:40])
    with ExitStack() as stack:
        file = read_ahead.map_file(part, stack)
        assert file is not None
        assert os.pread(file.number, 6, file.first_byte + 2 * file.row_bytes) == codes[32].tobytes()
        assert file.size_bytes == 180
    with ExitStack() as stack:
        assert read_ahead.map_file(codes, stack) is None


def residents(code: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """For each page of a map whether it is in memory."""
    address = code.__array_interface__["data"][0]
    begin = address // mmap.PAGESIZE * mmap.PAGESIZE
    size = address + code.nbytes - begin
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(begin), ctypes.c_size_t(size), found) == 0
    return np.frombuffer(found, np.uint8).astype(np.bool_)


def wait_until_resident(code: npt.NDArray[np.int8]) -> None:
    for _ in range(2000):
        if residents(code).all():
            return
        time.sleep(0.005)
    raise AssertionError("not read within 10 s")
