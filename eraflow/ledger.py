"""What eraflow did, in one SQLite file: every attempt at a submission, how long each stage took, the rounds that were
seen, the alarms that were raised and the scores that were collected.

The ledger makes a second run harmless: an entry is written and synced before each step that the tournament could
see, so after a crash it says which steps may have happened. It never decides alone: the tournament is asked first,
and a lost ledger only means that our own submission looks like somebody else's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from eraflow.errors import StorageError
from eraflow.rounds import Round
from eraflow.store import utc_text

# started: nothing was sent · uploaded: the bytes are there, no submission yet · sending: it may have taken effect
# submitted: its id is known · verified: read back · failed: it certainly did not take effect
State = Literal["started", "uploaded", "sending", "submitted", "verified", "failed"]

SCHEMA_VERSION = 2
_SCHEMAS = (
    """
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
""",
    """
ALTER TABLE attempts ADD COLUMN model_id TEXT;
CREATE INDEX stages_by_recipe ON stages (tournament, stage, recipe);
CREATE TABLE rounds (
    tournament TEXT NOT NULL, number INTEGER NOT NULL, opens_at_utc TEXT NOT NULL, closes_at_utc TEXT NOT NULL,
    ends_at_utc TEXT, seen_at_utc TEXT NOT NULL, PRIMARY KEY (tournament, number)
);
CREATE TABLE alarms (
    id INTEGER PRIMARY KEY, tournament TEXT NOT NULL, round INTEGER, kind TEXT NOT NULL, title TEXT NOT NULL,
    told INTEGER NOT NULL, at_utc TEXT NOT NULL
);
CREATE TABLE scores (
    tournament TEXT NOT NULL, round INTEGER NOT NULL, slot TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
    day INTEGER NOT NULL, date TEXT, value REAL, percentile REAL, resolved INTEGER NOT NULL,
    PRIMARY KEY (tournament, round, slot, name, version, day)
);
""",
)
"""What leads from each version to the next, from an empty file on."""
# A column that is only added does not raise the version: an eraflow from before it reads the file and leaves NULL in
# it, whereas a higher version would have it refuse every round after an upgrade was taken back, or while its process
# still runs.
_SLOT_ID = "ALTER TABLE attempts ADD COLUMN slot_id TEXT"


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
    model_id: str | None
    """The model that predicted; None for a benchmark, and in attempts that are older than this column."""
    slot_id: str | None
    """Of the tournament: another slot may get the name. None in attempts of an eraflow from before this column."""


@dataclass(frozen=True, kw_only=True)
class AlarmNote:
    """An alarm that was raised."""

    round: int | None
    kind: str
    title: str
    told: int
    """How many addresses took it."""
    at_utc: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the tournament gave a slot's submission for a round, as of one day of its scoring."""

    round: int
    slot: str
    name: str
    """The score's display name, as `corr60`."""
    version: str = ""
    day: int = 0
    """Of the round's scoring, counted from 1; 0 where the tournament does not say."""
    date: str | None = None
    value: float | None
    percentile: float | None = None
    """Among all models, 0 to 1."""
    resolved: bool = False
    """The score is final."""


class Ledger:
    """The ledger file at `path`, for the tournament at `tournament` (its API address)."""

    def __init__(self, path: Path, tournament: str) -> None:
        self.path, self.tournament = path, tournament
        with self._connected() as connection:
            if _missing(connection):
                _bring_up_to_date(connection)
            if (version := _version(connection)) != SCHEMA_VERSION:
                raise StorageError(
                    f"the ledger {path} is of version {version}, however this eraflow reads version {SCHEMA_VERSION};"
                    " use the eraflow that wrote it, or move the file away"
                )

    def begin(
        self, *, round_number: int, slot: str, recipe: str, source: str, sha256: str, late: bool,
        model_id: str | None = None, slot_id: str | None = None,
    ) -> int:  # fmt: skip
        """Enter a new attempt in state `started`; returns its id."""
        return self._write(
            "INSERT INTO attempts"
            " (tournament, round, slot, slot_id, recipe, source, sha256, late, model_id, state, started_at_utc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'started', ?)",
            (self.tournament, round_number, slot, slot_id, recipe, source, sha256, int(late), model_id, _now()),
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
        late: bool | None = None,
        error: str | None = None,
    ) -> None:
        """Move an attempt on to `state`; what is not given stays as it was."""
        self._write(
            "UPDATE attempts SET state = ?, stored_as = coalesce(?, stored_as), verified = coalesce(?, verified),"
            " submission_id = coalesce(?, submission_id), sent_at_utc = coalesce(?, sent_at_utc),"
            " late = coalesce(?, late), error = coalesce(?, error) WHERE id = ?",
            (state, stored_as, verified, submission_id, sent_at_utc, late, error, attempt_id),
        )

    def attempts(self, round_number: int, slot: str, slot_id: str | None = None) -> list[Attempt]:
        """All attempts for a slot of a round, newest first; which these are says `of_slot`."""
        rows = self._read(
            "SELECT * FROM attempts WHERE tournament = ? AND round = ? ORDER BY id DESC",
            (self.tournament, round_number),
        )
        return of_slot([_attempt(row) for row in rows], slot, slot_id)

    def attempt(self, attempt_id: int) -> Attempt:
        return _attempt(self._read("SELECT * FROM attempts WHERE id = ?", (attempt_id,))[0])

    def recent(self, rounds: int = 5) -> list[Attempt]:
        """All attempts of the last `rounds` rounds that had any, newest first."""
        rows = self._read(
            "SELECT * FROM attempts WHERE tournament = ? AND round IN"
            " (SELECT DISTINCT round FROM attempts WHERE tournament = ? ORDER BY round DESC LIMIT ?)"
            " ORDER BY round DESC, id DESC",
            (self.tournament, self.tournament, rounds),
        )
        return [_attempt(row) for row in rows]

    # How long things take

    def note_stage(self, round_number: int | None, stage: str, recipe: str, seconds: float) -> None:
        """Keep how long a stage took [s], so that later rounds know what still fits before a deadline."""
        self._write(
            "INSERT INTO stages (tournament, round, stage, recipe, seconds, at_utc) VALUES (?, ?, ?, ?, ?, ?)",
            (self.tournament, round_number, stage, recipe, seconds, _now()),
        )

    def durations(self, stage: str, recipe: str, limit: int = 5) -> list[float]:
        """How long the last runs of a stage took [s], newest first."""
        rows = self._read(
            "SELECT seconds FROM stages WHERE tournament = ? AND stage = ? AND recipe = ? ORDER BY id DESC LIMIT ?",
            (self.tournament, stage, recipe, limit),
        )
        return [float(row["seconds"]) for row in rows]

    # Rounds, alarms and scores

    def note_round(self, seen: Round) -> None:
        """Keep the times of a round, for when the tournament cannot be asked."""
        ends = utc_text(seen.ends_at_utc) if seen.ends_at_utc else None
        self._write(
            "INSERT OR REPLACE INTO rounds (tournament, number, opens_at_utc, closes_at_utc, ends_at_utc, seen_at_utc)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (self.tournament, seen.number, utc_text(seen.opens_at_utc), utc_text(seen.closes_at_utc), ends, _now()),
        )

    def rounds(self, limit: int = 5) -> list[Round]:
        """The last rounds that were seen, newest first."""
        rows = self._read(
            "SELECT * FROM rounds WHERE tournament = ? ORDER BY number DESC LIMIT ?", (self.tournament, limit)
        )
        return [_round(row) for row in rows]

    def note_alarm(self, round_number: int | None, kind: str, title: str, told: int) -> None:
        """Keep that an alarm was raised and how many addresses took it."""
        self._write(
            "INSERT INTO alarms (tournament, round, kind, title, told, at_utc) VALUES (?, ?, ?, ?, ?, ?)",
            (self.tournament, round_number, kind, title, told, _now()),
        )

    def alarms(self, limit: int = 5) -> list[AlarmNote]:
        """The last alarms, newest first."""
        rows = self._read(
            "SELECT * FROM alarms WHERE tournament = ? ORDER BY id DESC LIMIT ?", (self.tournament, limit)
        )
        return [AlarmNote(**{part.name: row[part.name] for part in fields(AlarmNote)}) for row in rows]

    def note_scores(self, scores: Iterable[Score]) -> None:
        """Keep scores; one of the same round, slot, name, version and day is replaced."""
        names = [part.name for part in fields(Score)]
        statement = (
            f"INSERT OR REPLACE INTO scores (tournament, {', '.join(names)})"  # noqa: S608  # our own names
            f" VALUES (?{', ?' * len(names)})"
        )
        with self._connected() as connection, connection:
            connection.executemany(
                statement, [(self.tournament, *(getattr(score, name) for name in names)) for score in scores]
            )

    def scores(self, slot: str | None = None) -> list[Score]:
        """All scores that were collected, of one slot where it is named, by slot, name, round and day."""
        rows = self._read(
            "SELECT * FROM scores WHERE tournament = ? AND slot = coalesce(?, slot)"
            " ORDER BY slot, name, version, round, day",
            (self.tournament, slot),
        )
        found = [{part.name: row[part.name] for part in fields(Score)} for row in rows]
        return [Score(**{**values, "resolved": bool(values["resolved"])}) for values in found]

    def check(self) -> str | None:
        """What SQLite finds damaged, or None."""
        found = str(self._read("PRAGMA quick_check", ())[0][0])
        return None if found == "ok" else found

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


def of_slot(attempts: Sequence[Attempt], slot: str, slot_id: str | None = None) -> list[Attempt]:
    """Those of a round's `attempts`, newest first, that are of one slot.

    With `slot_id` these are the slot's own, whatever it was called then; without it those of the newest slot that had
    this name. Attempts that know no id belong to every slot of their name.
    """
    if slot_id is None:
        attempts = [one for one in attempts if one.slot == slot]
        slot_id = next((one.slot_id for one in attempts if one.slot_id), None)
    return [one for one in attempts if one.slot_id == slot_id or (one.slot_id is None and one.slot == slot)]


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _missing(connection: sqlite3.Connection) -> list[str]:
    """The scripts that this file still needs; none for a newer version's."""
    version = _version(connection)
    columns = [row["name"] for row in connection.execute("PRAGMA table_info(attempts)")]
    added = [_SLOT_ID] if version <= SCHEMA_VERSION and "slot_id" not in columns else []
    return [*_SCHEMAS[version:], *added]


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """One transaction, begun before it is asked what is missing, because two processes may find the same old file."""
    connection.isolation_level = None
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in _missing(connection):
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise


def _round(row: sqlite3.Row) -> Round:
    return Round(
        number=row["number"],
        opens_at_utc=datetime.fromisoformat(row["opens_at_utc"]),
        closes_at_utc=datetime.fromisoformat(row["closes_at_utc"]),
        ends_at_utc=datetime.fromisoformat(row["ends_at_utc"]) if row["ends_at_utc"] else None,
    )


def _now() -> str:
    return utc_text(datetime.now(UTC), "microseconds")


def _attempt(row: sqlite3.Row) -> Attempt:
    values = {field.name: row[field.name] for field in fields(Attempt)}
    return Attempt(**{**values, "late": bool(values["late"])})
