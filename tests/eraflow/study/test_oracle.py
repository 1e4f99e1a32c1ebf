"""A study's shares: of the oracle that its fold's training could know, where the market is known and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eraflow.config import build
from eraflow.errors import DataError
from eraflow.rehearsal.market_files import write_file
from eraflow.rehearsal.market_oracle import oracles
from eraflow.rehearsal.study_market import CONFIG_FILE, StudyMarket, save_config
from eraflow.rehearsal.study_rules import StudyConfig as MarketConfig
from eraflow.store import Store
from eraflow.study import oracle
from eraflow.study.config import StudyConfig
from eraflow.study.files import files_of
from eraflow.study.oracle import ORACLE, oracle_scores, shares
from eraflow.study.plan import Study, plan
from eraflow.study.run import references_of, run
from eraflow.study.scores import Scores

MARKET = StudyMarket(MarketConfig(features=64, train_eras=20, validation_eras=60, rows_per_era=150, strength=0.4))
ASKED: dict[str, Any] = {
    "recipes": ["ridge", "tiny"],
    "seeds": 2,
    "target": "target_ender_20",
    "feature_set": "all",
    "benchmark": "v53_lgbm_ender20",
    "folds": {"chunk_eras": 18, "number": 2},
    "variants": {"tiny": {"recipe": "simple-mlp", "model": {"hidden": [8]}, "training": {"epochs": 1}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a market of 20 + 60 eras of about 150 rows."""
    made = tmp_path_factory.mktemp("market")
    for name in (
        "features.json",
        "train.parquet",
        "validation.parquet",
        "validation_benchmark_models.parquet",
        "meta_model.parquet",
    ):
        write_file(MARKET, name, made / name, week=0, number=1)
    save_config(MARKET, made)
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests, so that the files are decoded once."""
    return tmp_path_factory.mktemp("home")


def planned(folder: Path, home: Path, **changed: Any) -> Study:
    store = Store.open(home)
    files = files_of(folder, store)
    return plan(
        build(StudyConfig, ASKED | changed),
        store=store,
        files=files.data,
        features_file=files.features,
        decoded=files.decoded,
    )


@pytest.fixture
def study(folder: Path, home: Path) -> Study:
    found = planned(folder, home)
    (found.folder / ORACLE).unlink(missing_ok=True)
    return found


def blank(study: Study, *metrics: str) -> Scores:
    """No candidate's scores, but the study's eras and folds."""
    folds = [(fold.number, era) for fold in study.folds for era in fold.validation_E]
    return Scores(
        era_E=np.array([era for _, era in folds]),
        fold_E=np.array([number for number, _ in folds]),
        by_metric={name: {} for name in metrics},
        correlation={},
        unfinished={},
    )


def with_scores(study: Study, best: Any, *metrics: str) -> Scores:
    """Candidates that reach all of the oracle's score, half of it, and nothing but luck of its size."""
    chance = np.random.default_rng(0)
    told = {
        name: {
            "all": best[name][np.newaxis],
            "half": np.stack([best[name] * 0.4, best[name] * 0.6]),
            "luck": chance.standard_normal((3, len(best[name]))) * best[name].std(),
        }
        for name in metrics
    }
    return replace(blank(study, *metrics), by_metric=told)


def test_the_oracle_has_all_of_itself_half_of_it_a_half_and_luck_perhaps_nothing(study: Study) -> None:
    metrics = ("spearman", "numerai_corr", "mmc", "bmc", "payout")
    best = oracle_scores(MARKET, study, blank(study, *metrics), neutral=False)
    found = shares(study, with_scores(study, best, *metrics))
    assert list(found) == list(metrics)
    for name in ("spearman", "numerai_corr"):
        assert found[name]["all"].mean == pytest.approx(1)
        assert found[name]["all"].high - found[name]["all"].low < 1e-9
        assert found[name]["half"].mean == pytest.approx(0.5)
        assert found[name]["half"].low < 0.5 < found[name]["half"].high
        assert found[name]["luck"].low < 0 < found[name]["luck"].high


def test_the_oracle_of_a_fold_knows_the_eras_that_the_fold_was_trained_on(study: Study) -> None:
    best = oracle_scores(MARKET, study, blank(study), neutral=False)
    for fold, part in zip(study.folds, (slice(0, 18), slice(18, 36)), strict=True):
        known = range(1, int(fold.train_E[-1]) + 1)
        alone = oracles(MARKET, fold.validation_E.tolist(), known=known)["fixed"]
        np.testing.assert_array_equal(best["numerai_corr"][part], alone["numerai_corr"])
        other = oracles(MARKET, fold.validation_E.tolist(), known=range(1, 13))["fixed"]
        assert (best["numerai_corr"][part] != other["numerai_corr"]).any()


def test_a_real_study_has_a_share_of_everything_that_its_data_define(study: Study) -> None:
    found = run(study, references_of(study))
    told = shares(study, found.scores)
    assert set(told) == {"spearman", "numerai_corr", "mmc", "bmc", "payout", "fnc"} & set(found.scores.by_metric)
    assert set(told) >= {"spearman", "numerai_corr", "mmc", "bmc", "payout"}
    assert all(list(table) == ["ridge", "tiny"] for table in told.values())
    ridge = told["spearman"]["ridge"]
    assert ridge.defined
    assert ridge.low < ridge.mean < ridge.high
    assert ridge.mean > told["spearman"]["tiny"].mean


def test_the_oracle_is_asked_once_and_again_where_the_folds_differ_or_its_file_is_damaged(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(market: StudyMarket, eras: list[int], **named: Any) -> Any:
        asked.append(len(eras))
        return oracles(market, eras, **named)

    monkeypatch.setattr(oracle, "oracles", counted)
    every = blank(study)
    first = oracle_scores(MARKET, study, every, neutral=False)
    again = oracle_scores(MARKET, study, every, neutral=False)
    assert asked == [18, 18]
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    fewer = replace(every, era_E=every.era_E[1:], fold_E=every.fold_E[1:])
    oracle_scores(MARKET, study, fewer, neutral=False)
    assert asked == [18, 18, 17, 18]
    (study.folder / ORACLE).write_text("{")
    oracle_scores(MARKET, study, fewer, neutral=False)
    assert asked == [18, 18, 17, 18, 17, 18]


def test_the_oracle_is_paid_by_the_study_s_multipliers_and_clip(folder: Path, home: Path) -> None:
    payout = {"corr": 0.0, "mmc": 2.0, "factor": 0.5, "clip": 0.05}
    study = planned(folder, home, payout=payout)
    best = oracle_scores(MARKET, study, blank(study), neutral=False)
    # For MMC alone the best prediction is that for MMC.
    np.testing.assert_allclose(best["payout"], np.clip(best["mmc"], -0.05, 0.05))
    assert (np.abs(best["payout"]) == 0.05).any()


def test_bmc_has_no_share_where_the_benchmark_is_made_for_another_target(folder: Path, home: Path) -> None:
    study = planned(folder, home, benchmark="v53_lgbm_ender60")
    best = oracle_scores(MARKET, study, blank(study), neutral=False)
    assert list(shares(study, with_scores(study, best, "spearman", "bmc"))) == ["spearman"]


def test_feature_neutral_corr_has_a_share_where_the_study_has_it(study: Study) -> None:
    best = oracle_scores(MARKET, study, blank(study), neutral=True)
    found = shares(study, with_scores(study, best, "fnc"))
    assert list(found) == ["fnc"]
    assert found["fnc"]["all"].mean == pytest.approx(1)


def test_data_of_an_unknown_market_have_no_shares(study: Study, tmp_path: Path) -> None:
    best = oracle_scores(MARKET, study, blank(study), neutral=False)
    scores = with_scores(study, best, "spearman")
    assert shares(study, scores) != {}
    assert shares(replace(study, features_file=tmp_path / "features.json"), scores) == {}


def test_a_market_that_is_not_that_of_the_files_is_refused(study: Study, tmp_path: Path) -> None:
    best = oracle_scores(MARKET, study, blank(study), neutral=False)
    save_config(StudyMarket(replace(MARKET.config, seed=1)), tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["seed"] == 1
    with pytest.raises(DataError, match=r"market\.json must describe the market of the files beside it, however"):
        shares(replace(study, features_file=tmp_path / "features.json"), with_scores(study, best, "spearman"))
