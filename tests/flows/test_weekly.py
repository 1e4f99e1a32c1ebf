"""What becomes of a round when Prefect fails: it is played without, unless it was over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(("code", "again"), [("unexpected", True), ("round-closed", False)])
def test_an_error_inside_a_task_that_may_be_prefects_is_tried_without_it(
    monkeypatch: pytest.MonkeyPatch, request_: Request, code: str, again: bool
) -> None:
    receipt = Receipt(round=1, slot="one", recipe="simple-mlp", source=None, status="failed", error_code=code)
    of_slot = RoundResult(round=1, receipts=(receipt,))
    of_round = RoundResult(round=1, error={"code": code, "message": "it failed", "exit_code": 1})
    for result in (of_slot, of_round):
        assert (outcome(monkeypatch, request_, "", result) is PLAIN) is again
