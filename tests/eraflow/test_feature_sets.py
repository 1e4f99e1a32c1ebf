"""What `features.json` must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eraflow.errors import DataError, InputError
from eraflow.feature_sets import FeatureSets, read_features_json


def read(folder: Path, content: Any) -> FeatureSets:
    path = folder / "features.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_features_json(path)


def test_sets_keep_the_order_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, {"feature_sets": {"small": ["feature_b", "feature_a"]}, "targets": ["target"]})
    assert found.columns("small") == ("feature_b", "feature_a")
    assert found.targets == ("target",)


def test_an_unknown_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    found = read(tmp_path, {"feature_sets": {"small": ["feature_a"], "all": ["feature_a", "feature_b"]}})
    assert found.targets == ()
    with pytest.raises(InputError, match=r"one of all, small, however 'smal' was given; did you mean small\?"):
        found.columns("smal")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<html>", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ([], "JSON object with a table `feature_sets`"),
        ({"feature_sets": []}, "table `feature_sets`"),
        ({"feature_sets": {}}, "at least one set"),
        ({"feature_sets": {"small": []}}, "set small must be a list with at least one name"),
        ({"feature_sets": {"small": "feature_a"}}, "set small must be a list"),
        ({"feature_sets": {"small": ["feature_a", 3]}}, "entry 1 is 3"),
        ({"feature_sets": {"small": ["era"]}}, "names in feature..., however entry 0 is 'era'"),
        ({"feature_sets": {"small": ["feature_a", "feature_a"]}}, "entry 1 is 'feature_a' again"),
        ({"feature_sets": {"small": ["feature_a"]}, "targets": ["ender"]}, "targets must hold names in target"),
    ],
)
def test_anything_else_is_refused_with_the_reason(tmp_path: Path, content: Any, text: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert text in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_features_json(tmp_path / "features.json")


def test_the_real_file_of_version_5_is_read(shared_real: Path) -> None:
    found = read_features_json(shared_real / "features_v5.0.json")
    assert [len(found.columns(name)) for name in ("small", "medium", "all")] == [42, 705, 2376]
    assert (len(found.sets), len(found.targets)) == (17, 37)
