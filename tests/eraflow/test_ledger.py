"""What eraflow did, kept through crashes and between processes."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eraflow.errors import StorageError
from eraflow.ledger import _SCHEMAS, SCHEMA_VERSION, Attempt, Ledger, Score, State
from eraflow.rounds import Round

REAL = "https://api-tournament.numer.ai"
STATES: tuple[State, ...] = get_args(State)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", REAL)


def begin(
    ledger: Ledger, slot: str = "one", round_number: int = 7, late: bool = False, slot_id: str | None = None
) -> int:
    return ledger.begin(
        round_number=round_number, slot=slot, recipe="simple-mlp", source="fresh", sha256="ab12", late=late,
        slot_id=slot_id,
    )  # fmt: skip


def test_a_new_attempt_has_sent_nothing(ledger: Ledger) -> None:
    attempt = ledger.attempt(begin(ledger))
    assert dataclasses.replace(attempt, started_at_utc="") == Attempt(
        id=1, tournament=REAL, round=7, slot="one", recipe="simple-mlp", source="fresh", sha256="ab12",
        state="started", started_at_utc="", sent_at_utc=None, stored_as=None, submission_id=None, verified=None,
        late=False, error=None, model_id=None, slot_id=None,
    )  # fmt: skip
    assert datetime.fromisoformat(attempt.started_at_utc).utcoffset() == timedelta(0)


def test_what_is_not_given_stays_as_it_was(ledger: Ledger) -> None:
    attempt_id = begin(ledger, late=True)
    ledger.mark(attempt_id, "uploaded", stored_as="a.csv")
    ledger.mark(attempt_id, "sending", sent_at_utc="2026-08-22T12:04:08+00:00")
    ledger.mark(attempt_id, "submitted", submission_id="s1")
    ledger.mark(attempt_id, "verified", verified="bytes")
    found = ledger.attempt(attempt_id)
    assert (found.state, found.stored_as, found.submission_id, found.verified, found.late, found.sent_at_utc) == (
        "verified", "a.csv", "s1", "bytes", True, "2026-08-22T12:04:08+00:00"
    )  # fmt: skip


def test_marking_one_attempt_leaves_the_others_alone(ledger: Ledger) -> None:
    first, second = begin(ledger), begin(ledger)
    ledger.mark(second, "failed", error="refused")
    assert [(a.id, a.state, a.error) for a in ledger.attempts(7, "one")] == [
        (second, "failed", "refused"), (first, "started", None)
    ]  # fmt: skip


def test_slots_rounds_and_tournaments_are_kept_apart(ledger: Ledger) -> None:
    mine = begin(ledger)
    begin(ledger, slot="two")
    begin(ledger, round_number=8)
    rehearsal = Ledger(ledger.path, "http://127.0.0.1:8008")
    begin(rehearsal)
    assert [a.id for a in ledger.attempts(7, "one")] == [mine]
    assert [a.tournament for a in rehearsal.attempts(7, "one")] == ["http://127.0.0.1:8008"]


def test_another_process_sees_what_was_entered(ledger: Ledger) -> None:
    ledger.mark(begin(ledger), "sending")
    assert Ledger(ledger.path, REAL).attempts(7, "one")[0].state == "sending"


def test_an_entry_is_there_after_a_kill(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal
from eraflow.ledger import Ledger
ledger = Ledger(pathlib.Path({str(tmp_path / "ledger.sqlite")!r}), {REAL!r})
entry = ledger.begin(round_number=7, slot="one", recipe="r", source="fresh", sha256="ab", late=False)
ledger.mark(entry, "sending")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [a.state for a in Ledger(tmp_path / "ledger.sqlite", REAL).attempts(7, "one")] == ["sending"]


def of_version(path: Path, version: int) -> None:
    """A ledger as an older eraflow left it; of version 2 the one from before attempts had a `slot_id`."""
    connection = sqlite3.connect(path)
    connection.executescript("".join(_SCHEMAS[:version]) + f"PRAGMA user_version = {version};")
    connection.close()


@pytest.mark.parametrize("version", range(SCHEMA_VERSION + 1))
def test_processes_that_make_the_ledger_at_once_all_get_it(version: int, tmp_path: Path) -> None:
    of_version(tmp_path / "ledger.sqlite", version)
    code = """
import pathlib, sys
from eraflow.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
for slot in "abc":
    Ledger(pathlib.Path(sys.argv[1]), "t").begin(
        round_number=7, slot=slot, recipe="r", source="fresh", sha256="ab", late=False)
"""
    path = tmp_path / "ledger.sqlite"
    command = [sys.executable, "-c", code, str(path)]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    told = [maker.communicate("go\n")[1] for maker in makers]
    assert told == ["", "", ""]
    assert [len(Ledger(path, "t").attempts(7, slot)) for slot in "abc"] == [3, 3, 3]


@pytest.mark.parametrize("version", range(SCHEMA_VERSION + 1))
def test_a_ledger_that_another_process_brings_up_to_date_meanwhile_is_not_altered_twice(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, connect = tmp_path / "ledger.sqlite", sqlite3.connect
    of_version(path, version)
    others: list[Ledger] = []

    def other_first(statement: str) -> None:
        if statement == "BEGIN IMMEDIATE" and not others:
            monkeypatch.undo()
            others.append(Ledger(path, REAL))

    def connected(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **named)
        connection.set_trace_callback(other_first)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connected)
    entered = begin(Ledger(path, REAL), slot_id="0a")
    (other,) = others
    assert [a.id for a in other.attempts(7, "one", "0a")] == [entered]


def test_many_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Ledger(path, REAL).attempts(7, "one"), range(16)))
    assert found == [[]] * 16


def test_stage_times_are_kept_with_their_round(ledger: Ledger) -> None:
    ledger.note_stage(7, "training", "simple-mlp", 12.5)
    ledger.note_stage(None, "training", "simple-mlp", 1.0)
    connection = sqlite3.connect(ledger.path)
    rows = connection.execute("SELECT tournament, round, stage, recipe, seconds FROM stages ORDER BY id").fetchall()
    connection.close()
    assert rows == [(REAL, 7, "training", "simple-mlp", 12.5), (REAL, None, "training", "simple-mlp", 1.0)]


def test_a_ledger_of_another_version_is_refused_and_left_alone(ledger: Ledger) -> None:
    begin(ledger)
    connection = sqlite3.connect(ledger.path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = ledger.path.read_bytes()
    with pytest.raises(StorageError, match=r"is of version 3, however this eraflow reads version 2; use the eraflow"):
        Ledger(ledger.path, REAL)
    assert ledger.path.read_bytes() == before


def test_a_damaged_ledger_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database, and long enough to be seen as none" * 100)
    with pytest.raises(StorageError, match="cannot be used: file is not a database; if it is damaged, move it away"):
        Ledger(path, REAL)


def test_a_ledger_that_was_moved_away_is_made_anew(ledger: Ledger) -> None:
    begin(ledger)
    ledger.path.unlink()
    assert Ledger(ledger.path, REAL).attempts(7, "one") == []


def test_a_ledger_that_vanishes_meanwhile_is_a_storage_error(ledger: Ledger) -> None:
    ledger.path.unlink()
    with pytest.raises(StorageError, match="no such table"):
        begin(ledger)


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open database file"):
        Ledger(tmp_path / "none" / "ledger.sqlite", REAL)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from("ab"), st.integers(1, 2)),
        st.tuples(
            st.just("mark"),
            st.integers(0, 9),
            st.sampled_from(STATES),
            st.fixed_dictionaries({}, optional={name: st.text("xyz", max_size=2) for name in ("stored_as", "error")}),
        ),
    ),
    max_size=8,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(STEPS)
def test_any_sequence_of_steps_is_told_back_as_it_was_entered(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    ids: list[int] = []
    expected: dict[tuple[int, str], list[int]] = defaultdict(list)
    model: dict[int, dict[str, Any]] = {}
    for kind, *given_values in steps:
        ledger = Ledger(path, REAL)
        if kind == "begin":
            slot, number = given_values
            ids.append(begin(ledger, slot=slot, round_number=number))
            expected[number, slot].insert(0, ids[-1])
            model[ids[-1]] = {"state": "started", "stored_as": None, "error": None}
        elif ids:
            which, state, values = given_values
            ledger.mark(ids[which % len(ids)], state, **values)
            model[ids[which % len(ids)]] |= {"state": state, **values}
    ledger = Ledger(path, REAL)
    for number in (1, 2):
        for slot in "ab":
            found = ledger.attempts(number, slot)
            assert [a.id for a in found] == expected[number, slot]
            assert all(getattr(a, name) == value for a in found for name, value in model[a.id].items())


def enter_as_before(path: Path) -> None:
    """An attempt as versions 1 and 2 entered it before there was a `slot_id`."""
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO attempts (tournament, round, slot, recipe, source, sha256, state, started_at_utc)"
        " VALUES (?, 7, 'one', 'simple-mlp', 'fresh', 'ab12', 'verified', '2026-08-22T12:04:08+00:00')",
        (REAL,),
    )
    connection.commit()
    connection.close()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_an_older_ledger_is_brought_up_to_date_and_keeps_its_attempts(version: int, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    of_version(path, version)
    enter_as_before(path)
    ledger = Ledger(path, REAL)
    (attempt,) = ledger.attempts(7, "one")
    assert (attempt.state, attempt.model_id, attempt.slot_id) == ("verified", None, None)
    assert ledger.attempt(begin(ledger, slot_id="0a")).slot_id == "0a"


def test_an_eraflow_from_before_the_slots_ids_goes_on_with_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    of_version(path, 2)
    ledger = Ledger(path, REAL)
    begin(ledger, slot_id="0a")
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    assert version == 2, "any other one it refuses"
    enter_as_before(path)
    assert [(a.id, a.state, a.slot_id) for a in ledger.attempts(7, "one", "0a")] == [
        (2, "verified", None), (1, "started", "0a")
    ]  # fmt: skip
    assert [a.id for a in Ledger(path, REAL).attempts(7, "one")] == [2, 1]


def test_another_slot_that_got_the_name_has_no_attempts_of_the_first_one(ledger: Ledger) -> None:
    before = begin(ledger)
    first, second = (begin(ledger, slot_id=slot_id) for slot_id in ("0a", "0b"))
    assert [a.id for a in ledger.attempts(7, "one", "0b")] == [second, before], "what knows no id is either's"
    assert [a.id for a in ledger.attempts(7, "one")] == [second, before]
    assert [a.id for a in ledger.attempts(7, "one", "0a")] == [first, before]


def test_a_slot_keeps_its_attempts_under_another_name(ledger: Ledger) -> None:
    unknown = begin(ledger)
    first, other = begin(ledger, slot_id="0a"), begin(ledger, slot_id="0b")
    second = begin(ledger, slot="two", slot_id="0a")
    assert [a.id for a in ledger.attempts(7, "two", "0a")] == [second, first]
    assert [a.id for a in ledger.attempts(7, "one", "0b")] == [other, unknown]
    assert [a.id for a in ledger.attempts(7, "two")] == [second], "by its name alone only what has that name"


def test_the_last_rounds_are_told_with_all_their_attempts(ledger: Ledger) -> None:
    for number in (5, 6, 7, 7):
        begin(ledger, round_number=number)
    assert [attempt.round for attempt in ledger.recent(2)] == [7, 7, 6]


def test_rounds_are_remembered_with_their_newest_times(ledger: Ledger) -> None:
    opens, closes = datetime(2026, 8, 22, 12, tzinfo=UTC), datetime(2026, 8, 23, 14, tzinfo=UTC)
    first = Round(number=7, opens_at_utc=opens, closes_at_utc=closes)
    moved = Round(number=7, opens_at_utc=opens, closes_at_utc=closes - timedelta(hours=1), ends_at_utc=closes)
    for seen in (first, moved, Round(number=6, opens_at_utc=opens, closes_at_utc=closes)):
        ledger.note_round(seen)
    assert ledger.rounds()[0] == moved
    assert [seen.number for seen in ledger.rounds()] == [7, 6]


def test_durations_are_those_of_the_stage_and_recipe_newest_first(ledger: Ledger) -> None:
    for seconds in (1.0, 2.0, 3.0):
        ledger.note_stage(7, "training", "simple-mlp", seconds)
    ledger.note_stage(7, "training", "era-pearson", 99.0)
    ledger.note_stage(7, "dataset", "simple-mlp", 98.0)
    assert ledger.durations("training", "simple-mlp", limit=2) == [3.0, 2.0]


def test_a_score_of_the_same_day_replaces_what_was_there(ledger: Ledger) -> None:
    early = Score(round=7, slot="one", name="corr60", day=1, value=0.01)
    final = Score(round=7, slot="one", name="corr60", day=60, value=0.02, percentile=0.7, resolved=True)
    ledger.note_scores([early, final])
    ledger.note_scores([dataclasses.replace(early, value=0.011)])
    assert ledger.scores() == [dataclasses.replace(early, value=0.011), final]
    assert ledger.scores("two") == []


def test_alarms_are_kept_with_how_many_were_told(ledger: Ledger) -> None:
    ledger.note_alarm(7, "missed", "round 7 is not safe", 2)
    ledger.note_alarm(None, "failure", "no round", 0)
    assert [(note.round, note.kind, note.told) for note in ledger.alarms()] == [(None, "failure", 0), (7, "missed", 2)]


def test_a_whole_ledger_has_no_damage_to_tell(ledger: Ledger) -> None:
    assert ledger.check() is None
