"""A small market to study on, and studies of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eraflow.config import build
from eraflow.files import File
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.market_files import write_file
from eraflow.store import Store, sha256_of
from eraflow.study.config import StudyConfig
from eraflow.study.plan import Study, plan

SMALL: dict[str, Any] = {
    "recipes": ["ridge", "tiny"],
    "seeds": 2,
    "target": "target_ender_20",
    "feature_set": "all",
    "benchmark": "v53_lgbm_ender20",
    "folds": {"chunk_eras": 15, "number": 2},
    "variants": {"tiny": {"recipe": "simple-mlp", "model": {"hidden": [8]}, "training": {"epochs": 1}}},
}

Made = Callable[..., Study]


@pytest.fixture(scope="session")
def studied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a market of 40 + 40 eras of about 60 rows, 8 features."""
    folder = tmp_path_factory.mktemp("studied")
    market = Market(MarketConfig(features=8, train_eras=40, validation_eras=40, rows_per_era=60))
    for name in (
        "features.json",
        "train.parquet",
        "validation.parquet",
        "validation_benchmark_models.parquet",
        "meta_model.parquet",
    ):
        write_file(market, name, folder / name, week=1, number=1401)
    return folder


def file_of(path: Path) -> File:
    return File(
        path=path, name=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size, rows=None, changed=False
    )


@pytest.fixture
def made(tmp_path: Path, studied_folder: Path) -> Made:
    """A study of `SMALL` with what is given in its place."""

    def one(**changed: Any) -> Study:
        return plan(
            build(StudyConfig, SMALL | changed),
            store=Store.open(tmp_path / "home"),
            files=[file_of(studied_folder / name) for name in ("train.parquet", "validation.parquet")],
            features_file=studied_folder / "features.json",
            decoded=tmp_path / "decoded",
        )

    return one
