"""What eraflow did, in one SQLite file: every attempt at a submission and how long each stage took.

The ledger makes a second run harmless: an entry is written and synced before each step that the tournament could
see, so after a crash it says which steps may have happened. It never decides alone: the tournament is asked first,
and a lost ledger only means that our own submission looks like somebody else's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from eraflow.errors import StorageError
from eraflow.store import utc_text

# started: nothing was sent · uploaded: the bytes are there, no submission yet · sending: it may have taken effect
# submitted: its id is known · verified: read back · failed: it certainly did not take effect
State = Literal["started", "uploaded", "sending", "submitted", "verified", "failed"]

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    tournament TEXT NOT NULL, round INTEGER NOT NULL, slot TEXT NOT NULL,
    recipe TEXT NOT NULL, source TEXT NOT NULL, sha256 TEXT NOT NULL, state TEXT NOT NULL,
    started_at_utc TEXT NOT NULL, sent_at_utc TEXT, stored_as TEXT, submission_id TEXT,
    verified TEXT, late INTEGER NOT NULL DEFAULT 0, error TEXT
);
CREATE INDEX IF NOT EXISTS attempts_by_round ON attempts (tournament, round, slot);
CREATE TABLE IF NOT EXISTS stages (
    id INTEGER PRIMARY KEY,
    tournament TEXT NOT NULL, round INTEGER, stage TEXT NOT NULL, recipe TEXT NOT NULL,
    seconds REAL NOT NULL, at_utc TEXT NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try to submit predictions for a slot of a round."""

    id: int
    tournament: str
    """The API's address: rounds of a rehearsal never count as those of the real tournament."""
    round: int
    slot: str
    recipe: str
    source: str
    sha256: str
    """Of the bytes that were or would be sent."""
    state: State
    started_at_utc: str
    sent_at_utc: str | None
    stored_as: str | None
    """The name that the tournament gave the uploaded bytes."""
    submission_id: str | None
    verified: str | None
    late: bool
    error: str | None


class Ledger:
    """The ledger file at `path`, for the tournament at `tournament` (its API address)."""

    def __init__(self, path: Path, tournament: str) -> None:
        self.path, self.tournament = path, tournament
        with self._connected() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
            elif version != SCHEMA_VERSION:
                raise StorageError(
                    f"the ledger {path} is of version {version}, however this eraflow reads version {SCHEMA_VERSION};"
                    " use the eraflow that wrote it, or move the file away"
                )

    def begin(self, *, round_number: int, slot: str, recipe: str, source: str, sha256: str, late: bool) -> int:
        """Enter a new attempt in state `started`; returns its id."""
        return self._write(
            "INSERT INTO attempts (tournament, round, slot, recipe, source, sha256, late, state, started_at_utc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'started', ?)",
            (self.tournament, round_number, slot, recipe, source, sha256, int(late), _now()),
        )

    def mark(
        self,
        attempt_id: int,
        state: State,
        *,
        stored_as: str | None = None,
        submission_id: str | None = None,
        verified: str | None = None,
        sent_at_utc: str | None = None,
        error: str | None = None,
    ) -> None:
        """Move an attempt on to `state`; what is not given stays as it was."""
        self._write(
            "UPDATE attempts SET state = ?, stored_as = coalesce(?, stored_as), verified = coalesce(?, verified),"
            " submission_id = coalesce(?, submission_id), sent_at_utc = coalesce(?, sent_at_utc),"
            " error = coalesce(?, error) WHERE id = ?",
            (state, stored_as, verified, submission_id, sent_at_utc, error, attempt_id),
        )

    def attempts(self, round_number: int, slot: str) -> list[Attempt]:
        """All attempts for a slot of a round, newest first."""
        rows = self._read(
            "SELECT * FROM attempts WHERE tournament = ? AND round = ? AND slot = ? ORDER BY id DESC",
            (self.tournament, round_number, slot),
        )
        return [_attempt(row) for row in rows]

    def attempt(self, attempt_id: int) -> Attempt:
        return _attempt(self._read("SELECT * FROM attempts WHERE id = ?", (attempt_id,))[0])

    def note_stage(self, round_number: int | None, stage: str, recipe: str, seconds: float) -> None:
        """Keep how long a stage took [s], so that later rounds know what still fits before a deadline."""
        self._write(
            "INSERT INTO stages (tournament, round, stage, recipe, seconds, at_utc) VALUES (?, ?, ?, ?, ?, ?)",
            (self.tournament, round_number, stage, recipe, seconds, _now()),
        )

    def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        with self._connected() as connection, connection:
            return connection.execute(statement, values).lastrowid or 0

    def _read(self, statement: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with self._connected() as connection:
            return connection.execute(statement, values).fetchall()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self.path, timeout=30)
            try:
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StorageError(
                f"the ledger {self.path} cannot be used: {error}; if it is damaged, move it away:"
                " the tournament is asked what was submitted before anything is sent"
            ) from error


def _now() -> str:
    return utc_text(datetime.now(UTC), "microseconds")


def _attempt(row: sqlite3.Row) -> Attempt:
    values = {field.name: row[field.name] for field in fields(Attempt)}
    return Attempt(**{**values, "late": bool(values["late"])})
