"""What the tests of the network door and of submitting share."""

from __future__ import annotations

import pytest

from eraflow.client import Keys
from eraflow.rehearsal.server import LocalTournament
from eraflow.tournament import Tournament


def nap(seconds: float) -> None:
    """Wait for nothing, however long was asked for."""


@pytest.fixture
def door(local: LocalTournament) -> Tournament:
    """The door to `local`, with its keys; it does not wait between its tries."""
    return Tournament(local.url, Keys(local.public_id, local.secret_key), sleep=nap)
