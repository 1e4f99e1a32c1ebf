"""The market as files in v5.3 layout, written era by era: no more than a row group is ever in memory.

`write_market` writes them all, `write_file` one of them as it is in a given week and round.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eraflow.rehearsal.market import LIVE, UNRESOLVED, Era, Market, era_kind
from eraflow.rehearsal.study_market import StudyMarket, save_config

VERSION = "v5.3"
TRAIN_FILES = ("features.json", "train.parquet", "train_benchmark_models.parquet")
"""Never change."""
WEEK_FILES = ("validation.parquet", "validation_benchmark_models.parquet", "meta_model.parquet")
"""Grow by an era with each weekly round."""
ROUND_FILES = ("live.parquet", "live_benchmark_models.parquet", "live_example_preds.csv")
"""New in every round."""
BENCHMARKS = {"v53_lgbm_ender20": "target_ender_20", "v53_lgbm_ender60": "target_ender_60"}
# Cells of one row group: 32 MB as int8.
_GROUP_CELLS = 32_000_000


def write_file(market: Market, name: str, to: Path, *, week: int, number: int) -> None:
    """Write the file `name` (without its version) to `to`, as it is in that week and round `number`."""
    config = market.config
    train = range(1, config.train_eras + 1)
    validation = range(config.train_eras + 1, market.last_era(week) + 1)
    if name == "features.json":
        text = json.dumps({"feature_sets": market.feature_sets(), "targets": list(market.targets)}, indent=1)
        to.write_text(text + "\n", encoding="utf-8")
    elif name in ("train.parquet", "validation.parquet"):
        eras = train if name == "train.parquet" else validation
        _write(to, (_rows(market, market.era(era), week) for era in eras))
    elif name == "live.parquet":
        _write(to, [_rows(market, market.live(week, number), week, live=True)])
    elif name == "live_benchmark_models.parquet":
        _write(to, [_benchmarks(market, market.live(week, number), live=number)])
    elif name.endswith("_benchmark_models.parquet"):
        # The real ones begin after the first quarter of the train eras, too.
        eras = train[config.train_eras // 4 :] if name.startswith("train") else validation
        _write(to, (_benchmarks(market, market.era(era)) for era in eras))
    elif name == "meta_model.parquet":
        resolved = validation[: -UNRESOLVED["60"]]
        _write(to, (_meta(market, market.era(era)) for era in resolved[len(resolved) // 4 :]))
    elif name == "live_example_preds.csv":
        live = market.live(week, number)
        prediction_N = market.benchmark(live, "target_ender_60", number)
        lines = [f"{one},{value!r}" for one, value in zip(live.id_N, prediction_N.tolist(), strict=True)]
        to.write_text("\n".join(["id,prediction", *lines, ""]), encoding="utf-8")
    else:
        raise ValueError(f"the made-up market has no file {name}")


def write_market(market: Market, folder: Path, *, number: int = 1) -> list[Path]:
    """Write all files of week 0 and round `number` into `folder`, which is made; a market for studies says so there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in (*TRAIN_FILES, *WEEK_FILES, *ROUND_FILES)]
    for path in paths:
        write_file(market, path.name, path, week=0, number=number)
    if isinstance(market, StudyMarket):
        paths.append(save_config(market, folder))
    return paths


def _rows(market: Market, era: Era, week: int, *, live: bool = False) -> dict[str, Any]:
    newest = market.last_era(week)
    columns: dict[str, Any] = {"id": era.id_N, "era": [LIVE if live else era.name] * len(era.id_N)}
    columns["data_type"] = ["live" if live else era_kind(era.number, market.config, week)] * len(era.id_N)
    columns |= dict(zip(market.features, era.codes_FN, strict=True))
    for target in market.targets:
        unresolved = UNRESOLVED["60" if target == "target" else target[-2:]]
        hidden = live or era.number > newest - unresolved
        columns[target] = np.full(len(era.id_N), np.nan, np.float32) if hidden else era.targets[target]
    return columns


def _benchmarks(market: Market, era: Era, live: int = 0) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": era.id_N, "era": [LIVE if live else era.name] * len(era.id_N)}
    for name, target in BENCHMARKS.items():
        columns[name] = market.benchmark(era, target, live).astype(np.float32)
    return columns


def _meta(market: Market, era: Era) -> dict[str, Any]:
    return {
        "id": era.id_N,
        "era": [era.name] * len(era.id_N),
        "data_type": ["validation"] * len(era.id_N),
        "numerai_meta_model": market.meta_model(era).astype(np.float32),
    }


def _write(to: Path, eras: Iterable[dict[str, Any]]) -> None:
    import pyarrow.parquet as pq

    writer = None
    try:
        for group in _groups(eras):
            table = _table(group)
            if writer is None:
                writer = pq.ParquetWriter(to, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _groups(eras: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for era in eras:
        group.append(era)
        if sum(len(one["id"]) for one in group) * len(era) >= _GROUP_CELLS:
            yield group
            group = []
    if group:
        yield group


def _table(group: list[dict[str, Any]]) -> Any:
    """One row group: `id` marked as the index that pandas finds again, NaN written as null."""
    import pyarrow as pa

    arrays = []
    for name in group[0]:
        parts = [era[name] for era in group]
        if isinstance(parts[0], list):
            arrays.append(pa.array([text for part in parts for text in part], pa.string()))
        else:
            values = np.concatenate(parts)
            arrays.append(pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None))
    table = pa.table(arrays, names=list(group[0]))
    return table.replace_schema_metadata({"pandas": json.dumps(_pandas_metadata(table.schema))})


def _pandas_metadata(schema: Any) -> dict[str, Any]:
    columns = [
        {
            "name": column.name,
            "field_name": column.name,
            "pandas_type": "unicode" if str(column.type) == "string" else str(column.type).replace("float", "float32"),
            "numpy_type": "object" if str(column.type) == "string" else str(column.type).replace("float", "float32"),
            "metadata": None,
        }
        for column in schema
    ]
    return {"index_columns": ["id"], "column_indexes": [], "columns": columns, "creator": {}, "pandas_version": "2.2.0"}
