"""What files hold is counted, kept, and compared with the last round that was looked at."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eraflow import inventory
from eraflow.files import File, Files, adopt_files
from eraflow.inventory import Held, change_text, take
from eraflow.store import Store

HELD = Held(name="live", rows=5, eras=1, newest_era="X", columns=7, size_bytes=9, sha256="1" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path, market_folder: Path) -> Path:
    return Path(shutil.copytree(market_folder, tmp_path / "data"))


def files_of(folder: Path, store: Store, number: int | None) -> Files:
    return adopt_files(folder, store, number)


def test_rows_eras_and_columns_are_those_of_the_files(folder: Path, store: Store) -> None:
    found, last = take(files_of(folder, store, 1401), store)
    table = pq.read_table(folder / "validation.parquet")
    held = found.find("validation.parquet")
    assert last is None
    assert held is not None
    assert (held.rows, held.columns) == (table.num_rows, table.num_columns)
    assert held.eras == len(set(table["era"].to_pylist()))
    assert held.newest_era == max(table["era"].to_pylist())
    features = found.find("features.json")
    assert features is not None
    assert (features.rows, features.columns) == (None, 8)


def test_the_last_round_is_the_newest_one_before_that_was_kept(folder: Path, store: Store) -> None:
    for number in (1399, 1401, 1405):
        take(files_of(folder, store, number), store)
    store.round_folder(1402)  # nothing was kept of this one
    (store.round_folder(1403) / inventory.KEPT).write_text("[1]")
    _, last = take(files_of(folder, store, 1404), store)
    assert last is not None
    assert last.round == 1401
    _, last = take(files_of(folder, store, 1404), store)
    assert last is not None
    assert last.round == 1401, "a second attempt is not compared with the first"


def test_what_changed_is_told_by_rows_eras_and_columns(folder: Path, store: Store) -> None:
    take(files_of(folder, store, 1401), store)
    path = folder / "validation.parquet"
    table: Any = pq.read_table(path)
    more = table.slice(0, 3).set_column(table.column_names.index("era"), "era", pa.array(["9999"] * 3))
    pq.write_table(pa.concat_tables([table, more.cast(table.schema)]), path)
    found, last = take(files_of(folder, store, 1402), store)
    assert last is not None
    changes = {held.name: change_text(held, last.find(held.name)) for held in found.held}
    assert changes == {
        "live.parquet": "unchanged",
        "validation.parquet": "+3 rows, +1 era",
        "train.parquet": "unchanged",
        "features.json": "unchanged",
    }


def test_a_file_with_known_bytes_is_not_read_again(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take(files_of(folder, store, 1401), store)
    read: list[str] = []

    def look_into(file: File) -> Held:
        read.append(file.name)
        return replace(HELD, name=file.name)

    monkeypatch.setattr(inventory, "_look_into", look_into)
    (folder / "features.json").write_text((folder / "features.json").read_text() + "\n")
    take(files_of(folder, store, 1402), store)
    assert read == ["features.json"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"columns": 6}, "-1 column"),
        ({"rows": 1234, "columns": 9}, "+1,229 rows, +2 columns"),
        ({"newest_era": "Y"}, "other values in as many rows"),
    ],
)
def test_changes_in_words(changes: dict[str, Any], told: str) -> None:
    assert change_text(replace(HELD, sha256="2" * 64, **changes), HELD) == told


def test_files_of_no_round_are_compared_with_nothing_and_leave_nothing(folder: Path, store: Store) -> None:
    take(files_of(folder, store, 1401), store)
    found, last = take(files_of(folder, store, None), store)
    assert last is None
    assert len(found.held) == 4
    assert [path.parent.name for path in store.home.rglob(inventory.KEPT)] == ["1401"]
