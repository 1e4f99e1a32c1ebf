"""How fast a training goes, and what is said of one that is too slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eraflow import pace
from eraflow.pace import Pace, slow_text, speed_text

NOTHING = {"rows_a_second": None, "share_of_products": None, "share_of_cores": None}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now_s = [100.0]
    with monkeypatch.context() as patched:
        patched.setattr("eraflow.pace.time.perf_counter", lambda: now_s[0])
        yield now_s


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The times of one thread, as the system tells them."""
    monkeypatch.setattr(pace, "_THREADS", tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text("100 50 7\n")
    return tmp_path / "1" / "schedstat"


def test_exams_and_checkpoints_between_the_steps_are_not_counted(clock: list[float], cores: Path) -> None:
    steps = Pace(2000.0)
    for _ in range(2):
        clock[0] += 1.0
        steps.add(1000, finished=True)
        assert steps.shown() == {"rows_a_second": 1000.0, "share_of_products": 0.5}
        clock[0] += 9.0  # an exam
        steps.go_on()
    cores.write_text("400 150 9\n")
    assert steps.told() == {"rows_a_second": 1000.0, "share_of_products": 0.5, "share_of_cores": 0.75}
    assert steps.told() == NOTHING


def test_steps_that_a_gpu_has_yet_to_finish_do_not_count(clock: list[float]) -> None:
    steps = Pace(2000.0)
    for finished in (False, True, False):
        steps.add(500, finished=finished)
        clock[0] += 1.0
    steps.go_on()
    steps.add(500, finished=False)
    clock[0] += 1.0
    steps.add(500, finished=True)
    assert steps.told()["rows_a_second"] == 1000.0


def test_an_epoch_of_a_moment_leaves_it_to_a_later_one_to_tell(clock: list[float]) -> None:
    steps, told = Pace(2000.0), []
    for _ in range(4):
        clock[0] += 0.25
        steps.add(250, finished=True)
        told.append(steps.told()["rows_a_second"])
        steps.go_on()
    assert told == [None, 1000.0, None, 1000.0]


def test_where_the_machine_was_not_measured_there_is_a_rate_and_no_share(clock: list[float]) -> None:
    steps = Pace(None)
    clock[0] += 1.0
    steps.add(1000, finished=True)
    found = steps.told()
    assert (found["rows_a_second"], found["share_of_products"]) == (1000.0, None)
    assert speed_text(steps.shown()) == "1,000 rows/s"


def test_a_machine_that_was_busy_when_it_was_measured_is_believed_to_be_as_fast_as_it_shows(clock: list[float]) -> None:
    steps = Pace(500.0)
    clock[0] += 1.0
    steps.add(1000, finished=True)
    assert steps.shown()["share_of_products"] == 1.0
    clock[0] += 2.0
    steps.add(1000, finished=True)
    assert steps.shown()["share_of_products"] == 0.5


def test_a_system_that_does_not_tell_who_had_the_cores_leaves_it_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: list[float]
) -> None:
    monkeypatch.setattr(pace, "_THREADS", tmp_path / "no-proc")
    steps = Pace(2000.0)
    clock[0] += 1.0
    steps.add(1000, finished=True)
    assert steps.told() == NOTHING | {"rows_a_second": 1000.0, "share_of_products": 0.5}


def test_only_a_training_that_is_too_slow_is_spoken_of_with_the_reason() -> None:
    assert slow_text(None, None, "cpu") is None
    assert slow_text(0.84, 0.98, "cpu") is None
    assert slow_text(0.2, 0.98, "cuda:0") is None
    assert "had a core for 34% of the time" in str(slow_text(0.84, 0.34, "cpu"))
    assert "reached 31% of this machine's matrix products, where 40%" in str(slow_text(0.31, None, "cpu"))
    assert "reached 5% of this machine's matrix products, where 10%" in str(slow_text(0.05, 1.0, "cuda:0"))


def test_what_is_not_known_of_a_speed_is_left_out() -> None:
    assert speed_text(NOTHING) == ""
    assert speed_text(NOTHING | {"rows_a_second": 1234.5}) == "1,234 rows/s"
