"""Seconds by stage and memory peaks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from eraflow import measure
from eraflow.measure import Meter


def test_a_stage_that_is_repeated_adds_up() -> None:
    meter = Meter()
    for _ in range(2):
        with meter.stage("training"):
            time.sleep(0.02)
    assert list(meter.seconds) == ["training"]
    assert 0.04 <= meter.seconds["training"] < 1


def test_a_stage_that_fails_is_timed_and_its_error_goes_on() -> None:
    meter = Meter()
    with pytest.raises(KeyError, match="lost"), meter.stage("download"):
        raise KeyError("lost")
    assert "download" in meter.seconds


def test_no_sampler_outlives_its_stage() -> None:
    with Meter().stage("dataset"):
        assert any(thread.name == "eraflow-memory" for thread in threading.enumerate())
    assert not any(thread.name == "eraflow-memory" for thread in threading.enumerate())


def test_memory_that_is_held_for_a_moment_shows_in_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SAMPLE_EVERY_S", 0.005)
    meter = Meter()
    before = meter.peak_anonymous_bytes
    if before is None:
        pytest.skip("this system does not tell anonymous memory")
    with meter.stage("training"):
        held = np.ones(8 << 20)  # 64 MiB
        time.sleep(0.05)
        del held
    assert (meter.peak_anonymous_bytes or 0) - before > 48 << 20


def test_the_peak_of_all_memory_is_in_bytes() -> None:
    assert 10 << 20 < Meter().peak_rss_bytes < 1 << 40


def test_a_system_that_does_not_tell_anonymous_memory_gives_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "_STATUS", tmp_path / "no-proc")
    meter = Meter()
    with meter.stage("training"):
        pass
    assert meter.peak_anonymous_bytes is None
