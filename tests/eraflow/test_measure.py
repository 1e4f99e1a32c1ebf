"""Seconds and memory peaks by stage."""

from __future__ import annotations

import _thread
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eraflow import measure
from eraflow.measure import Cost, Meter
from eraflow.progress import silent
from tests.behaviour.week import wait_until

MIB = 1 << 20


@pytest.fixture
def sampled_often(monkeypatch: pytest.MonkeyPatch) -> None:
    if not measure._told():
        pytest.skip("this system does not tell memory by kind")
    monkeypatch.setattr(measure, "SAMPLE_EVERY_S", 0.005)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now_s = [100.0]
    with monkeypatch.context() as patched:
        patched.setattr("eraflow.measure.time.perf_counter", lambda: now_s[0])
        yield now_s


def hold(size_mib: int) -> None:
    """Hold that much anonymous memory for as long as a sample needs."""
    held = np.ones(size_mib * MIB // 8)
    time.sleep(0.05)
    del held


def test_a_stage_that_is_repeated_adds_up(clock: list[float]) -> None:
    meter = Meter()
    for seconds in (2.0, 3.0):
        clock[0] += 1.0  # of no stage
        with meter.stage("training"):
            clock[0] += seconds
    assert {name: cost.seconds for name, cost in meter.costs.items()} == {"training": 5.0}
    assert meter.wall_s == 7.0


def test_a_stage_that_fails_is_timed_and_its_error_goes_on() -> None:
    meter = Meter()
    with pytest.raises(KeyError, match="lost"), meter.stage("download"):
        raise KeyError("lost")
    assert "download" in meter.costs


def test_no_sampler_outlives_its_stage() -> None:
    before = _thread._count()
    with Meter().stage("dataset"):
        wait_until(lambda: _thread._count() == before + 1)
    wait_until(lambda: _thread._count() == before)


@pytest.mark.usefixtures("sampled_often")
def test_memory_that_is_held_for_a_moment_shows_in_the_peak_of_its_stage_alone() -> None:
    meter = Meter()
    before = meter.peak_anonymous_bytes or 0
    for name, size_mib in (("dataset", 0), ("training", 64), ("prediction", 0)):
        with meter.stage(name):
            hold(size_mib)
    assert (meter.peak_anonymous_bytes or 0) - before > 48 * MIB
    for one in (meter.costs["dataset"], meter.costs["prediction"]):
        most = meter.costs["training"]
        assert (most.peak_anonymous_bytes or 0) - (one.peak_anonymous_bytes or 0) > 48 * MIB
        assert (most.peak_rss_bytes or 0) - (one.peak_rss_bytes or 0) > 48 * MIB


def test_a_highest_peak_between_two_samples_is_not_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def tells(high: int, now: int) -> None:
        status.write_text(f"VmHWM:\t{high} kB\nVmRSS:\t{now} kB\nRssAnon:\t1 kB\n")

    status = tmp_path / "status"
    monkeypatch.setattr(measure, "_STATUS", status)
    tells(100, 90)
    meter = Meter()
    with meter.stage("dataset"):
        tells(500, 90)
    with meter.stage("training"):
        tells(500, 80)
    assert [cost.peak_rss_bytes for cost in meter.costs.values()] == [500 << 10, 90 << 10]


def test_what_the_block_was_told_of_stages_inside_is_theirs(clock: list[float]) -> None:
    meter = Meter()
    with meter.stage("training") as inside:
        clock[0] += 10.0
        inside["training"] = Cost(seconds=5.0, peak_rss_bytes=7, peak_anonymous_bytes=6)
        inside["refit"] = Cost(seconds=4.0, peak_rss_bytes=9)
    # The second that is in neither was spent around them.
    assert meter.costs == {
        "training": Cost(seconds=6.0, peak_rss_bytes=7, peak_anonymous_bytes=6),
        "refit": Cost(seconds=4.0, peak_rss_bytes=9),
    }


def test_time_goes_to_the_stage_that_was_at_work_until_progress_was_told(clock: list[float]) -> None:
    meter, told = Meter(), []

    def tell(stage: str, done: float, total: float, text: str = "") -> None:
        told.append((stage, done, total, text))

    progress = meter.following(tell, {"train": "training", "validate": "validation"})
    with meter.stage("training"):
        for stage, seconds in (("train a", 3.0), ("train a", 1.0), ("unheard of", 0.5), ("validate a", 2.0)):
            clock[0] += seconds
            progress(stage, 1, 2, "text")
        clock[0] += 0.25
    assert {name: cost.seconds for name, cost in meter.costs.items()} == {"training": 4.0, "validation": 2.75}
    assert told[0] == ("train a", 1, 2, "text")
    assert len(told) == 4


def test_the_peak_of_all_memory_is_in_bytes_and_not_that_of_whoever_started_the_process() -> None:
    held = np.ones(256 * MIB // 8)
    tell = "from eraflow.measure import Meter; print(Meter().peak_rss_bytes)"
    told = int(subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True).stdout)
    assert told > 5 * MIB
    assert Meter().peak_rss_bytes > held.nbytes
    if measure._told():
        assert told < 128 * MIB


def test_a_system_that_does_not_tell_memory_by_kind_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "_STATUS", tmp_path / "no-proc")
    meter = Meter()
    progress = meter.following(silent, {"train": "training"})
    with meter.stage("training"):
        progress("train", 1, 2)
    assert meter.peak_anonymous_bytes is None
    assert meter.peak_rss_bytes > MIB
    assert meter.costs["training"].peak_rss_bytes is None
    assert meter.costs["training"].peak_anonymous_bytes is None
