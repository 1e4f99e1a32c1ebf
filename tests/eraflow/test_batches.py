"""Batches: the same bits in whichever way codes reach the device, whatever is asked for and in whatever order.

The lines of "resident" and "streamed" run here on a processor, where torch's streams and events do nothing; that they
wait where they must is shown on a device that works late (`late_device`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from eraflow import batches, footprint
from eraflow.batches import Batches, Way
from eraflow.footprint import bytes_a_row, bytes_of_weights, way_to
from eraflow.rows import Plan, Rows
from eraflow.training import TrainingConfig
from tests.eraflow.fitting import ERAWISE, ROWWISE, SMALL, market, run_members, same_weights
from tests.eraflow.late_device import LateDevice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def chosen(shape: str) -> Rows:
    rng = np.random.default_rng(0)
    code = rng.integers(-2, 3, (300, 12)).astype(np.int8)
    columns = np.array([7, 2, 3]) if shape == "narrow" else None
    rows = Rows.of(code, rng.random(300), np.arange(300) // 50, columns=columns)
    if shape == "one row":
        return rows.take(np.array([17]))
    if shape == "joined":
        return Rows.joined([rows, rows]).take(rng.permutation(600))
    return rows.take(rng.permutation(300)[:200])


def batches_of(rows: Rows, size: int, *, passes: int = 2) -> list[npt.NDArray[np.int64]]:
    """Shuffled, the last one of each pass smaller."""
    orders = [np.random.default_rng(number).permutation(len(rows)) for number in range(passes)]
    return [order[start : start + size] for order in orders for start in range(0, len(rows), size)]


@pytest.mark.parametrize("way", batches.WAYS)
@pytest.mark.parametrize("shape", ["scattered", "one row", "joined", "narrow"])
@pytest.mark.parametrize("size", [1, 64, 1000])
def test_a_batch_has_the_same_bits_in_every_way(
    way: Way, shape: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PIECE_BYTES", 500)  # so that an upload takes some pieces, the last one smaller
    rows = chosen(shape)
    asked, code = batches_of(rows, size), np.empty((len(rows), rows.n_features), np.int8)
    rows.gather(np.arange(len(rows)), code)
    tried = Batches(rows, min(size, len(rows)), CPU, way)
    seen = []
    for step, sizes, found, target in tried.of((step, index, [step]) for step, index in enumerate(asked)):
        assert found.dtype == target.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), code[asked[step]])
        np.testing.assert_array_equal(target.numpy(), rows.target_M[asked[step]])
        seen.append((step, sizes))
    assert seen == [(step, [step]) for step in range(len(asked))]


@pytest.mark.parametrize("way", batches.WAYS)
def test_what_is_said_to_come_next_is_a_hint_alone(way: Way) -> None:
    rows = chosen("scattered")
    tried, asked = Batches(rows, 64, CPU, way), batches_of(rows, 64)
    hints = [asked[5], None, asked[1], asked[1], asked[0], None, asked[0], asked[7]]
    for index, hint in zip(asked, hints, strict=True):
        found, target = tried.load(index, hint)
        kept = found.clone()
        expected, label = Batches(rows, 64, CPU).load(index)
        assert torch.equal(kept, expected)
        assert torch.equal(target, label)


def test_a_row_that_cannot_be_gathered_ahead_is_said_by_the_next_call() -> None:
    tried = Batches(chosen("scattered"), 64, CPU, "streamed")
    tried.load(np.arange(3), np.array([5000]))
    with pytest.raises(IndexError):
        tried.load(np.arange(3))
    assert len(tried.load(np.arange(3))[0]) == 3


@pytest.mark.parametrize("way", ["resident", "streamed"])
def test_no_buffer_is_written_while_a_late_device_reads_it(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PIECE_BYTES", 500)
    rows = chosen("scattered")
    asked = batches_of(rows, 64)
    expected = [Batches(rows, 64, CPU).load(index)[0] for index in asked]
    for seed in range(40):
        device, kept = LateDevice(seed), [torch.zeros(len(index), 12) for index in asked]
        monkeypatch.setattr(torch, "cpu", device)
        monkeypatch.setattr(batches, "ThreadPoolExecutor", device.ThreadPoolExecutor)
        with device:
            tried = Batches(rows, 64, CPU, way)
            if way == "resident":
                device.run()  # the gathering is not deferred
            for index, following, result in zip(asked, [*asked[1:], None], kept, strict=True):
                result.copy_(tried.load(index, following)[0])
                if way == "resident":
                    device.run()
            device.run()
        assert all(map(torch.equal, kept, expected)), f"seed {seed}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("way", batches.WAYS)
def test_a_busy_gpu_gets_the_same_bits_and_nothing_waits_for_it(way: Way) -> None:
    rows, kept = chosen("joined"), []
    asked = batches_of(rows, 64)
    tried = Batches(rows, 64, CUDA, way)
    torch.cuda.set_sync_debug_mode("default" if way == "plain" else "error")
    try:
        for _, _, found, target in tried.of((step, index, []) for step, index in enumerate(asked)):
            torch.cuda._sleep(2_000_000)  # type: ignore[no-untyped-call]  # about a millisecond, in which the host runs on
            kept.append((found.clone(), target))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for index, (found, target) in zip(asked, kept, strict=True):
        expected, label = Batches(rows, 64, CPU).load(index)
        assert torch.equal(found.cpu(), expected)
        assert torch.equal(target.cpu(), label)


@pytest.mark.parametrize("training", [ROWWISE, replace(ERAWISE, steps=20)])
def test_a_run_ends_with_the_same_bits_in_every_way(
    training: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for way in batches.WAYS:
        monkeypatch.setattr("eraflow.training.Batches", partial(_forced, way))
        found.append(run_members([tmp_path / f"{way}{m}" for m in range(2)], training, [0, 1]))
    for others in found[1:]:
        assert all(same_weights(one, other) for one, other in zip(found[0], others, strict=True))


def _forced(way: Way, rows: Rows, largest: int, device: torch.device, *_: Any) -> Batches:
    return Batches(rows, largest, device, way)


def test_rows_live_on_a_gpu_where_a_step_leaves_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = market()
    plan = Plan(rows, ROWWISE, None)
    step = bytes_of_weights(SMALL, 12, 2) + plan.largest * bytes_a_row(SMALL, 12, 2)
    needed = round((step + len(rows) * (12 + 4)) / footprint.SHARE)
    for free, way in ((needed + 10, "resident"), (needed - 10, "streamed")):
        monkeypatch.setattr(footprint, "free_bytes", lambda device, free=free: free)
        assert way_to(CUDA, rows, SMALL, 2, plan) == way
        assert way_to(CPU, rows, SMALL, 2, plan) == way_to(torch.device("mps"), rows, SMALL, 2, plan) == "plain"
