"""Whole rounds against the local tournament, with the waits between tries cut short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from eraflow.rehearsal import LocalTournament, MarketConfig
from tests.behaviour.week import Week

TINY = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=30)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks are tiny and the machine is shared: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eraflow.tournament.RETRY_WAITS_S", (0.01, 0.01, 0.01, 0.01))
    monkeypatch.setattr("eraflow.tournament.LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr("eraflow.submission.READBACK_WAITS_S", (0.05, 0.1, 0.2, 0.4))


@pytest.fixture
def week(local: LocalTournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Week:
    """A week with two slots, round 1401 open, and the environment pointed at it."""
    return _pointed(Week(local, tmp_path / "home"), monkeypatch)


@pytest.fixture
def weeks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Week]:
    """The same with a market that grows, so that each round has live ids of its own."""
    with LocalTournament(tmp_path / "tournament", market=TINY) as local:
        local.open_next_round(delay_s=0)
        yield _pointed(Week(local, tmp_path / "home"), monkeypatch)


def _pointed(week: Week, monkeypatch: pytest.MonkeyPatch) -> Week:
    for name, value in week.environment.items():
        monkeypatch.setenv(name, value)
    return week
