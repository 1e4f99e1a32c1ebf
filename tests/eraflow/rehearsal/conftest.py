"""A small local tournament, and the real client pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eraflow.rehearsal import LocalTournament, MarketConfig

SMALL = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=20)
# A Tuesday morning between rounds: what a test sees must not depend on the day it runs.
STARTED_UTC = datetime(2026, 11, 24, 8, tzinfo=UTC)


class TickingFrom:
    """A system clock that began at `STARTED_UTC` and goes on with real time."""

    def __init__(self) -> None:
        self._difference: timedelta = STARTED_UTC - datetime.now(UTC)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._difference


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "tournament"


@pytest.fixture
def tournament(home: Path) -> Iterator[LocalTournament]:
    with LocalTournament(home, market=SMALL, system=TickingFrom()) as started:
        yield started


@pytest.fixture
def client(tournament: LocalTournament, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real `numerapi` client with the account's keys."""
    return real_client(tournament, monkeypatch)


def real_client(tournament: LocalTournament, monkeypatch: pytest.MonkeyPatch, secret_key: str | None = None) -> Any:
    """The real client, with another secret key where one is given."""
    import numerapi
    from numerapi import base_api

    monkeypatch.setattr(base_api, "API_TOURNAMENT_URL", tournament.url)
    make: Any = numerapi.NumerAPI  # it has no types
    return make(tournament.public_id, secret_key or tournament.secret_key, verbosity="ERROR", show_progress_bars=False)
