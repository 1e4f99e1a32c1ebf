"""What was whole when it was written and is not any more: files of a round, and what was decoded of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eraflow.dataset import decode, targets_of
from eraflow.errors import OutOfTimeError, StorageError
from eraflow.files import fetch_damaged, fetch_references
from eraflow.rehearsal.server import LocalTournament
from eraflow.store import Store, sha256_of
from eraflow.stored import FILES, HEADER, StoredDataset, open_stored
from eraflow.tournament import Tournament
from tests.eraflow.tables import FEATURES, write
from tests.eraflow.test_files import NAMES, each, fetch, other_market, sent_whole


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


# Fetched


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_features_json_that_was_damaged_on_the_disk_is_fetched_again(
    door: Tournament, store: Store, market_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(fetch(door, store).features.path)
    with caplog.at_level(logging.WARNING, logger="eraflow"):
        found = fetch(door, store).features
    assert found.changed
    assert found.path.read_bytes() == (market_folder / "features.json").read_bytes()
    assert [record.message for record in caplog.records] == [
        f"{found.path} or its manifest has changed on this disk since it was fetched; it is fetched again"
    ]


def test_references_that_were_damaged_on_the_disk_are_fetched_again(door: Tournament, store: Store) -> None:
    first = fetch_references(door, store, door.current_round(), "v5.3")
    flip(first[1].path)
    second = fetch_references(door, store, door.current_round(), "v5.3")
    assert [file.changed for file in second] == [False, True, False]
    assert [sha256_of(file.path) for file in second] == [file.sha256 for file in first]


@pytest.mark.parametrize("name", NAMES)
def test_of_a_rounds_files_only_the_damaged_one_is_fetched_again(
    name: str, door: Tournament, store: Store, market_folder: Path
) -> None:
    first = fetch(door, store)
    assert fetch_damaged(door, first) == first
    flip(each(first)[name].path)
    second = fetch_damaged(door, first)
    assert each(second)[name].path.read_bytes() == (market_folder / name).read_bytes()
    assert [one.sha256 for one in each(second).values()] == [one.sha256 for one in each(first).values()]


def test_a_file_that_another_run_has_replaced_is_taken_in_place_of_a_damaged_one(
    local: LocalTournament, door: Tournament, store: Store, market_folder: Path, tmp_path: Path
) -> None:
    first = fetch(door, store)
    other = other_market(market_folder / "validation.parquet", tmp_path / "other.parquet")
    local.set_file("v5.3/validation.parquet", other)
    newer = fetch(door, store).validation
    before = sent_whole(local)
    assert fetch_damaged(door, first).validation == newer
    assert sent_whole(local) == before


# Decoded


Decode = Callable[..., StoredDataset]


@pytest.fixture
def decoded(tmp_path: Path) -> Decode:
    """Decodes one file."""
    path = write(tmp_path)

    def run(**given: Any) -> StoredDataset:
        return decode(path, into=tmp_path / "decoded", sha256=sha256_of(path), features=FEATURES, **given)

    return run


def test_each_single_bit_of_the_header_and_of_a_small_file_counts(decoded: Decode) -> None:
    folder = decoded().folder
    for name in (HEADER, *FILES):
        path = folder / name
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            content = bytearray(whole)
            content[place] ^= 1 << place % 8
            path.write_bytes(content)
            if name == HEADER and _is_without_its_own_checksum(path):
                continue
            with pytest.raises(StorageError, match="it is made again"):
                open_stored(folder)
        path.write_bytes(whole)
    assert open_stored(folder).rows == 6


def _is_without_its_own_checksum(path: Path) -> bool:
    """The name of the checksum itself is what changed, and nothing else then."""
    try:
        return "crc32" not in json.loads(path.read_bytes())
    except ValueError:
        return False


def test_any_bit_of_a_large_file_counts_where_it_is_opened_whole(
    decoded: Decode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eraflow.stored.WHOLE_BYTES", 0)  # as if each were large
    monkeypatch.setattr("eraflow.stored._samples_crc32", lambda path: None)  # and no sample met the bit
    stored = decoded()
    codes_NF = np.load(stored.folder / "codes.npy", mmap_mode="r+")
    codes_NF[3, 1] ^= 1
    del codes_NF
    assert open_stored(stored.folder).rows == 6
    with pytest.raises(StorageError, match="sum64"):
        open_stored(stored.folder, whole=True)
    assert decoded().codes_NF.tolist() != decoded(whole=True).codes_NF.tolist()
    assert open_stored(stored.folder, whole=True).rows == 6
    assert [record.message.endswith("it is not used, and is made again") for record in caplog.records] == [True]


def test_reading_every_byte_of_a_large_file_ends_where_there_is_no_more_time(
    decoded: Decode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(stage: str, done: float, total: float, text: str = "") -> None:
        raise OutOfTimeError(f"{stage} {text}")

    decoded()
    assert decoded(whole=True, progress=over).rows == 6  # small ones take no time
    monkeypatch.setattr("eraflow.stored.WHOLE_BYTES", 0)
    with pytest.raises(OutOfTimeError, match=r"check codes\.npy"):
        decoded(whole=True, progress=over)


def test_a_store_from_before_these_checksums_is_used(decoded: Decode) -> None:
    stored = decoded()
    header = json.loads((stored.folder / HEADER).read_bytes())
    del header["crc32"]
    for told in header["files"].values():
        del told["sum64"]
    text = json.dumps(header)
    (stored.folder / HEADER).write_text(text)
    assert decoded(whole=True) == stored
    assert (stored.folder / HEADER).read_text() == text


def test_targets_are_those_that_were_decoded_whatever_the_file_has_come_to(decoded: Decode, tmp_path: Path) -> None:
    stored, into = decoded(), tmp_path / "decoded"
    stored.source.write_bytes(b"")
    assert targets_of(stored.source, into=into, sha256=stored.sha256) == stored.targets == ("target", "target_ender_60")
