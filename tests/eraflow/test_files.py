"""The round's files: fetched and verified, kept where nothing changed, or taken from a folder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eraflow.dataset import decode, read_features_json
from eraflow.errors import DataError, EraflowError, InputError, RefusedError, StorageError, TransientError
from eraflow.files import DAMAGED_TRIES, File, Files, adopt_files, fetch_files, fetch_references
from eraflow.rehearsal.faults import Fault, What
from eraflow.rehearsal.server import LocalTournament
from eraflow.store import PARTIAL, Store, manifest_path, read_manifest, sha256_of
from eraflow.tournament import Tournament
from eraflow.transport import Downloaded

NAMES = ("features.json", "train.parquet", "validation.parquet", "live.parquet")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


def fetch(door: Tournament, store: Store) -> Files:
    return fetch_files(door, store, door.current_round(), "v5.3")


def each(found: Files) -> dict[str, File]:
    return dict(zip(NAMES, (found.features, found.train, found.validation, found.live), strict=True))


def sent_whole(local: LocalTournament) -> list[str]:
    """The files whose address was asked for, in order."""
    return [path.rpartition("/")[2] for method, path, _ in local.requests if method == "GET"]


def left_over(store: Store) -> list[Path]:
    return [path for path in store.home.rglob(f"{PARTIAL}*")]


def other_market(path: Path, to: Path) -> Path:
    """The same table with an era less: whole, and another file."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 40), to)
    return to


# From the tournament


def test_what_predictions_are_compared_with_lies_beside_the_data_and_is_kept_while_nothing_changed(
    door: Tournament, store: Store
) -> None:
    names = ["meta_model.parquet", "train_benchmark_models.parquet", "validation_benchmark_models.parquet"]
    for changed in (True, False):
        found = fetch_references(door, store, door.current_round(), "v5.3")
        assert [file.path for file in found] == [store.data_folder("v5.3") / name for name in names]
        assert [file.changed for file in found] == [changed] * 3
    assert [file.sha256 for file in found] == [sha256_of(file.path) for file in found]
    assert all(file.rows for file in found)


def test_the_files_of_a_round_are_those_that_are_served(
    local: LocalTournament, door: Tournament, store: Store, market_folder: Path
) -> None:
    found = fetch(door, store)
    for name, file in each(found).items():
        assert file.path.read_bytes() == (market_folder / name).read_bytes()
        assert file.sha256 == sha256_of(file.path)
        assert file.changed
        manifest = read_manifest(file.path)
        assert manifest is not None
        assert (manifest.name, manifest.round, manifest.sha256) == (f"v5.3/{name}", 1401, file.sha256)
        assert manifest.rows == file.rows
    assert found.live.path == store.round_folder(1401) / "live.parquet"
    assert found.features.rows is None
    assert found.train.rows
    assert sent_whole(local)[0] == "live.parquet"
    assert left_over(store) == []


def test_unchanged_training_files_are_kept_and_live_is_always_fetched(
    local: LocalTournament, door: Tournament, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch(door, store)
    downloaded: list[str] = []
    download = door.download

    def noted(name: str, *rest: Any) -> Downloaded:
        downloaded.append(name)
        return download(name, *rest)

    monkeypatch.setattr(door, "download", noted)
    second = fetch(door, store)
    assert downloaded == ["v5.3/live.parquet"]
    assert {name: file.changed for name, file in each(second).items()} == {
        name: name == "live.parquet" for name in NAMES
    }
    assert [file.sha256 for file in each(second).values()] == [file.sha256 for file in each(first).values()]


def test_a_validation_file_that_grew_is_fetched_and_its_old_decoded_form_goes(
    local: LocalTournament, door: Tournament, store: Store, market_folder: Path, tmp_path: Path
) -> None:
    local.set_file(
        "v5.3/validation.parquet", other_market(market_folder / "validation.parquet", tmp_path / "last_week.parquet")
    )
    first = fetch(door, store)
    features = read_features_json(first.features.path).columns("small")
    old = decoded(first.validation, first, features)
    train = decoded(first.train, first, features)
    keep = first.decoded / "notes-of-mine"
    keep.mkdir()
    local.set_file("v5.3/validation.parquet", None)
    second = fetch(door, store)
    assert (second.validation.changed, second.train.changed) == (True, False)
    assert second.validation.sha256 == sha256_of(market_folder / "validation.parquet")
    assert old.exists()  # another run may be training on it
    for folder in (old, train):
        os.utime(folder, (0, 0))
    fetch(door, store)
    assert not old.exists()
    assert train.exists()
    assert keep.exists()


def decoded(file: File, files: Files, features: Sequence[str]) -> Path:
    return decode(file.path, into=files.decoded, sha256=file.sha256, features=features).folder


def test_a_lost_manifest_or_a_file_of_another_size_is_fetched_again(
    local: LocalTournament, door: Tournament, store: Store, market_folder: Path
) -> None:
    first = fetch(door, store)
    manifest_path(first.train.path).unlink()
    with first.validation.path.open("ab") as file:
        file.write(b"more")
    second = fetch(door, store)
    assert (second.features.changed, second.train.changed, second.validation.changed) == (False, True, True)
    assert second.validation.path.read_bytes() == (market_folder / "validation.parquet").read_bytes()


def test_a_server_that_tells_no_size_by_range_has_its_files_fetched(
    local: LocalTournament, door: Tournament, store: Store
) -> None:
    fetch(door, store)
    local.faults.add(Fault(where="get:*", what="ignore-range", times=None))
    assert all(file.changed for file in each(fetch(door, store)).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["html-200", "wrong-length"])
def test_a_damaged_file_is_fetched_again_and_that_is_said(
    what: What, name: str, local: LocalTournament, door: Tournament, store: Store, market_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    local.faults.add(Fault(where=f"get:{name}", what=what, times=DAMAGED_TRIES - 1))
    with caplog.at_level(logging.WARNING, logger="eraflow"):
        found = each(fetch(door, store))[name]
    assert found.path.read_bytes() == (market_folder / name).read_bytes()
    said = [record.message for record in caplog.records]
    assert len(said) == DAMAGED_TRIES - 1
    assert all(str(found.path) in text and text.endswith("it is fetched again") for text in said)
    assert PARTIAL not in caplog.text


def test_flipped_bits_are_found_while_decoding(
    local: LocalTournament, door: Tournament, store: Store, market_folder: Path
) -> None:
    local.faults.add(Fault(where="get:train.parquet", what="flip-bits", n=400))
    assert fetch(door, store).train.path.read_bytes() == (market_folder / "train.parquet").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_stays_damaged_is_refused_by_its_own_name(
    name: str, local: LocalTournament, door: Tournament, store: Store
) -> None:
    local.faults.add(Fault(where=f"get:{name}", what="html-200", times=None))
    with pytest.raises(DataError) as caught:
        fetch(door, store)
    folder = store.round_folder(1401) if name == "live.parquet" else store.data_folder("v5.3")
    assert caught.value.exit_code == 5
    assert str(folder / name) in caught.value.message
    assert PARTIAL not in caught.value.message
    assert len(local.faults.struck) == DAMAGED_TRIES
    assert left_over(store) == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(where="get:validation.parquet", what="html-200", times=None, after=1), DataError),
        (Fault(where="get:validation.parquet", what="truncate", times=None, after=1), TransientError),
        (Fault(where="get:validation.parquet", what="status", code=404, times=None, after=1), RefusedError),
    ],
    ids=["damaged", "cut short", "gone"],
)
def test_after_a_failed_fetch_the_old_file_and_its_manifest_are_whole(
    fault: Fault, error: type[EraflowError], local: LocalTournament, door: Tournament, store: Store,
    market_folder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    local.set_file(
        "v5.3/validation.parquet", other_market(market_folder / "validation.parquet", tmp_path / "last_week.parquet")
    )
    old = fetch(door, store).validation
    local.set_file("v5.3/validation.parquet", None)
    local.faults.add(fault)  # lets the probe pass
    with pytest.raises(error):
        fetch(door, store)
    manifest = read_manifest(old.path)
    assert manifest is not None
    assert manifest.sha256 == sha256_of(old.path) == old.sha256
    assert left_over(store) == []


def test_no_room_leaves_the_old_files_alone(
    local: LocalTournament, door: Tournament, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fetch(door, store)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StorageError, match="however only 1 are free"):
        fetch(door, store)
    assert sha256_of(old.live.path) == old.live.sha256
    assert left_over(store) == []


def test_a_process_that_dies_before_the_manifest_leaves_none(
    local: LocalTournament, door: Tournament, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(door, store)

    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("eraflow.files.write_manifest", killed)
        with pytest.raises(KilledError):
            fetch(door, store)
    assert read_manifest(store.round_folder(1401) / "live.parquet") is None
    assert fetch(door, store).live.changed


# From a folder


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {path.name: (sha256_of(path), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def own(tmp_path: Path, market_folder: Path) -> Path:
    """A folder with the four files."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(market_folder / name, folder / name)
    return folder


def test_a_folders_files_are_used_where_they_are_and_nothing_is_written_there(own: Path, store: Store) -> None:
    before = snapshot(own)
    found = adopt_files(own, store, None)
    features = read_features_json(found.features.path).columns("small")
    for file in (found.train, found.validation, found.live):
        assert file.path.parent == own
        folder = decoded(file, found, features)
        assert store.home in folder.parents
    assert snapshot(own) == before


def test_a_folder_that_is_none_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="--data-from must name a folder"):
        adopt_files(tmp_path / "nowhere", store, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(name: str, own: Path, store: Store) -> None:
    (own / name).unlink()
    with pytest.raises(DataError, match="is missing") as caught:
        adopt_files(own, store, None)
    assert str(own / name) in caught.value.message


@pytest.mark.parametrize("name", ["train.csv", "validation.CSV", "live.csv.gz", "train.zip", "live.feather"])
def test_a_table_of_another_kind_is_refused_by_name(name: str, own: Path, store: Store) -> None:
    (own / name).write_text("id,era\n")
    with pytest.raises(DataError, match=r"in the tournament's v5\.3 layout") as caught:
        adopt_files(own, store, None)
    assert str(own / name) in caught.value.message
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"feature_sets": {}}', '{"feature_sets": {"small": []}}', "<html>"])
def test_a_broken_features_json_is_refused_by_name(text: str, own: Path, store: Store) -> None:
    (own / "features.json").write_text(text)
    with pytest.raises(DataError) as caught:
        adopt_files(own, store, None)
    assert str(own / "features.json") in caught.value.message


def test_a_file_that_cannot_be_read_is_named(own: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr("eraflow.files.sha256_of", denied)
    with pytest.raises(StorageError, match=r"train\.parquet cannot be read: Permission denied"):
        adopt_files(own, store, None)


# Real material


@pytest.fixture
def real(shared_real: Path, tmp_path: Path) -> Path:
    """A copy of the real rounds of 2017."""
    folder = tmp_path / "real"
    folder.mkdir()
    for path in (shared_real / "rounds_2017").iterdir():
        shutil.copyfile(path, folder / path.name)  # without its mode, which allows no writing
    return folder


def refused(folder: Path, store: Store) -> str:
    """The text with which the folder is refused, be it when it is adopted or when it is decoded."""

    def use() -> None:
        found = adopt_files(folder, store, None)
        features = read_features_json(found.features.path).columns("small")
        for file in (found.live, found.train, found.validation):
            decoded(file, found, features)

    with pytest.raises(DataError) as caught:
        use()
    assert caught.value.exit_code == 5
    return caught.value.message


def test_the_real_rounds_are_adopted(real: Path, store: Store) -> None:
    found = adopt_files(real, store, None)
    features = read_features_json(found.features.path).columns("small")
    for file in (found.live, found.train, found.validation):
        assert decoded(file, found, features).is_dir()


@pytest.mark.parametrize("given", ["df_train_ex.csv", "df_val_ex.csv"])
@pytest.mark.parametrize("name", ["train.csv", "train.parquet"])
def test_real_rows_of_2021_as_text_are_refused_by_name(
    given: str, name: str, real: Path, shared_real: Path, store: Store
) -> None:
    shutil.copyfile(shared_real / "rows_2021" / given, real / name)
    assert str(real / name) in refused(real, store)


def test_ten_real_rows_of_2021_are_refused_by_name(real: Path, shared_real: Path, store: Store) -> None:
    shutil.copyfile(shared_real / "rows_2021" / "ten_rows_v2.parquet", real / "train.parquet")
    assert str(real / "train.parquet") in refused(real, store)
