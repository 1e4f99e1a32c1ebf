"""Which files count as whole parquet files of the tournament, and with which words the others are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eraflow import parquet
from eraflow.parquet import ParquetSource, check_layout, verify_parquet
from tests.eraflow.tables import FEATURES, refusal, table_of, write


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes `table_of(**changes)` to a file."""
    return partial(write, tmp_path)


def layout(path: Path) -> tuple[str, ...]:
    with ParquetSource(path) as source:
        return check_layout(source, FEATURES)


# The file as a whole


def test_a_whole_file_is_verified_with_its_rows(written: Callable[..., Path]) -> None:
    assert verify_parquet(written(row_group_size=4)) == 6


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"id,era,feature_a\nn1,0001,3\n", "CSV text"),
        (b"\xef\xbb\xbfid,era\n", "CSV text"),
        (b"\n<!DOCTYPE html><html>sign in</html>", "HTML"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"errors": []}', "JSON"),
        (b"", "empty"),
        (b"PK\x03\x04rest", "archive"),
        (b"\x00\x01\x02\x03", "something else"),
    ],
)
def test_a_file_that_is_not_parquet_is_refused_by_what_it_looks_like(
    tmp_path: Path, content: bytes, looks: str
) -> None:
    path = tmp_path / "live.parquet"
    path.write_bytes(content)
    assert looks in refusal(verify_parquet, path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(verify_parquet, tmp_path / "live.parquet")


def test_a_file_cut_at_any_length_is_refused(written: Callable[..., Path]) -> None:
    path = written()
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        refusal(verify_parquet, path)


def test_a_file_whose_middle_is_missing_is_refused(written: Callable[..., Path]) -> None:
    path = written()
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + whole[-600:])
    refusal(verify_parquet, path)


def test_a_flipped_bit_is_found_where_pages_carry_checksums(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    values = np.random.default_rng(1).integers(0, 5, 20_000).astype(np.int8)
    pq.write_table(pa.table({"feature_a": values}), path, write_page_checksum=True, use_dictionary=False)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert "feature_a" in refusal(verify_parquet, path)


def test_a_page_that_does_not_decode_is_refused_by_row_group_and_column(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"feature_a": np.arange(40_000) % 5}), path, compression="gzip", row_group_size=20_000)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start + 40 : start + 60] = b"\xff" * 20
    path.write_bytes(damaged)
    text = refusal(verify_parquet, path)
    assert "row group 1" in text
    assert "feature_a" in text


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    wrong = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"id": wrong}), path)
    assert "UTF" in refusal(verify_parquet, path)


def test_verification_reads_few_columns_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({f"feature_{n}": np.zeros(10, np.int8) for n in range(150)}), path)
    asked: list[int] = []
    read = ParquetSource.read

    def counted(self: ParquetSource, group: int, names: list[str]) -> Any:
        asked.append(len(names))
        return read(self, group, names)

    monkeypatch.setattr(ParquetSource, "read", counted)
    verify_parquet(path)
    assert asked == [64, 64, 22]


def test_a_long_row_group_is_read_fewer_columns_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 1000)
    assert [len(batch) for batch in parquet.batches([str(n) for n in range(25)], 100, 1)] == [10, 10, 5]
    assert [len(batch) for batch in parquet.batches(["a", "b"], 10**9, 8)] == [1, 1]


# Columns that must be there


def test_targets_are_all_columns_named_so(written: Callable[..., Path]) -> None:
    assert layout(written(targeted=[1] * 6)) == ("target", "target_ender_60")


@pytest.mark.parametrize("name", ["id", "era"])
def test_a_file_without_id_or_era_is_refused(written: Callable[..., Path], name: str) -> None:
    assert f"column '{name}'" in refusal(layout, written(**{name: None}))


def test_a_missing_feature_is_refused_by_name(written: Callable[..., Path]) -> None:
    text = refusal(layout, written(feature_b=None))
    assert "'feature_b'" in text
    assert "1 are not" in text


def test_a_file_without_any_target_is_refused(written: Callable[..., Path]) -> None:
    assert "'target'" in refusal(layout, written(target=None, target_ender_60=None))


def test_a_file_without_rows_is_refused(written: Callable[..., Path]) -> None:
    assert "however there are 0" in refusal(layout, written(table_of().slice(0, 0)))


def test_two_columns_of_one_name_are_refused(written: Callable[..., Path]) -> None:
    table = table_of()
    doubled = table.append_column("feature_a", table["feature_b"])
    assert "'feature_a' is there twice" in refusal(layout, written(doubled))


@pytest.mark.parametrize("name", ["df_train_ex.csv", "df_val_ex.csv"])
def test_the_csv_files_of_2021_are_refused_under_the_name_of_parquet(
    shared_real: Path, tmp_path: Path, name: str
) -> None:
    shutil.copy(shared_real / "rows_2021" / name, tmp_path / "train.parquet")
    assert "CSV text" in refusal(verify_parquet, tmp_path / "train.parquet")
