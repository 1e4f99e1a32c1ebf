"""What becomes of a round when Prefect fails: it is played without, unless it was over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eraflow import alarms
from eraflow.alarms import Alarm
from eraflow.receipt import Receipt
from eraflow.request import Request, make_request
from eraflow.result import RoundResult
from flows import weekly

PLAIN = RoundResult(round=1)
UNDER_PREFECT = RoundResult(round=2)


class Signal(BaseException):
    """As Prefect's own, which are no `Exception`."""


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(home=tmp_path, submit=False)


def outcome(monkeypatch: pytest.MonkeyPatch, request: Request, raised: Any, *results: RoundResult) -> RoundResult:
    """What `run_weekly` returns when the flow left `results` and raised, or returned a text."""

    def flow(request: Request, kept: list[RoundResult]) -> str:
        kept.extend(results)
        if isinstance(raised, BaseException):
            raise raised
        return str(raised)

    monkeypatch.setattr(weekly, "_run_flow", flow)
    monkeypatch.setattr(weekly, "play", lambda request, steps: PLAIN)
    return weekly.run_weekly(request)


def test_a_round_that_went_well_is_not_played_again(monkeypatch: pytest.MonkeyPatch, request_: Request) -> None:
    assert outcome(monkeypatch, request_, "", UNDER_PREFECT) is UNDER_PREFECT


@pytest.mark.parametrize("raised", [RuntimeError("no API"), Signal("abort"), "the run ended as Crashed: no"])
def test_whatever_prefect_raises_before_the_end_the_round_is_played_without(
    monkeypatch: pytest.MonkeyPatch, request_: Request, raised: Any
) -> None:
    assert outcome(monkeypatch, request_, raised) is PLAIN


@pytest.mark.parametrize("raised", [RuntimeError("no API"), Signal("abort")])
def test_a_prefect_that_fails_after_the_round_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, request_: Request, raised: Any
) -> None:
    assert outcome(monkeypatch, request_, raised, UNDER_PREFECT) is UNDER_PREFECT


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(143)])
def test_a_stop_is_a_stop(monkeypatch: pytest.MonkeyPatch, request_: Request, raised: BaseException) -> None:
    with pytest.raises(type(raised)):
        outcome(monkeypatch, request_, raised)


def test_without_a_home_nothing_is_played_and_it_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, request_: Request, caplog: pytest.LogCaptureFixture
) -> None:
    home = request_.home / "file"
    home.touch()
    result = outcome(monkeypatch, replace(request_, home=home), "", UNDER_PREFECT)
    assert result.error == {
        "code": "storage",
        "message": f"the folder {home} cannot be used: File exists; set ERAFLOW_HOME to one that can",
        "exit_code": 1,
    }
    assert (result.round, result.exit_code, caplog.messages) == (None, 1, [])


def test_without_a_home_whoever_is_to_be_told_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Alarm] = []

    def ring(alarm: Alarm, *_: object) -> int:
        told.append(alarm)
        return 1

    monkeypatch.setattr(alarms, "ring", ring)
    (tmp_path / "file").touch()
    (tmp_path / "my.toml").write_text('[slots]\none = "simple-mlp"\n[alarm]\nurls = ["json://127.0.0.1:1"]\n')
    outcome(monkeypatch, make_request(home=tmp_path / "file", config_file=tmp_path / "my.toml"), "", UNDER_PREFECT)
    assert [alarm.kind for alarm in told] == ["failure"]
    assert "set ERAFLOW_HOME to one that can" in told[0].body


@pytest.mark.parametrize(("code", "again"), [("unexpected", True), ("round-closed", False)])
def test_an_error_inside_a_task_that_may_be_prefects_is_tried_without_it(
    monkeypatch: pytest.MonkeyPatch, request_: Request, code: str, again: bool
) -> None:
    receipt = Receipt(round=1, slot="one", recipe="simple-mlp", source=None, status="failed", error_code=code)
    of_slot = RoundResult(round=1, receipts=(receipt,))
    of_round = RoundResult(round=1, error={"code": code, "message": "it failed", "exit_code": 1})
    for result in (of_slot, of_round):
        assert (outcome(monkeypatch, request_, "", result) is PLAIN) is again
