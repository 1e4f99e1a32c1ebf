"""Guards of sending, files and alarms that no other test needed: each could go without anybody noticing."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eraflow.alarms import Alarm, was_told
from eraflow.client import Keys
from eraflow.errors import ClosedError, TransientError
from eraflow.ledger import Ledger
from eraflow.progress import silent
from eraflow.rehearsal.faults import Fault
from eraflow.rehearsal.server import LocalTournament
from eraflow.store import replacing_folder
from eraflow.tournament import Tournament
from eraflow.transport import NotSentError, get, receive
from tests.eraflow.raw_server import OK, Server, sending
from tests.eraflow.sender import LATE, Sender
from tests.eraflow.syncing import syncs_and_moves
from tests.eraflow.talking import asked

# Submitting


def test_a_deadline_that_passes_between_two_tries_of_an_upload_forbids_the_second(
    one: Sender, local: LocalTournament
) -> None:
    one.door = Tournament(local.url, Keys(local.public_id, local.secret_key), sleep=lambda _: one.pass_time(27 * 3600))
    order = one.order()
    local.faults.add(Fault(where="put", what="status", code=503))
    with pytest.raises(ClosedError, match="deadline"):
        one.send(order)
    assert asked(local, "PUT") == 1
    assert asked(local, "createSubmission") == 0
    assert [attempt.state for attempt in one.attempts()] == ["failed"]


def test_a_deadline_that_passes_between_two_tries_to_submit_forbids_the_second(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first never left, so another one would be made."""
    one.door = Tournament(local.url, Keys(local.public_id, local.secret_key), sleep=lambda _: one.pass_time(27 * 3600))
    order, ask, tries = one.order(), one.door._queries.send, []

    def send(query: str, *given: Any) -> dict[str, Any]:
        if "create_submission" in query:
            tries.append(query)
            if len(tries) == 1:
                raise NotSentError("the tournament's API cannot be reached")
        return ask(query, *given)

    monkeypatch.setattr(one.door._queries, "send", send)
    with pytest.raises(ClosedError, match="deadline"):
        one.send(order)
    assert len(tries) == 1
    assert not local.submissions()
    assert [attempt.state for attempt in one.attempts()] == ["failed"]


def test_a_submission_that_has_not_left_by_the_deadline_does_not_leave_after_it(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    order, ask = one.order(), one.door._queries.send

    def send(query: str, variables: Any = None, authorization: bool = False, *given: Any) -> dict[str, Any]:
        limits.extend(given)
        return ask(query, variables, authorization, *given)

    monkeypatch.setattr(one.door._queries, "send", send)
    before_s = order.opened.left_s(local.now_utc())
    assert one.send(order).status == "submitted"
    (limit_s,) = limits
    assert 0 < limit_s <= before_s + 2.0


def test_a_submission_that_the_deadline_overtakes_on_its_way_is_entered_as_late(
    one: Sender, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, upload = one.order(), one.door.upload

    def slow(*given: Any, **named: Any) -> str:
        stored_as = upload(*given, **named)
        one.pass_time(27 * 3600)
        return stored_as

    monkeypatch.setattr(one.door, "upload", slow)
    receipt = one.send(order, settings=LATE)
    assert (receipt.status, receipt.verified) == ("late", "bytes")
    assert [attempt.late for attempt in one.attempts()] == [True]


def test_a_round_that_has_yet_to_open_is_not_open_although_the_tournament_calls_it_current(
    local: LocalTournament, door: Tournament
) -> None:
    opens = local.now_utc() + timedelta(hours=1)
    closes = opens + timedelta(hours=26)
    named = {
        "number": 1402,
        "openTime": opens.isoformat(),
        "closeTime": closes.isoformat(),
        "closeStakingTime": closes.isoformat(),
        "roundScoreConfigs": [],
    }
    body = json.dumps({"data": {"rounds": [named]}})
    local.faults.add(Fault(where="query:rounds", what="status", code=200, body=body, times=None))
    with pytest.raises(ClosedError, match="round 1402 opens at") as caught:
        door.current_round()
    assert caught.value.code == "no-round"


def test_every_entry_of_the_ledger_is_synced_before_what_it_announces(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "https://api-tournament.numer.ai")
    with ledger._connected() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: at each commit


# Files


def test_a_file_that_unpacks_to_more_than_was_announced_is_not_written_on(tmp_path: Path) -> None:
    packed = gzip.compress(b"0" * 50_000_000)
    head = OK + f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    path = tmp_path / "live.parquet"
    with (
        Server(sending(head, packed)).running() as url,
        get(url, "the file") as body,
        pytest.raises(TransientError, match=f"should have {len(packed):,} bytes"),
    ):
        receive(body, "live.parquet", path, silent)
    assert path.stat().st_size <= len(packed)


def test_the_files_of_a_folder_are_synced_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = syncs_and_moves(monkeypatch)
    with replacing_folder(tmp_path / "decoded") as partial:
        (partial / "codes.npy").write_bytes(b"1")
        (partial / "ids.npy").write_bytes(b"2")
    assert done == ["fsync", "fsync", "fsync", "replace", "fsync"]  # the folder and its two files, then its own folder


# Alarms


def test_an_alarm_that_nobody_took_counts_as_not_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "https://api-tournament.numer.ai")
    alarm = Alarm(kind="missed", round=1401, title="round 1401 was missed", body="")
    for told in (0, 2):
        ledger.note_alarm(alarm.round, alarm.kind, alarm.title, told)
        assert was_told(alarm, ledger.alarms(), datetime.now(UTC)) is (told > 0)
