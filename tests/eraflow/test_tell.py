"""Who is told after a round, and how often."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eraflow.ledger import Ledger
from eraflow.receipt import Receipt
from eraflow.request import Request, make_request
from eraflow.result import RoundResult
from eraflow.store import Store
from eraflow.tell import alarm_config, tell
from eraflow.tournament import API_URL

SAFE = Receipt(
    round=1432, slot="one", recipe="simple-mlp", source="fresh", status="submitted", submission_id="s1", sha256="ab",
    verified="bytes", origin="own", sent_at_utc="2026-11-21T12:30:00+00:00", left_s=3600.0,
)  # fmt: skip
FAILED = dataclasses.replace(
    SAFE, status="failed", verified=False, submission_id=None, exit_code=1, error_code="training", error_message="nan"
)
OLDER = dataclasses.replace(SAFE, source="older-model", note="the training was cut")


class Endpoint:
    """A local address that alarms and heartbeats go to."""

    def __init__(self) -> None:
        self.alarms: list[dict[str, str]] = []
        self.beats = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.alarms.append(json.loads(body))
                self._done()

            def do_GET(self) -> None:
                endpoint.beats += 1
                self._done()

            def _done(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def request_(tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ERAFLOW_API_URL", raising=False)
    monkeypatch.setenv("TOLD", f"json://127.0.0.1:{endpoint.port}/secret-part")
    path = tmp_path / "my.toml"
    path.write_text(
        '[slots]\none = "simple-mlp"\n[alarm]\nurls = ["$TOLD"]\n'
        f'heartbeat_url = "http://127.0.0.1:{endpoint.port}/beat"\n'
    )
    return make_request(home=tmp_path / "home", config_file=path)


def result_of(*receipts: Receipt) -> RoundResult:
    return RoundResult(
        round=1432, opens_at_utc="2026-11-21T12:00:00+00:00", closes_at_utc="2026-11-22T14:00:00+00:00",
        receipts=receipts,
    )  # fmt: skip


def test_a_safe_round_beats_and_rings_no_alarm(request_: Request, endpoint: Endpoint) -> None:
    tell(request_, result_of(SAFE))
    assert (endpoint.beats, endpoint.alarms) == (1, [])


def test_a_failed_slot_rings_the_alarm_and_does_not_beat(request_: Request, endpoint: Endpoint) -> None:
    tell(request_, result_of(SAFE, dataclasses.replace(FAILED, slot="two")))
    (alarm,) = endpoint.alarms
    assert "1432" in alarm["title"]
    assert "two" in alarm["message"]
    assert endpoint.beats == 0


def test_a_fallback_is_told_once_however_often_the_round_is_looked_at(request_: Request, endpoint: Endpoint) -> None:
    for _ in range(3):
        tell(request_, result_of(OLDER))
    assert len(endpoint.alarms) == 1
    ledger = Ledger(Store.open(request_.home).ledger_path, API_URL)
    assert [(note.round, note.kind, note.told) for note in ledger.alarms()] == [(1432, "fallback", 1)]


def test_on_a_day_when_an_older_model_is_the_plan_nobody_is_told_of_it(request_: Request, endpoint: Endpoint) -> None:
    tell(dataclasses.replace(request_, train=False), result_of(OLDER))
    assert (endpoint.beats, endpoint.alarms) == (1, [])


def test_a_round_that_was_waited_for_and_never_opened_is_told(request_: Request, endpoint: Endpoint) -> None:
    skipped = dataclasses.replace(FAILED, round=None, status="skipped", error_code="no-round", exit_code=3)
    closed = RoundResult(round=None, receipts=(skipped,))
    tell(request_, closed)
    assert endpoint.alarms == []
    tell(dataclasses.replace(request_, wait_s=60.0), closed)
    assert "no round opened within 1 min" in endpoint.alarms[0]["title"]
    assert "nan" in endpoint.alarms[0]["message"], "what the tournament said instead"


def test_what_belongs_to_no_round_is_told_again_the_next_time_it_happens(request_: Request, endpoint: Endpoint) -> None:
    refused = dataclasses.replace(FAILED, round=None, error_code="credentials", exit_code=4)
    result = RoundResult(round=None, receipts=(refused,))
    tell(request_, result)
    tell(request_, result)
    assert len(endpoint.alarms) == 1
    with closing(sqlite3.connect(Store.open(request_.home).ledger_path)) as connection, connection:
        connection.execute("UPDATE alarms SET at_utc = '2026-01-01T00:00:00.000000+00:00'")
    tell(request_, result)
    assert [alarm["title"] for alarm in endpoint.alarms] == ["eraflow: a run stopped"] * 2


def test_a_configuration_that_has_gone_costs_nothing_but_the_telling(request_: Request, endpoint: Endpoint) -> None:
    assert request_.config_file is not None
    request_.config_file.unlink()
    tell(request_, result_of(FAILED))
    assert alarm_config(request_).urls == ()
    assert endpoint.alarms == []


def test_no_address_is_part_of_the_request(request_: Request, endpoint: Endpoint) -> None:
    assert str(endpoint.port) not in repr(request_)
    assert str(endpoint.port) not in json.dumps(dataclasses.asdict(request_), default=str)
