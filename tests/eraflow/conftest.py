"""What the tests of the network door and of submitting share."""

from __future__ import annotations

from pathlib import Path

import pytest

from eraflow.client import Keys
from eraflow.rehearsal.server import LocalTournament
from eraflow.tournament import Tournament
from tests.eraflow.sender import Sender, Waiting


def nap(seconds: float) -> None:
    """Wait for nothing, however long was asked for."""


@pytest.fixture
def door(local: LocalTournament) -> Tournament:
    """The door to `local`, with its keys; it does not wait between its tries."""
    return Tournament(local.url, Keys(local.public_id, local.secret_key), sleep=nap)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """No wait of `submit` takes time; they add up here."""
    waiting = Waiting()
    monkeypatch.setattr("eraflow.submission.time", waiting)
    return waiting


@pytest.fixture
def ids(market_folder: Path) -> list[str]:
    """The live ids of the round."""
    lines = (market_folder / "live_example_preds.csv").read_text().splitlines()
    return [line.split(",")[0] for line in lines[1:]]


@pytest.fixture
def one(local: LocalTournament, door: Tournament, tmp_path: Path, ids: list[str], waiting: Waiting) -> Sender:
    """A machine of the account."""
    return Sender(local, door, tmp_path / "home", ids)


@pytest.fixture
def other(local: LocalTournament, tmp_path: Path, ids: list[str], waiting: Waiting) -> Sender:
    """Another machine with the same keys: another home, another ledger."""
    door = Tournament(local.url, Keys(local.public_id, local.secret_key), sleep=nap)
    return Sender(local, door, tmp_path / "other", ids)
