"""Rounds on material that nobody here made: real rows, real feature sets, and files that must be refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from eraflow.feature_sets import read_features_json
from eraflow.rehearsal import LocalTournament
from tests.behaviour.week import Week

# The full lengths take minutes and are run by hand; what they are made of is the same.
SHORT: Mapping[str, Mapping[str, str]] = {
    "simple-mlp": {},
    "fastai-tabular": {},
    "era-pearson": {"training.steps": "6", "prediction.members": "2"},
}


@pytest.mark.parametrize("recipe", SHORT)
@pytest.mark.parametrize("name", ["rounds_2017", "rounds_2018"])
def test_a_recipe_scores_every_labelled_era_of_real_rows(week: Week, shared_real: Path, name: str, recipe: str) -> None:
    folder = shared_real / name
    request = week.request(slots=["mine"], recipe=recipe, data_from=folder, submit=False, assignments=SHORT[recipe])
    result = week.play(request)
    assert result.exit_code == 0, result.error
    (model,) = result.models
    found = model.validation
    assert math.isfinite(found["spearman_mean"])
    assert abs(found["spearman_mean"]) < 0.3
    validation = pq.read_table(folder / "validation.parquet", columns=["era", "target"])
    labelled = validation.filter(pc.is_valid(pc.field("target")) & ~pc.is_nan(pc.field("target")))
    assert found["eras"] + found["undefined"] == len(labelled["era"].unique()) == 12
    assert found["undefined"] == 0
    assert model.features == 50
    assert result.round is None
    assert week.local.requests == []


def test_a_recipe_whose_feature_set_is_missing_says_that_it_uses_all(week: Week, shared_real: Path) -> None:
    known = read_features_json(shared_real / "rounds_2017" / "features.json").sets
    request = week.request(slots=["mine"], data_from=shared_real / "rounds_2017", submit=False)
    (model,) = week.play(request).models
    assert any("all features" in note for note in model.notes) == ("medium" not in known)


def test_real_live_rows_are_submitted_and_verified(
    shared_real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalTournament(tmp_path / "tournament", data_from=shared_real / "rounds_2017") as local:
        number = local.open_next_round(delay_s=0)
        week = Week(local, tmp_path / "home")
        for name, value in week.environment.items():
            monkeypatch.setenv(name, value)
        result = week.play()
        assert result.exit_code == 0
        assert [(r.status, r.verified) for r in result.receipts] == [("submitted", "bytes")] * 2
        made = local.accepted(number)
        assert len(made) == 2
        lines = local.submitted_bytes(made[0]).decode().splitlines()
    ids = pq.read_table(shared_real / "rounds_2017" / "live.parquet", columns=["id"])["id"].to_pylist()
    assert len(ids) == 198
    assert lines[0] == "id,prediction"
    assert [line.split(",")[0] for line in lines[1:]] == ids
    assert all(0 < float(line.split(",")[1]) < 1 for line in lines[1:])


def test_the_real_features_json_is_read(shared_real: Path) -> None:
    found = read_features_json(shared_real / "features_v5.0.json")
    assert len(found.columns("all")) == 2376
    assert len(found.sets["small"]) == 42


@pytest.mark.parametrize("file", ["df_train_ex.csv", "df_val_ex.csv"])
@pytest.mark.parametrize("stored_as", ["train.csv", "train.parquet"])
def test_csv_rows_of_2021_are_refused_by_name(
    week: Week, shared_real: Path, tmp_path: Path, file: str, stored_as: str
) -> None:
    folder = _spoilt(shared_real, tmp_path, shared_real / "rows_2021" / file, stored_as)
    result = week.play(week.request(slots=["mine"], data_from=folder, submit=False))
    assert result.exit_code == 5
    assert result.error is not None
    assert str(folder / stored_as) in result.error["message"]
    assert "parquet" in result.error["message"]
    assert week.local.requests == []


def test_ten_rows_of_ten_eras_are_refused_by_name_and_never_scored(
    week: Week, shared_real: Path, tmp_path: Path
) -> None:
    folder = _spoilt(shared_real, tmp_path, shared_real / "rows_2021" / "ten_rows_v2.parquet", "train.parquet")
    result = week.play(week.request(slots=["mine"], data_from=folder, submit=False))
    assert (result.exit_code, result.models) == (5, ())
    assert result.error is not None
    assert str(folder / "train.parquet") in result.error["message"]


def _spoilt(shared_real: Path, tmp_path: Path, file: Path, stored_as: str) -> Path:
    """A valid folder with `file` as its training data."""
    folder = tmp_path / "spoilt"
    shutil.copytree(shared_real / "rounds_2017", folder)
    if stored_as.startswith("train."):
        (folder / "train.parquet").unlink()
    shutil.copyfile(file, folder / stored_as)
    return folder
