"""The hold-out during training: whole eras, the same each time, few enough to cost little; all of them in the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eraflow.errors import TrainingError
from eraflow.exam import FEWEST_ERAS, SHARE, Exam, sample
from eraflow.optimization import mse
from eraflow.rows import Rows
from tests.eraflow.fitting import ROWWISE, market, run, run_members


def test_a_small_holdout_is_examined_whole() -> None:
    rows = market(eras=FEWEST_ERAS).labelled().by_era()
    assert sample(rows, 1) is rows


@pytest.mark.parametrize("wanted_eras", [1, 50, 80])
def test_a_large_one_by_whole_eras_evenly_spread_and_the_same_each_time(wanted_eras: int) -> None:
    rows = market(eras=100, rows=10).labelled().by_era()
    chosen = sample(rows, wanted_eras * len(rows) // 100)
    eras, sizes = np.unique(chosen.era_M, return_counts=True)
    assert len(eras) == pytest.approx(max(FEWEST_ERAS, wanted_eras), abs=1)
    assert eras[[0, -1]].tolist() == [1, 100]
    assert np.diff(eras).max() - np.diff(eras).min() <= 1
    assert sizes.tolist() == [(rows.era_M == era).sum() for era in eras]
    np.testing.assert_array_equal(chosen.target_M, sample(rows, wanted_eras * len(rows) // 100).target_M)


def test_the_examined_rows_are_a_share_of_those_trained_on_in_between() -> None:
    holdout = market(eras=400, rows=10)
    exam = Exam(holdout, mse, rows_between=8000)
    assert len(exam.rows) == pytest.approx(SHARE * 8000, rel=0.05)


def test_history_says_how_many_eras_were_examined(tmp_path: Path) -> None:
    found = run(tmp_path / "a", holdout=market(3, eras=60, first_era=30))
    assert {entry["eras"] for entry in found.history} == {FEWEST_ERAS}
    assert {entry["eras"] for entry in run(tmp_path / "b").history} == {None}


def test_members_are_examined_in_one_pass_as_each_alone(tmp_path: Path) -> None:
    holdout = market(3, first_era=30)
    fits = run_members([tmp_path / "0", tmp_path / "1"], ROWWISE, [0, 1], holdout=holdout)
    exam = Exam(holdout, mse, rows_between=1)
    together = exam.of([fitted.model for fitted in fits])
    for m, fitted in enumerate(fits):
        assert together[m] == exam.of([fitted.model])[0]
        assert {key: fitted.history[-1][key] for key in together[m]} == pytest.approx(together[m])


def test_a_holdout_without_a_target_is_refused(tmp_path: Path) -> None:
    nothing = Rows.of(np.zeros((4, 12), np.int8), None, np.ones(4, np.int32))
    with pytest.raises(TrainingError, match="hold-out must have rows with a target, however none has one"):
        run(tmp_path, holdout=nothing)
