"""What is read of the columns of a tournament file, what is refused, and with which words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eraflow import columns, parquet
from eraflow.columns import Eras, Kind, check_kind, feature_blocks, read_eras, read_ids, target_blocks
from eraflow.parquet import ParquetSource, check_layout, verify_parquet
from eraflow.stored import ERA_LIVE
from tests.eraflow.tables import FEATURES, refusal, table_of, write


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes `table_of(**changes)` to a file."""
    return partial(write, tmp_path)


def features_of(path: Path, features: tuple[str, ...] = FEATURES) -> np.ndarray[Any, Any]:
    with ParquetSource(path) as source:
        code_NF = np.full((source.rows, len(features)), 99, np.int8)
        for rows, places, block in feature_blocks(source, features):
            code_NF[rows, places] = block.T
    return code_NF


def targets_of(path: Path) -> np.ndarray[Any, Any]:
    with ParquetSource(path) as source:
        targets = check_layout(source, FEATURES)
        target_NT = np.full((source.rows, len(targets)), 99, np.float32)
        for rows, places, block in target_blocks(source, targets):
            target_NT[rows, places] = block.T
    return target_NT


def eras_of(path: Path) -> Eras:
    with ParquetSource(path) as source:
        return read_eras(source)


def ids_of(path: Path) -> list[bytes]:
    with ParquetSource(path) as source:
        return list(read_ids(source).tolist())


# Ids


def test_ids_of_one_width_and_of_many_are_read_as_bytes(written: Callable[..., Path]) -> None:
    assert ids_of(written(row_group_size=4)) == [f"n{row:015x}".encode() for row in range(6)]
    assert ids_of(written(id=["a", "bb", "ü", "d", "e", "ffffff"])) == [
        b"a",
        b"bb",
        "ü".encode(),
        b"d",
        b"e",
        b"ffffff",
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_ids_of_every_text_type_are_read(written: Callable[..., Path], kind: pa.DataType) -> None:
    ids = pa.array([f"n{row}" for row in range(6)]).cast(kind)
    assert ids_of(written(id=ids)) == [f"n{row}".encode() for row in range(6)]


def test_ids_in_the_pandas_index_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    table_of().to_pandas().set_index("id").to_parquet(path)
    assert ids_of(path) == [f"n{row:015x}".encode() for row in range(6)]


def test_duplicate_ids_are_refused_by_id_and_row(written: Callable[..., Path]) -> None:
    text = refusal(ids_of, written(id=["a", "b", "c", "d", "b", "a"], row_group_size=4))
    assert "row 4 has 'b' of row 1 again" in text


def test_a_missing_or_empty_id_is_refused_by_row(written: Callable[..., Path]) -> None:
    assert "row 2 is" in refusal(ids_of, written(id=["a", "b", None, "d", "e", "f"]))
    assert "empty, however row 5 is" in refusal(ids_of, written(id=["a", "b", "c", "d", "e", ""]))


def test_ids_that_are_numbers_are_refused(written: Callable[..., Path]) -> None:
    assert "text" in refusal(ids_of, written(id=[1, 2, 3, 4, 5, 6]))


# Eras


@pytest.mark.parametrize(
    "eras",
    [
        ["0009"] * 3 + ["0010"] * 3,
        ["9"] * 3 + ["10"] * 3,
        ["0009", "9", "9", "10", "0010", "10"],
        pa.array([9, 9, 9, 10, 10, 10], pa.int16()),
        pa.array(["9"] * 3 + ["10"] * 3).dictionary_encode(),
        pa.array(["9"] * 3 + ["10"] * 3, pa.large_string()),
    ],
)
def test_eras_of_every_form_are_numbers(written: Callable[..., Path], eras: Any) -> None:
    era_N = eras_of(written(era=eras, row_group_size=2)).era_N
    assert era_N.dtype == np.int32
    assert era_N.tolist() == [9, 9, 9, 10, 10, 10]


def test_era_x_is_the_live_code(written: Callable[..., Path]) -> None:
    assert eras_of(written(era=["X"] * 6)).era_N.tolist() == [ERA_LIVE] * 6


def test_an_era_that_is_not_a_number_is_refused_by_row(written: Callable[..., Path]) -> None:
    assert "row 3 has 'era9'" in refusal(eras_of, written(era=["1", "1", "1", "era9", "era9", "era9"]))
    assert "row 0 has '-1'" in refusal(eras_of, written(era=[-1] * 6))


def test_a_missing_era_is_refused_by_row(written: Callable[..., Path]) -> None:
    assert "row 1 is" in refusal(eras_of, written(era=["1", None, "1", "1", "1", "1"]))


def test_an_era_in_two_places_is_refused_at_the_row_where_it_comes_again(written: Callable[..., Path]) -> None:
    text = refusal(eras_of, written(era=["0003", "0003", "0004", "0004", "3", "0005"], row_group_size=3))
    assert "back to era 3 in row 4 after era 4" in text


def test_eras_may_stand_in_any_order(written: Callable[..., Path]) -> None:
    assert eras_of(written(era=["3", "3", "1", "1", "2", "2"])).era_N.tolist() == [3, 3, 1, 1, 2, 2]


def test_a_live_file_must_be_of_era_x_and_type_live(written: Callable[..., Path]) -> None:
    path = written(era=["X"] * 6, data_type=["live"] * 6)
    check_kind(path, eras_of(path), "live")
    numbered = written(era=["1"] * 5 + ["X"], data_type=["live"] * 6)
    assert "row 0 has 1" in refusal(lambda p: check_kind(p, eras_of(p), "live"), numbered)
    typed = written(era=["X"] * 6, data_type=["live", "live", "test", "live", "train", "live"])
    assert "row 2 has 'test'" in refusal(lambda p: check_kind(p, eras_of(p), "live"), typed)
    untyped = written(era=["X"] * 6, data_type=None)
    check_kind(untyped, eras_of(untyped), "live")


@pytest.mark.parametrize("kind", ["train", "validation"])
def test_a_training_file_must_not_hold_era_x(written: Callable[..., Path], kind: Kind) -> None:
    path = written(era=["1"] * 4 + ["X"] * 2)
    assert f"not be X in a {kind} file, however row 4" in refusal(lambda p: check_kind(p, eras_of(p), kind), path)


# Features

FORMS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", FORMS)
def test_features_of_every_number_type_are_centred_codes(written: Callable[..., Path], kind: pa.DataType) -> None:
    path = written(feature_a=pa.array([0, 1, 2, 3, 4, None], kind), row_group_size=4)
    assert features_of(path)[:, 0].tolist() == [-2, -1, 0, 1, 2, 0]


def test_nan_and_dictionary_coded_and_empty_features_are_read(written: Callable[..., Path]) -> None:
    path = written(
        feature_a=pa.array([0, float("nan"), 4, None, 1, 2], pa.float32()),
        feature_b=pa.array([4, 4, None, 0, 0, 3], pa.int8()).dictionary_encode(),
        feature_c=pa.nulls(6),
    )
    assert features_of(path).tolist() == [[-2, 2, 0], [0, 2, 0], [2, 0, 0], [0, -2, 0], [-1, -2, 0], [0, 1, 0]]


def test_columns_come_in_the_order_asked_for(written: Callable[..., Path]) -> None:
    assert features_of(written(), ("feature_c", "feature_a"))[:3].tolist() == [[-1, -2], [-1, -1], [1, 0]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int8(), 5),
        (pa.int8(), -1),
        (pa.int64(), 256),
        (pa.uint8(), 255),
        (pa.float32(), 2.5),
        (pa.float64(), float("inf")),
        (pa.float32(), float("-inf")),
    ],
)
def test_a_feature_value_beyond_the_codes_is_refused_by_row(
    written: Callable[..., Path], kind: pa.DataType, value: float
) -> None:
    path = written(feature_b=pa.array([0, 1, 2, 3, value, value], kind), row_group_size=3)
    text = refusal(features_of, path)
    assert "'feature_b'" in text
    assert f"row 4 has {value}" in text


def test_features_in_quarters_are_refused_as_an_older_version(written: Callable[..., Path]) -> None:
    text = refusal(features_of, written(feature_a=pa.array([0, 1, 0.25, 0.5, 0.75, 1], pa.float32())))
    assert "row 2 has 0.25" in text
    assert "older version" in text


def test_a_feature_of_text_is_refused_by_type(written: Callable[..., Path]) -> None:
    assert "of type string" in refusal(features_of, written(feature_a=["0", "1", "2", "3", "4", "0"]))


@pytest.mark.parametrize("block_bytes", [1, 40, 1000])
@pytest.mark.parametrize("read_bytes", [1, 50, 10_000])
@pytest.mark.parametrize(("rows", "group"), [(1, 1), (25, 10), (25, 25), (30, 1)])
def test_blocks_and_reads_of_every_size_give_the_same_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, group: int, block_bytes: int, read_bytes: int
) -> None:
    code_NF = np.random.default_rng(rows).integers(0, 5, (rows, 7)).astype(np.int8)
    names = tuple(f"feature_{i}" for i in range(7))
    path = write(tmp_path, pa.table(dict(zip(names, code_NF.T, strict=True))), row_group_size=group)
    monkeypatch.setattr(columns, "LEAST_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(columns, "MOST_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(parquet, "BLOCK_BYTES", read_bytes)
    np.testing.assert_array_equal(features_of(path, names[::-1]), code_NF[:, ::-1] - 2)


def test_a_block_is_bounded_whatever_the_file(written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "LEAST_BLOCK_BYTES", 8)
    monkeypatch.setattr(columns, "MOST_BLOCK_BYTES", 8)
    with ParquetSource(written(row_group_size=4)) as source:
        shapes = [block.shape for _, _, block in feature_blocks(source, FEATURES)]
    assert shapes == [(2, 4), (1, 4), (3, 2)]


def test_a_reading_that_is_given_up_lets_the_file_be_closed(written: Callable[..., Path]) -> None:
    with ParquetSource(written(row_group_size=1)) as source:
        next(feature_blocks(source, FEATURES))


# Targets


def test_targets_are_float32_with_nan_for_missing(written: Callable[..., Path]) -> None:
    target_NT = targets_of(written(row_group_size=4))
    np.testing.assert_array_equal(target_NT[:, 1], np.array([0, 0.25, np.nan, 0.75, 1, np.nan], np.float32))


@pytest.mark.parametrize(
    "values",
    [pa.nulls(6), pa.nulls(6, pa.float32()), pa.nulls(6, pa.float64()), pa.array([float("nan")] * 6, pa.float32())],
)
def test_targets_that_are_all_missing_are_read(written: Callable[..., Path], values: pa.Array) -> None:
    assert np.isnan(targets_of(written(target=values))[:, 0]).all()


def test_targets_of_float64_and_of_whole_numbers_are_read(written: Callable[..., Path]) -> None:
    path = written(
        target=pa.array([0, 1 / 6, 1, 0.5, None, 0], pa.float64()),
        target_ender_60=pa.array([0, 1, 1, None, 0, 1], pa.int8()),
    )
    np.testing.assert_array_equal(targets_of(path)[:, 0], np.array([0, 1 / 6, 1, 0.5, np.nan, 0], np.float32))
    np.testing.assert_array_equal(targets_of(path)[:, 1], np.array([0, 1, 1, np.nan, 0, 1], np.float32))


@pytest.mark.parametrize("value", [-0.25, 1.25, float("inf"), float("-inf")])
def test_a_target_beyond_0_to_1_is_refused_by_row(written: Callable[..., Path], value: float) -> None:
    path = written(target_ender_60=pa.array([0, 0, 0, 1, None, value], pa.float32()), row_group_size=3)
    text = refusal(targets_of, path)
    assert "'target_ender_60'" in text
    assert f"row 5 has {value}" in text


# Round trips and real files


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_valid_file_comes_back_as_written(tmp_path: Path, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    kind = data.draw(st.sampled_from(FORMS))
    codes = data.draw(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=rows, max_size=rows))
    target = data.draw(st.lists(st.one_of(st.none(), st.floats(0, 1, width=32)), min_size=rows, max_size=rows))
    ids = data.draw(st.lists(st.text("abcü0", min_size=1, max_size=5), min_size=rows, max_size=rows, unique=True))
    table = pa.table(
        {
            "id": ids,
            "era": ["0001"] * rows,
            "feature_a": pa.array(codes, kind),
            "target": pa.array(target, pa.float32()),
        }
    )
    path = tmp_path / "train.parquet"
    group = data.draw(st.integers(1, 13))
    pq.write_table(
        table, path, row_group_size=group, compression=data.draw(st.sampled_from(["snappy", "none", "zstd"]))
    )
    assert verify_parquet(path) == rows
    assert ids_of(path) == [text.encode() for text in ids]
    assert features_of(path, ("feature_a",))[:, 0].tolist() == [0 if code is None else code - 2 for code in codes]
    with ParquetSource(path) as source:
        found = np.concatenate([block[0].copy() for _, _, block in target_blocks(source, ["target"])])
    np.testing.assert_array_equal(found, np.array([np.nan if t is None else t for t in target], np.float32))


def test_the_version_2_rows_are_whole_but_refused_as_older(shared_real: Path) -> None:
    path = shared_real / "rows_2021" / "ten_rows_v2.parquet"
    assert verify_parquet(path) == 10
    with ParquetSource(path) as source:
        features = tuple(name for name in source.names if name.startswith("feature"))
    assert "'feature_dichasial_hammier_spawner'" in (text := refusal(lambda p: features_of(p, features), path))
    assert "older version" in text
