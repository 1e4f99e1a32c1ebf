"""Decoding: once for each content, whole or not at all, in bounded memory; and what a decoded store tells."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eraflow import columns
from eraflow.columns import Kind
from eraflow.dataset import decode
from eraflow.errors import DataError, InputError, StorageError
from eraflow.store import sha256_of
from eraflow.stored import (
    ERA_LIVE,
    FILES,
    HEADER,
    SAMPLE_BYTES,
    SAMPLES,
    StoredDataset,
    horizon_days,
    matching_target,
    open_stored,
    suffix_days,
)
from tests.eraflow.tables import FEATURES, write

Decode = Callable[..., StoredDataset]
NEVER_USED = "decoded again"


@pytest.fixture
def decoded(tmp_path: Path) -> Decode:
    """Writes `table_of(**changes)` and decodes it."""

    def run(
        *,
        features: tuple[str, ...] = FEATURES,
        kind: Kind | None = None,
        row_group_size: int | None = 4,
        **changes: Any,
    ) -> StoredDataset:
        path = write(tmp_path, row_group_size=row_group_size, **changes)
        return decode(path, into=tmp_path / "decoded", sha256=sha256_of(path), features=features, kind=kind)

    return run


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError(NEVER_USED)

    monkeypatch.setattr(columns, "feature_blocks", refuse)


def folders(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "decoded").iterdir() if not path.name.endswith(".lock"))


# What is stored


def test_a_file_becomes_a_c_order_matrix_of_centred_codes(decoded: Decode) -> None:
    stored = decoded(kind="train")
    assert stored.codes_NF.dtype == np.int8
    assert stored.codes_NF.flags.c_contiguous
    assert stored.codes_NF.T.tolist() == [[-2, -1, 0, 1, 2, -2], [2, 2, 2, -2, -2, -2], [-1, -1, 1, 1, 0, 0]]
    assert (stored.rows, stored.features, stored.columns()) == (6, FEATURES, None)


def test_targets_eras_and_ids_stand_beside_it(decoded: Decode) -> None:
    stored = decoded()
    assert stored.targets == ("target", "target_ender_60")
    assert stored.target_NT.dtype == np.float32
    np.testing.assert_array_equal(
        stored.column("target_ender_60"), np.array([0, 0.25, np.nan, 0.75, 1, np.nan], np.float32)
    )
    assert stored.era_N.dtype == np.int32
    assert stored.era_N.tolist() == [1, 1, 1, 2, 2, 2]
    assert stored.id_N.tolist() == [f"n{row:015x}" for row in range(6)]
    assert stored.data_types == {"train": 0}


def test_the_arrays_are_maps_that_cannot_be_written(decoded: Decode) -> None:
    stored = decoded()
    for array in (stored.codes_NF, stored.target_NT, stored.era_N):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_what_is_written_to_the_tensor_does_not_reach_the_disk(decoded: Decode) -> None:
    stored = decoded()
    stored.codes_tensor_NF[0, 0] = 1
    assert open_stored(stored.folder).codes_NF[0, 0] == -2


def test_the_header_names_source_shapes_and_lengths(decoded: Decode) -> None:
    stored = decoded()
    header = json.loads((stored.folder / HEADER).read_text())
    assert header["sha256"] == stored.sha256 == sha256_of(stored.source)
    assert header["files"]["codes.npy"]["shape"] == [6, 3]
    assert header["files"]["codes.npy"]["bytes"] == (stored.folder / "codes.npy").stat().st_size


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    path, told = write(tmp_path, row_group_size=2), []

    def progress(stage: str, done: float, total: float, text: str = "") -> None:
        told.append((stage, done, total, text))

    decode(path, into=tmp_path / "decoded", sha256=sha256_of(path), features=FEATURES, progress=progress)
    assert told[-1] == ("decode", 30, 30, "train.parquet")
    assert len(told) == 6


# Once for each content


def test_a_second_call_maps_what_the_first_decoded(decoded: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decoded()
    forbid_decoding(monkeypatch)
    second = decoded()
    assert second == first


def test_a_wider_store_serves_fewer_features_in_any_order(decoded: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decoded()
    forbid_decoding(monkeypatch)
    part = decoded(features=("feature_c", "feature_a"))
    assert part.folder == whole.folder
    assert part.features == ("feature_c", "feature_a")
    assert part.stored_features == FEATURES
    found = part.columns()
    assert found is not None
    assert found.tolist() == [2, 0]
    assert open_stored(part.folder, part.features).columns(("feature_b",)) == np.array([1])


def test_more_features_are_decoded_beside_the_fewer(decoded: Decode, tmp_path: Path) -> None:
    assert decoded(features=("feature_a",)).codes_NF.shape == (6, 1)
    assert decoded().codes_NF.shape == (6, 3)
    assert len(folders(tmp_path)) == 2


def test_of_several_stores_the_narrowest_whole_one_serves(decoded: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, middle = decoded(features=("feature_a",)), decoded(features=("feature_b", "feature_a"))
    wide = decoded()
    forbid_decoding(monkeypatch)
    assert decoded(features=("feature_a",)).folder == narrow.folder
    assert decoded(features=("feature_b",)).folder == middle.folder
    truncate(middle.folder, "codes.npy")
    served = decoded(features=("feature_b",))
    assert served.folder == wide.folder
    assert served.columns() == np.array([1])


def test_other_content_is_decoded_anew(decoded: Decode) -> None:
    first = decoded()
    second = decoded(feature_a=pa.array([4] * 6, pa.int8()))
    assert second.folder != first.folder
    assert second.codes_NF[:, 0].tolist() == [2] * 6


def test_features_that_are_not_stored_are_refused(decoded: Decode) -> None:
    with pytest.raises(InputError, match="'feature_z' is not; decode the file with it"):
        open_stored(decoded().folder, ["feature_z"])
    with pytest.raises(InputError, match="one of target, target_ender_60, however 'target_x' was asked for"):
        decoded().column("target_x")
    with pytest.raises(InputError, match="none twice"):
        decoded(features=("feature_a", "feature_a"))


def test_two_processes_decode_one_file_once(tmp_path: Path) -> None:
    path = write(tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from eraflow.dataset import decode\nfrom eraflow.store import sha256_of\n"
        "path = Path(sys.argv[1])\n"
        "print(decode(path, into=Path(sys.argv[2]), sha256=sha256_of(path), features=sys.argv[3:],"
        " progress=lambda *a: sys.stdout.write('made\\n') if a[1] == a[2] else None).rows)"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "decoded"), *FEATURES]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in running]
    assert sorted(said) == [["6"], ["made", "6"]]


# Damage


def spoil_byte(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)


def truncate(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def rewrite(folder: Path, **changes: Any) -> None:
    header = json.loads((folder / HEADER).read_text()) | changes
    (folder / HEADER).write_text(json.dumps(header))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", [spoil_byte, truncate, remove])
def test_a_damaged_store_is_refused_and_decoded_again(
    decoded: Decode, name: str, spoil: Callable[[Path, str], None]
) -> None:
    stored = decoded()
    spoil(stored.folder, name)
    with pytest.raises(StorageError, match="delete the folder, it is made again"):
        open_stored(stored.folder)
    again = decoded()
    assert again.codes_NF[:, 0].tolist() == [-2, -1, 0, 1, 2, -2]
    assert open_stored(again.folder).rows == 6


@pytest.mark.parametrize(
    "changes", [{"format": 0}, {"sha256": "b" * 64}, {"files": {}}, {"rows": None}, {"targets": []}]
)
def test_a_store_of_another_version_or_source_is_decoded_again(decoded: Decode, changes: dict[str, Any]) -> None:
    stored = decoded()
    written = (stored.folder / HEADER).read_bytes()
    rewrite(stored.folder, crc32=None, **changes)  # as in a store from before the header's own checksum
    assert decoded() == stored
    assert (stored.folder / HEADER).read_bytes() == written


def test_a_header_that_is_not_json_is_refused(decoded: Decode) -> None:
    stored = decoded()
    (stored.folder / HEADER).write_text("{")
    with pytest.raises(StorageError, match="must be readable"):
        open_stored(stored.folder)


def test_sampled_blocks_find_damage_at_either_end_and_inside_a_large_file(decoded: Decode) -> None:
    rows = 400_000
    many = {"id": [f"{row:06}" for row in range(rows)], "era": ["1"] * rows, "data_type": None, "target_ender_60": None}
    zeros = {name: np.zeros(rows, np.int8) for name in (*FEATURES, "target")}
    stored = decoded(**many, **zeros, row_group_size=100_000)
    size = (stored.folder / "codes.npy").stat().st_size
    middle = (size - SAMPLE_BYTES) * (SAMPLES // 2) // (SAMPLES - 1)
    for place in (-1, -(1 << 13), middle, middle + SAMPLE_BYTES - 1):
        path = stored.folder / "codes.npy"
        whole = path.read_bytes()
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(StorageError, match="samples_crc32"):
            open_stored(stored.folder)
        path.write_bytes(whole)
    assert open_stored(stored.folder).rows == rows


# Refusals leave nothing


def test_a_refused_file_leaves_nothing(decoded: Decode, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 5 has 9"):
        decoded(feature_c=pa.array([1, 1, 1, 1, 1, 9], pa.int8()))
    assert folders(tmp_path) == []


def test_a_full_disk_is_told_before_anything_is_written(
    decoded: Decode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))(total=100, used=90, free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"decoding train\.parquet needs"):
        decoded()
    assert folders(tmp_path) == []


def test_the_bytes_said_to_be_needed_are_those_written(
    decoded: Decode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"feature_of_a_rather_long_name_{i:04}": np.zeros(6, np.int8) for i in range(500)}
    stored = decoded(features=tuple(many), **many)
    written = sum(path.stat().st_size for path in stored.folder.iterdir())
    shutil.rmtree(stored.folder)
    usage = type(shutil.disk_usage(tmp_path))(total=100, used=90, free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="only 10 are free") as caught:
        decoded(features=tuple(many), **many)
    needed = int(caught.value.message.split(" needs ")[1].split(" bytes")[0].replace(",", ""))
    assert written <= needed <= written + 16 * 500 + 4096


def test_a_disk_that_fills_meanwhile_leaves_nothing(
    decoded: Decode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left on device; nothing was changed"):
        decoded()
    assert folders(tmp_path) == []


def test_a_file_that_is_not_of_its_sha256_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(StorageError, match="must not change while it is decoded"):
        decode(path, into=tmp_path / "decoded", sha256="a" * 64, features=FEATURES)
    assert folders(tmp_path) == []


def test_the_kind_is_checked_of_a_new_and_of_a_stored_file(decoded: Decode, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 0 has 1"):
        decoded(kind="live")
    assert folders(tmp_path) == []
    decoded()
    with pytest.raises(DataError, match="row 0 has 1"):
        decoded(kind="live")


def test_a_live_file_has_era_live_and_no_target(decoded: Decode) -> None:
    nothing = pa.nulls(6)
    stored = decoded(kind="live", era=["X"] * 6, data_type=["live"] * 6, target=nothing, target_ender_60=nothing)
    assert stored.era_N.tolist() == [ERA_LIVE] * 6
    assert np.isnan(stored.target_NT).all()
    assert matching_target(stored) is None


# Targets


def test_the_column_that_equals_target_is_found_with_its_horizon(decoded: Decode) -> None:
    target = pa.array([0, 0.25, None, 0.75, 1, 0.5], pa.float32())
    other = pa.array([0, 0.25, 0.5, 0.75, 1, 0.5], pa.float32())
    stored = decoded(target=target, target_ender_60=other, target_bill_20=target)
    assert matching_target(stored) == "target_bill_20"
    assert horizon_days(stored, "target") == 20
    assert horizon_days(stored, "target_ender_60") == 60


def test_of_two_equal_columns_the_longer_horizon_counts(decoded: Decode) -> None:
    target = pa.array([0, 0.25, None, 0.75, 1, 0.5], pa.float32())
    stored = decoded(target=target, target_a_20=target, target_b_60=target, target_c_20=target)
    assert matching_target(stored) == "target_b_60"


def test_a_target_that_equals_none_looks_60_days_ahead(decoded: Decode) -> None:
    stored = decoded()
    assert matching_target(stored) is None
    assert horizon_days(stored, "target") == 60
    assert [suffix_days(name) for name in ("target_a_20", "target_60", "target_a", "target_a_0")] == [
        20,
        60,
        None,
        None,
    ]


# Memory


def test_pickling_a_store_does_not_copy_its_arrays(decoded: Decode) -> None:
    stored = decoded()
    assert stored.codes_NF.sum() == stored.codes_tensor_NF.sum()
    copied = pickle.loads(pickle.dumps(stored))  # noqa: S301  (our own bytes)
    assert "codes_NF" in vars(stored)
    assert not {"codes_NF", "codes_tensor_NF"} & set(vars(copied))
    np.testing.assert_array_equal(copied.codes_NF, stored.codes_NF)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_decoding_holds_a_fraction_of_the_matrix_in_memory(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from eraflow.dataset import decode
from eraflow.store import sha256_of
import eraflow.columns
# What is held is a block of columns, whatever the width: a narrower matrix would be too near to it.
folder, rows, wide = Path(sys.argv[1]), 100_000, 1500
def anonymous_kib():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
column = np.random.default_rng(0).integers(0, 5, rows).astype(np.int8)
table = {"id": [f"{row:06}" for row in range(rows)], "era": ["1"] * rows, "target": np.zeros(rows, np.float32)}
features = [f"feature_{n}" for n in range(wide)]
pq.write_table(pa.table(table | dict.fromkeys(features, column)), folder / "train.parquet", row_group_size=50_000)
del table
pa.default_memory_pool().release_unused()
before, most = anonymous_kib(), []
decode(folder / "train.parquet", into=folder / "decoded", sha256=sha256_of(folder / "train.parquet"), features=features,
       progress=lambda *_: most.append(anonymous_kib()))
print((max(most) - before) * 1024 / (rows * wide))
"""
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert float(said.stdout) < 0.5
