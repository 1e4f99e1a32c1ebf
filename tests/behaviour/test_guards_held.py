"""Guards of models, studies and benchmarks that no other test needed: each could go without anybody noticing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eraflow.config import build
from eraflow.errors import DataError
from eraflow.fallback import benchmark_predictions
from eraflow.rehearsal.market import Market as MadeMarket
from eraflow.rehearsal.market import MarketConfig
from eraflow.rehearsal.market_files import write_file
from eraflow.store import Store
from eraflow.study.config import StudyConfig
from eraflow.study.plan import plan
from tests.eraflow import fitting
from tests.eraflow.study.conftest import SMALL, file_of
from tests.eraflow.test_trained import Market, recipe, run, store, table


def test_a_checkpoint_of_other_rows_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(fitting.Killed):
        fitting.run(tmp_path / "killed", progress=fitting.KillAfter(2))
    other = fitting.market(1)
    found, fresh = (fitting.run(tmp_path / name, rows=other) for name in ("killed", "fresh"))
    assert fitting.same_weights(found, fresh)


def test_a_whole_model_of_another_recipe_in_the_same_folder_is_not_taken_for_this_one(tmp_path: Path) -> None:
    market = Market(
        train=store(tmp_path / "data", "train", table(range(1, 31))),
        validation=store(tmp_path / "data", "validation", table(range(31, 35), seed=1)),
        live=store(tmp_path / "data", "live", table([0], seed=2, live=True)),
    )
    first = run(market, tmp_path / "model", recipe(training__epochs="1"))
    second = run(market, tmp_path / "model", recipe(training__epochs="2"))
    assert (second.recipe.training.epochs, second.steps) == (2, 2 * first.steps)


def unit_keys(folder: Path, home: Path, seed: int, **changed: Any) -> set[str]:
    """Those of a small study of a market of that seed, whose files are made in `folder`."""
    folder.mkdir(exist_ok=True)
    market = MadeMarket(MarketConfig(features=4, train_eras=40, validation_eras=30, rows_per_era=10, seed=seed))
    for name in ("features.json", "train.parquet", "validation.parquet"):
        write_file(market, name, folder / name, week=1, number=1401)
    study = plan(
        build(StudyConfig, SMALL | {"benchmark": ""} | changed),
        store=Store.open(home),
        files=[file_of(folder / name) for name in ("train.parquet", "validation.parquet")],
        features_file=folder / "features.json",
        decoded=home / "decoded",
    )
    return {unit.key for unit in study.units}


def test_units_of_a_study_on_other_data_are_others(tmp_path: Path) -> None:
    keys = [unit_keys(tmp_path / str(seed), tmp_path / "home", seed) for seed in (1, 2)]
    assert keys[0]
    assert not keys[0] & keys[1]


def test_units_of_a_study_that_purges_more_are_others(tmp_path: Path) -> None:
    folds = {"chunk_eras": 15, "number": 2}
    keys = [
        unit_keys(tmp_path / "data", tmp_path / "home", 1, folds=folds | {"purge_eras": purged}) for purged in (8, 12)
    ]
    assert not keys[0] & keys[1]


def test_a_benchmark_that_lacks_a_live_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "live_benchmark_models.parquet"
    pq.write_table(pa.table({"id": ["n1", "n2", "n3"], "v53_lgbm_ender20": [0.5, 0.2, float("nan")]}), path)
    assert benchmark_predictions(path, "v53_lgbm_ender20", np.array(["n2", "n1"])).tolist() == [0.25, 0.75]
    for ids in (["n1", "n4"], ["n1", "n3"]):
        with pytest.raises(DataError, match="for each live id, however 1 of 2 are missing"):
            benchmark_predictions(path, "v53_lgbm_ender20", np.array(ids))
