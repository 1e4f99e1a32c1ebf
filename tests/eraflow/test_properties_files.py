"""Whatever stands in a file is read to what it says or refused as a `DataError`: features.json, and parquet files.

Read `read_whole` first: everything that is read of a parquet file. What must come of a column is worked out anew from
its plain Python values (`EXPECTED`). Nothing is decoded to the disk here.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eraflow.columns import Kind, check_kind, feature_blocks, read_eras, read_ids, target_blocks
from eraflow.errors import DataError, InputError
from eraflow.feature_sets import FeatureSets, read_features_json
from eraflow.parquet import ParquetSource, check_layout, verify_parquet
from eraflow.stored import ERA_LIVE
from tests.eraflow.foreign import DEPTHS, JSONS, each_spoiled, spoiled, text_of
from tests.eraflow.tables import FEATURES, table_of, write

# Each example writes its file anew.
anew = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


# features.json

WHOLE = {
    "feature_sets": {"small": ["feature_a"], "all": ["feature_b", "feature_a"]},
    "targets": ["target", "target_ender_60"],
    "feature_stats": {"feature_a": {"legacy_uniqueness": None}},
}


def read_json(folder: Path, content: bytes) -> FeatureSets | None:
    """What is read of a file of these bytes; None where it is refused."""
    path = folder / "features.json"
    path.write_bytes(content)
    try:
        return read_features_json(path)
    except DataError as error:
        told = error.message
    assert str(path) in told
    return None


def assert_says(found: FeatureSets | None, value: Any) -> None:
    """It was refused, or read to what a reader of plain JSON finds there."""
    if found is not None:
        assert {name: list(names) for name, names in found.sets.items()} == value["feature_sets"]
        assert list(found.targets) == (value.get("targets") or [])
        assert all(name.startswith("feature") for names in found.sets.values() for name in names)
        with pytest.raises(InputError):
            found.columns("a set that is not there")


@anew
@given(JSONS, DEPTHS)
def test_any_json_is_no_features_json_or_says_what_was_read(tmp_path: Path, value: Any, depth: int) -> None:
    content = text_of(value, depth)
    assert_says(read_json(tmp_path, content), value)
    nested = text_of({"feature_sets": value, "targets": value}, depth)
    assert_says(read_json(tmp_path, nested), {"feature_sets": value, "targets": value})


@anew
@given(spoiled(WHOLE), DEPTHS)
def test_a_features_json_that_is_spoiled_anyhow_is_read_as_it_is_or_refused(
    tmp_path: Path, value: Any, depth: int
) -> None:
    assert_says(read_json(tmp_path, text_of(value, depth)), value)


@pytest.mark.parametrize("field", ["feature_sets", "targets"])
def test_a_features_json_that_is_spoiled_in_any_one_place_is_read_as_it_is_or_refused(
    tmp_path: Path, field: str
) -> None:
    for value in each_spoiled({"data": WHOLE}, field):
        assert_says(read_json(tmp_path, text_of(value["data"], 900)), value["data"])


@anew
@given(st.integers(0, len(text_of(WHOLE)) - 1), st.binary(max_size=4), st.integers(0, 40))
def test_a_features_json_with_any_bytes_cut_or_put_in_is_read_as_it_is_or_refused(
    tmp_path: Path, place: int, put: bytes, cut: int
) -> None:
    content = text_of(WHOLE)
    content = content[:place] + put + content[place + cut :]
    found = read_json(tmp_path, content)
    if found is not None:
        assert_says(found, json.loads(content))


# What is read of a parquet file


def read_whole(path: Path, kind: Kind = "train") -> dict[str, list[Any]]:
    """Column -> what is read of it, as plain values."""
    verify_parquet(path)
    with ParquetSource(path) as source:
        targets = check_layout(source, FEATURES)
        eras = read_eras(source)
        check_kind(path, eras, kind)
        found = {"era": eras.era_N.tolist(), "id": [one.decode() for one in read_ids(source).tolist()]}
        for names, blocks in ((FEATURES, feature_blocks(source, FEATURES)), (targets, target_blocks(source, targets))):
            for _, places, block in blocks:
                for name, values in zip(names[places], block, strict=True):
                    found.setdefault(name, []).extend(values.tolist())
    return found


def refused(path: Path) -> dict[str, list[Any]] | None:
    """None where the file is refused, by its name; what is read of it otherwise."""
    try:
        return read_whole(path)
    except DataError as error:
        told = error.message
    assert str(path) in told
    return None


NUMBERS: dict[pa.DataType, Sequence[Any]] = {
    pa.int8(): (0, 1, 4, -1, 5, None), pa.uint64(): (0, 3, 4, 2**64 - 1, None), pa.int64(): (0, 2, -(2**63), None),
    pa.float16(): (np.float16(1), np.float16(0.5), None), pa.null(): (None,),
    pa.float32(): (0.0, -0.0, 0.5, 1.0, 4.0, 4.5, -1.0, math.nan, math.inf, -math.inf, None),
    pa.float64(): (0.0, 0.25, 1.0, 1.0 + 1e-12, 5e-324, 3.0, -1e-300, math.nan, math.inf, None),
}  # fmt: skip
WORDS = ("0001", "1", "0002", "X", "a", "b", "c", "", "é", "\x00", "1\n", "٣", "9999999999", None)
TEXTS: dict[pa.DataType, Sequence[Any]] = {
    kind: WORDS for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))
}
OTHERS: dict[pa.DataType, Sequence[Any]] = {
    pa.bool_(): (True, False, None), pa.binary(): (b"1", None), pa.binary(3): (b"abc", None), pa.date32(): (1, None),
    pa.timestamp("ns"): (1, None), pa.timestamp("us", "UTC"): (0, None), pa.time64("ns"): (0, None),
    pa.duration("s"): (0, None), pa.decimal128(5, 2): (Decimal("1.00"), None), pa.list_(pa.int8()): ([1], [], None),
    pa.list_(pa.float32(), 2): ([0, 1], None), pa.struct([("a", pa.int8())]): ({"a": 1}, None),
    pa.map_(pa.string(), pa.int8()): ([("a", 1)], None), pa.dictionary(pa.int8(), pa.float64()): (0.0, 1.0, None),
    pa.dictionary(pa.int8(), pa.binary()): (b"1", None),
}  # fmt: skip
KINDS = {**NUMBERS, **TEXTS, **OTHERS}
ROWS = 6


def _eras(values: Sequence[Any]) -> list[int] | None:
    labels = ["" if value is None else str(value) for value in values]
    if not all(label == "X" or (label.isascii() and label.isdigit() and len(label) < 10) for label in labels):
        return None
    numbers = [ERA_LIVE if label == "X" else int(label) for label in labels]
    together = sum(a != b for a, b in pairwise(numbers)) == len(set(numbers)) - 1
    return numbers if together and ERA_LIVE not in numbers else None


def _ids(values: Sequence[Any]) -> list[str] | None:
    whole = all(isinstance(value, str) and value for value in values) and len(set(values)) == len(values)
    return list(values) if whole else None


def _codes(values: Sequence[Any]) -> list[int] | None:
    missing = [value is None or value != value for value in values]
    fits = all(gap or value in (0, 1, 2, 3, 4) for gap, value in zip(missing, values, strict=True))
    return [0 if gap else int(value) - 2 for gap, value in zip(missing, values, strict=True)] if fits else None


def _targets(values: Sequence[Any]) -> list[float] | None:
    known = [math.nan if value is None else float(value) for value in values]
    beyond = any(value < 0 or value > 1 for value in known)
    return None if beyond else [float(np.float32(value)) for value in known]


EXPECTED: dict[str, tuple[set[pa.DataType], Callable[[Sequence[Any]], list[Any] | None]]] = {
    "id": ({*TEXTS}, _ids),
    "era": ({*TEXTS, pa.int8(), pa.int64(), pa.uint64()}, _eras),
    "feature_a": ({*NUMBERS, pa.dictionary(pa.int8(), pa.float64())}, _codes),
    "target": ({*NUMBERS, pa.dictionary(pa.int8(), pa.float64())}, _targets),
}
"""Column -> the types that it may have, and what is read of plain values; None where they are refused."""


@settings(anew, max_examples=300)
@given(st.data(), st.sampled_from([*EXPECTED, "data_type"]), st.sampled_from(list(KINDS)), st.integers(1, ROWS))
def test_a_column_of_any_type_and_values_is_read_as_it_is_or_refused(
    tmp_path: Path, data: st.DataObject, name: str, kind: pa.DataType, group: int
) -> None:
    values = data.draw(st.lists(st.sampled_from(KINDS[kind]), min_size=ROWS, max_size=ROWS))
    path = write(tmp_path, row_group_size=group, **{name: pa.array(values, kind)})
    found = refused(path)
    if name == "data_type":
        return
    kinds, read = EXPECTED[name]
    expected = read(values) if kind in kinds else None
    if expected is None:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_equal(found[name], expected)


@settings(anew, max_examples=80)
@given(
    st.lists(st.sampled_from(table_of().column_names), max_size=12),
    st.integers(0, 6),
    st.sampled_from(["feature_a", "feature", "target", "target_é", "id ", "ID", "", "\x00"]),
)
def test_a_file_with_any_of_its_columns_missing_or_twice_is_refused(
    tmp_path: Path, names: list[str], rows: int, more: str
) -> None:
    table = table_of().slice(0, rows)
    chosen = [*names, *([more] if more not in names else [])]
    arrays = [table[name] if name in table.column_names else table["target"] for name in chosen]
    found = refused(write(tmp_path, pa.Table.from_arrays(arrays, names=chosen)))
    needed = {"id", "era", *FEATURES} <= set(chosen) and any(n == "target" or n[:7] == "target_" for n in chosen)
    assert (found is not None) == (needed and len(set(chosen)) == len(chosen) and rows > 0)


# Damaged bytes


def _bytes_of(**options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table_of(), buffer, **options)
    return buffer.getvalue()


FILES = [
    _bytes_of(compression=compression, row_group_size=group, use_dictionary=coded)
    for compression in ("none", "snappy", "zstd", "gzip")
    for group, coded in ((6, True), (4, False))
]
CHECKED = [
    _bytes_of(compression=compression, write_page_checksum=True, use_dictionary=coded)
    for compression in ("none", "zstd")
    for coded in (True, False)
]


def damaged(draw: Callable[..., Any], whole: bytes, first: int, end: int) -> bytes:
    """`whole` with bytes flipped, replaced, cut out or put in at a place from `first` to `end`."""
    place: int = draw(st.integers(first, end - 1))
    what = draw(st.sampled_from(["flip", "replace", "cut", "put", "end"]))
    if what == "flip":
        flipped = int(whole[place] ^ 1 << draw(st.integers(0, 7)))
        return whole[:place] + bytes([flipped]) + whole[place + 1 :]
    put: bytes = draw(st.binary(min_size=1, max_size=6))
    if what == "replace":
        return whole[:place] + put + whole[place + len(put) :]
    if what == "cut":
        return whole[:place] + whole[place + draw(st.integers(1, 60)) :]
    return whole[:place] + put + whole[place:] if what == "put" else whole[:place]


@settings(anew, max_examples=300)
@given(st.data(), st.sampled_from(FILES), st.booleans())
def test_a_file_that_is_damaged_anywhere_is_refused_or_read_in_its_full_length(
    tmp_path: Path, data: st.DataObject, whole: bytes, in_footer: bool
) -> None:
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    path = tmp_path / "train.parquet"
    path.write_bytes(damaged(data.draw, whole, *((footer, len(whole)) if in_footer else (0, len(whole)))))
    found = refused(path)
    if found is not None:
        with ParquetSource(path) as source:
            assert {len(values) for values in found.values()} == {source.rows}
        assert all(-2 <= code <= 2 for name in FEATURES for code in found[name])
        assert not any(value < 0 or value > 1 for name in found if name[:6] == "target" for value in found[name])
        assert len(set(found["id"])) == len(found["id"])


@settings(anew, max_examples=100)
@given(st.data(), st.sampled_from(CHECKED))
def test_pages_with_checksums_that_are_damaged_are_refused_or_read_as_they_were(
    tmp_path: Path, data: st.DataObject, whole: bytes
) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(whole)
    before = read_whole(path)
    path.write_bytes(damaged(data.draw, whole, 4, len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")))
    found = refused(path)
    if found is not None:
        np.testing.assert_equal(found, before)


@settings(anew, max_examples=60)
@given(st.binary(max_size=60), st.sampled_from([b"", b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"{", b"<", b"PK"]))
def test_bytes_that_are_no_parquet_file_are_refused(tmp_path: Path, content: bytes, head: bytes) -> None:
    path = tmp_path / "train.parquet"
    for written in (head + content, head + content + b"PAR1", content):
        path.write_bytes(written)
        assert refused(path) is None
