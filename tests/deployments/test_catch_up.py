"""What is started at once when the deployments begin to be served. Nothing here starts Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.deploy import DAILY_WAIT_S, require_server, to_catch_up
from eraflow.rehearsal import Fault, LocalTournament
from eraflow.weekly_config import Configuration, ScheduleConfig
from tests.eraflow.raw_server import OK, Server, sending

CONFIGURATION = Configuration(slots={"rehearsal_one": "simple-mlp"})


@pytest.fixture
def days(tmp_path: Path, market_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalTournament]:
    """A tournament with rounds on weekdays too, at a Sunday an hour after Saturday's round is over."""
    with LocalTournament(tmp_path / "tournament", data_from=market_folder, weekly_only=False) as local:
        monkeypatch.setenv("ERAFLOW_API_URL", local.url)
        monkeypatch.setenv("NUMERAI_PUBLIC_ID", local.public_id)
        monkeypatch.setenv("NUMERAI_SECRET_KEY", local.secret_key)
        while local.now_utc().isoweekday() != 6:
            local.open_next_round(delay_s=0)
        local.close_round()
        local.move_clock(3600)
        yield local


def test_between_rounds_nothing_is(days: LocalTournament) -> None:
    assert to_catch_up(CONFIGURATION) is None


def test_an_open_round_is_by_the_deployment_of_its_kind(days: LocalTournament) -> None:
    days.open_next_round(delay_s=1453)
    assert to_catch_up(CONFIGURATION) == ("daily", 0.0)
    assert to_catch_up(replace(CONFIGURATION, schedule=ScheduleConfig(daily=()))) is None
    assert to_catch_up(replace(CONFIGURATION, slots={})) is None
    for _ in range(4):
        days.open_next_round(delay_s=0)
    assert to_catch_up(CONFIGURATION) == ("weekly", 0.0)
    assert to_catch_up(replace(CONFIGURATION, schedule=ScheduleConfig(weekly=()))) is None


def test_a_run_that_would_be_waiting_for_a_late_opening_is_made_up_for(days: LocalTournament) -> None:
    days.delay_next_round(1800)
    now_utc = days.now_utc()
    noon = now_utc.replace(hour=12, minute=0, second=0)
    days.move_clock(((2 - now_utc.isoweekday()) % 7) * 86400 + (noon - now_utc).total_seconds() + 600)
    late = to_catch_up(CONFIGURATION)
    assert late is not None
    assert late[0] == "daily"
    assert late[1] == pytest.approx(DAILY_WAIT_S - 720, abs=5)


def test_a_round_that_is_over_is_not_waited_for(days: LocalTournament) -> None:
    days.open_next_round(delay_s=0)
    days.close_round()  # an hour before a run that had waited in vain would give up
    assert to_catch_up(CONFIGURATION) is None


def test_a_tournament_that_does_not_answer_is_left_to_the_run(
    days: LocalTournament, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eraflow.tournament.RETRY_WAITS_S", (0.01,))
    days.faults.add(Fault(where="any query", what="status", code=503, times=None))
    assert to_catch_up(CONFIGURATION) == ("weekly", 0.0)
    assert to_catch_up(replace(CONFIGURATION, schedule=ScheduleConfig(weekly=()))) == ("daily", 0.0)
    assert to_catch_up(replace(CONFIGURATION, schedule=ScheduleConfig(weekly=(), daily=()))) is None
    assert "whether a round is open could not be asked" in capsys.readouterr().err


def test_a_server_on_a_busy_machine_is_waited_for() -> None:
    with Server(sending(OK, b"Content-Length: 4\r\n\r\ntrue", pause_s=1.5)).running() as url:
        require_server({"PREFECT_API_URL": f"{url}/api"})
