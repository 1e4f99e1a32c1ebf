"""How much time a fresh model gets."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eraflow.budget import MARGIN, UNLEARNT_S, Budget, budget_for, budget_text, now_s, unlimited, usual_s
from eraflow.errors import OutOfTimeError
from eraflow.ledger import Ledger
from eraflow.rounds import Round

OPENS = datetime(2026, 8, 22, 12, tzinfo=UTC)
ROUND = Round(number=7, opens_at_utc=OPENS, closes_at_utc=OPENS + timedelta(hours=26))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", "https://api-tournament.numer.ai")


def test_what_was_never_measured_is_allowed_minutes(ledger: Ledger) -> None:
    budget = budget_for(ROUND, 1000.0, ledger, ["simple-mlp"], reserve_s=100.0)
    assert budget.left_s == pytest.approx(1000 - 100 - sum(UNLEARNT_S.values()), abs=1)


def test_what_was_measured_is_allowed_its_slowest_round_and_a_half(ledger: Ledger) -> None:
    for seconds in (2.0, 4.0, 3.0):
        ledger.note_stage(6, "prediction", "simple-mlp", seconds)
        ledger.note_stage(6, "submission", "simple-mlp", 10 * seconds)
    assert usual_s(ledger, "prediction", "simple-mlp") == MARGIN * 4
    budget = budget_for(ROUND, 1000.0, ledger, ["simple-mlp"], reserve_s=0.0)
    assert budget.left_s == pytest.approx(1000 - MARGIN * 44, abs=1)


def test_each_slot_that_is_still_to_be_sent_takes_its_share(ledger: Ledger) -> None:
    one = budget_for(ROUND, 1000.0, ledger, ["simple-mlp"], reserve_s=0.0).left_s
    two = budget_for(ROUND, 1000.0, ledger, ["simple-mlp", "simple-mlp"], reserve_s=0.0).left_s
    assert one - two == pytest.approx(sum(UNLEARNT_S.values()), abs=1)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_meanwhile_moves_no_deadline(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    budget, real = budget_for(ROUND, 1000.0, ledger, [], reserve_s=100.0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    assert budget.left_s == pytest.approx(900, abs=1)


def test_a_stage_that_tells_its_progress_is_stopped_when_the_time_is_over() -> None:
    told: list[str] = []
    over = Budget(round=ROUND, stop_at_s=now_s() - 1).guarding(lambda stage, *_: told.append(stage))
    with pytest.raises(OutOfTimeError, match="download could not be finished in the time that is left"):
        over("download", 1, 2)
    unlimited(None).guarding(lambda stage, *_: told.append(stage))("download", 1, 2)
    assert told == ["download"]


def test_a_run_without_a_deadline_never_runs_out() -> None:
    assert (unlimited(None).left_s, unlimited(None).is_over()) == (math.inf, False)
    assert budget_text(Budget(round=ROUND, stop_at_s=0)) == "no time for a fresh model"
    assert budget_text(Budget(round=ROUND, stop_at_s=now_s() + 61.5)) == "1 min 1 s for a fresh model"
