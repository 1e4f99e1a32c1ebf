"""How long work tells where it is."""

from __future__ import annotations

import logging
import sys
import time

import pytest

from eraflow import progress
from eraflow.progress import BarProgress, LineHandler, LogProgress, for_this_terminal, silent


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines logged so far, grown in place."""
    found: list[str] = []
    monkeypatch.setattr(progress.logger, "info", lambda text, *parts: found.append(text % parts))
    return found


def at(monkeypatch: pytest.MonkeyPatch, now_s: float) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: now_s)


def test_a_log_gets_the_last_line_of_a_stage_and_one_each_interval(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show = LogProgress(interval_s=5.0)
    for now_s, done in ((0, 1), (1, 2), (4, 3), (5, 4), (6, 5), (6.1, 10)):
        at(monkeypatch, now_s)
        show("train", done, 10, f"loss {done}")
    assert lines == ["train  40% loss 4", "train 100% loss 10"]


def test_stages_are_counted_apart(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    show = LogProgress(interval_s=5.0)
    for now_s, stage in ((0, "train"), (4, "decode"), (6, "train"), (8, "decode"), (9, "decode")):
        at(monkeypatch, now_s)
        show(stage, 1, 10)
    assert [line.split()[0] for line in lines] == ["train", "decode"]


def test_work_of_unknown_length_is_logged_at_intervals_too(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    show = LogProgress(interval_s=5.0)
    for now_s in range(10):
        at(monkeypatch, now_s)
        show("download", now_s + 1, 0, "some MB")
    assert lines == ["download  some MB"]


def test_a_log_line_stands_above_an_open_bar(capsys: pytest.CaptureFixture[str]) -> None:
    show = BarProgress()
    show("train", 1, 4)
    logger = logging.Logger("apart")
    logger.addHandler(LineHandler(sys.stderr))
    logger.info("a whole line")
    show.close()
    assert "\ra whole line\n" in capsys.readouterr().err


def test_the_log_is_the_packages_own_and_not_the_roots(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="eraflow"):
        LogProgress()("train", 1, 1)
    assert [record.name for record in caplog.records] == ["eraflow"]


def test_a_bar_shows_stage_share_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    show = BarProgress()
    show("train", 1, 4, "loss 0.05")
    show("train", 4, 4, "loss 0.04")
    shown = capsys.readouterr()
    assert "train: 100%" in shown.err
    assert "loss 0.04" in shown.err
    assert shown.out == ""


def test_a_new_stage_ends_the_bar_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    show = BarProgress()
    show("decode", 1, 4)
    show("train", 4, 4)
    assert capsys.readouterr().err.count("\n") == 2, "each bar ends its line"


def test_a_bar_of_unknown_length_stays_one_bar(capsys: pytest.CaptureFixture[str]) -> None:
    show = BarProgress()
    for received in range(1, 50):
        show("download", received, 0)
    show.close()
    assert capsys.readouterr().err.count("\n") == 1


def test_people_get_a_bar_and_files_get_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(for_this_terminal(), LogProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(for_this_terminal(), BarProgress)


def test_silence_shows_nothing(capsys: pytest.CaptureFixture[str], lines: list[str]) -> None:
    silent("train", 1, 2, "loss")
    assert (*capsys.readouterr(), lines) == ("", "", [])
