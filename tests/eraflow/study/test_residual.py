"""A candidate that learns the residual of a benchmark: what it is taught, what it is scored on, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eraflow.config import build
from eraflow.errors import InputError
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.market_files import write_file
from eraflow.residual import residual_target
from eraflow.rows import Rows
from eraflow.store import Store
from eraflow.study.candidates import fit_and_predict
from eraflow.study.config import StudyConfig
from eraflow.study.plan import Study, open_study, plan
from eraflow.study.run import references_of, run
from tests.eraflow.study.conftest import SMALL, Made, file_of

BENCHMARK = "v53_lgbm_ender20"
TINY = SMALL["variants"]["tiny"]
LEFT = TINY | {"data": {"residual_of": BENCHMARK}}
BOTH: dict[str, Any] = {"recipes": ["tiny", "left"], "variants": {"tiny": TINY, "left": LEFT}, "seeds": 1}


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory, studied_folder: Path) -> Path:
    """The files of `studied_folder` and the benchmarks of train, which begin at era 11."""
    folder = tmp_path_factory.mktemp("whole") / "files"
    shutil.copytree(studied_folder, folder)
    market = Market(MarketConfig(features=8, train_eras=40, validation_eras=40, rows_per_era=60))
    name = "train_benchmark_models.parquet"
    write_file(market, name, folder / name, week=1, number=1401)
    return folder


def planned(folder: Path, home: Path, **changed: Any) -> Study:
    return plan(
        build(StudyConfig, SMALL | BOTH | changed),
        store=Store.open(home),
        files=[file_of(folder / name) for name in ("train.parquet", "validation.parquet")],
        features_file=folder / "features.json",
        decoded=home / "decoded",
    )


def test_it_learns_the_residual_and_is_scored_on_the_target(
    whole_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, int], tuple[Rows, Rows]] = {}
    real = fit_and_predict

    def noted(candidate: Any, train: Rows, validation: Rows, **named: Any) -> Any:
        seen[candidate.name, int(validation.era_M[0])] = train, validation
        return real(candidate, train, validation, **named)

    monkeypatch.setattr("eraflow.study.units.fit_and_predict", noted)
    study = planned(whole_folder, tmp_path / "home")
    benchmark_M = study.in_order(references_of(study)["bmc"])
    found = run(open_study(study.folder), references_of(study))
    assert found.scores.unfinished == {}
    assert set(found.scores.by_metric["bmc"]) == {"tiny", "left"}
    rows = study.rows(study.candidates[0])
    residual_M = residual_target(rows.target_M, benchmark_M, rows.era_M)
    for fold in study.folds:
        plain, left = (seen[name, int(fold.validation_E[0])] for name in ("tiny", "left"))
        assert np.array_equal(left[1].target_M, plain[1].target_M)
        taught_M = np.isin(rows.era_M, fold.train_E) & ~np.isnan(residual_M)
        assert left[0].era_M.min() == 11
        assert np.array_equal(left[0].target_M, residual_M[taught_M])
        assert np.array_equal(left[0].era_M, rows.era_M[taught_M])
        assert plain[0].era_M.min() == 1


def test_only_the_keys_of_those_that_learn_a_residual_depend_on_the_benchmarks(
    made: Made, whole_folder: Path, tmp_path: Path
) -> None:
    alone, both = made(recipes=["tiny"], variants={"tiny": TINY}, seeds=1), planned(whole_folder, tmp_path / "home")
    assert {"config", "parts", "features_file"} == json.loads((alone.folder / "study.json").read_bytes()).keys()
    assert keys(both, "tiny") == keys(alone, "tiny")
    other = replace(both, benchmarks_sha256=("0" * 64,))
    assert keys(other, "tiny") == keys(both, "tiny")
    assert not keys(other, "left") & keys(both, "left")


def test_a_benchmark_file_that_changed_makes_another_study_and_leaves_the_first_as_it_was(
    whole_folder: Path, tmp_path: Path
) -> None:
    folder, home = tmp_path / "files", tmp_path / "home"
    shutil.copytree(whole_folder, folder)
    first = planned(folder, home)
    known, left = keys(first, "left"), first.candidates[1]
    before = first.taught(left, first.rows(left))
    (folder / "train_benchmark_models.parquet").unlink()
    again = open_study(first.folder)
    assert keys(again, "left") == known
    assert again.taught(left, again.rows(left)).digest() == before.digest()
    second = planned(folder, home, folds={"chunk_eras": 10, "number": 1, "last_era": 75})
    narrower = planned(whole_folder, home, folds={"chunk_eras": 10, "number": 1, "last_era": 75})
    assert not keys(second, "left") & keys(narrower, "left")
    assert keys(second, "tiny") == keys(narrower, "tiny")
    assert len(second.taught(left, second.rows(left))) < len(before)


def test_a_ridge_can_learn_a_residual_too(whole_folder: Path, tmp_path: Path) -> None:
    variants = {"left": {"recipe": "ridge", "data": {"residual_of": BENCHMARK}}}
    study = planned(whole_folder, tmp_path / "home", recipes=["ridge", "left"], variants=variants)
    found = run(study, references_of(study))
    assert found.scores.unfinished == {}
    bmc = {name: np.nanmean(score_SE) for name, score_SE in found.scores.by_metric["bmc"].items()}
    assert bmc["left"] != bmc["ridge"]


def test_a_column_that_is_not_there_is_refused_with_the_nearest(whole_folder: Path, tmp_path: Path) -> None:
    wrong = TINY | {"data": {"residual_of": "v53_lgbm_ender2"}}
    with pytest.raises(InputError, match=r"'v53_lgbm_ender2'; did you mean v53_lgbm_ender20\?"):
        planned(whole_folder, tmp_path / "home", variants={"tiny": TINY, "left": wrong})
    assert not (tmp_path / "home" / "decoded").exists()


def test_files_that_are_not_there_are_refused(whole_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    shutil.copytree(whole_folder, folder, ignore=shutil.ignore_patterns("*_benchmark_models.parquet"))
    name = "live_benchmark_models.parquet"  # of no training row
    shutil.copy(whole_folder / "validation_benchmark_models.parquet", folder / name)
    with pytest.raises(
        InputError, match="because left learns what v53_lgbm_ender20 leaves over, however it holds none"
    ):
        planned(folder, tmp_path / "home")


def test_a_fold_that_would_have_nothing_to_learn_is_refused(made: Made) -> None:
    """Without the benchmarks of train the first fold trains on eras that have none."""
    with pytest.raises(InputError, match=r"left must have training rows with a prediction of .* in fold 1, however"):
        made(**BOTH | {"folds": {"chunk_eras": 20, "number": 2}})


def keys(study: Study, name: str) -> set[str]:
    return {unit.key for unit in study.units if unit.candidate.name == name}
