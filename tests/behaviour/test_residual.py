"""A round whose recipe learns what a benchmark leaves over: what is fetched for it, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eraflow.files import BENCHMARK_FILES
from eraflow.recipes import RECIPES
from eraflow.rehearsal import Fault, LocalTournament
from eraflow.store import read_manifest, sha256_of
from tests.behaviour.week import Week

BENCHMARK = "v53_lgbm_ender20"
LEFT = {"data.target": "target_ender_20", "data.residual_of": BENCHMARK, "training.epochs": "1"}
PLAIN = {key: value for key, value in LEFT.items() if key != "data.residual_of"}


def asked_for(local: LocalTournament) -> list[str]:
    """The benchmark models' files that the tournament was asked for, in order."""
    names = [path.rpartition("/")[2] for method, path, _ in local.requests if method == "GET"]
    return [name for name in names if "benchmark" in name]


def test_the_benchmarks_are_fetched_once_and_the_model_tells_them(week: Week) -> None:
    result = week.play(week.request(assignments=LEFT))
    assert (result.exit_code, result.error) == (0, None)
    assert [(r.status, r.verified) for r in result.receipts] == [("submitted", "bytes")] * 2
    assert asked_for(week.local) == list(BENCHMARK_FILES)
    (model,) = result.models
    told = json.loads((model.folder / "model.json").read_bytes())
    paths = [week.home / "data" / "v5.3" / name for name in BENCHMARK_FILES]
    kept = [(sha256_of(path), path.stat().st_mtime_ns) for path in paths]
    assert told["benchmarks_sha256"] == [sha256 for sha256, _ in kept]
    assert all(read_manifest(path) for path in paths)
    again = week.play(week.request(assignments=LEFT, submit=False))
    assert [one.model_id for one in again.models] == [model.model_id]
    assert [(sha256_of(path), path.stat().st_mtime_ns) for path in paths] == kept


def test_a_round_without_such_a_recipe_fetches_none(week: Week) -> None:
    result = week.play(week.request(assignments=PLAIN))
    assert result.exit_code == 0
    assert asked_for(week.local) == []
    assert json.loads((result.models[0].folder / "model.json").read_bytes())["benchmarks_sha256"] == []


def test_it_learns_something_else_and_is_validated_on_the_same(week: Week) -> None:
    plain, left = (week.play(week.request(assignments=given, submit=False)).models[0] for given in (PLAIN, LEFT))
    assert plain.model_id != left.model_id
    assert left.rows < plain.rows  # the benchmarks of train begin after a quarter of its eras
    assert left.validation["eras"] == plain.validation["eras"]
    assert left.untrained_spearman == plain.untrained_spearman


def test_a_benchmark_that_is_not_there_is_refused_before_training(week: Week) -> None:
    wrong = LEFT | {"data.residual_of": "v53_lgbm_ender2"}
    result = week.play(week.request(assignments=wrong))
    assert result.models == ()
    assert {receipt.error_code for receipt in result.receipts} == {"wrong-input"}
    assert "did you mean v53_lgbm_ender20?" in str(result.receipts[0].error_message)
    assert week.sent() == []


@pytest.mark.parametrize("missing", BENCHMARK_FILES)
def test_a_folder_without_its_files_is_refused_before_training(
    week: Week, market_folder: Path, tmp_path: Path, missing: str
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(market_folder, folder)
    sound = week.play(week.request(data_from=folder, submit=False, assignments=LEFT))
    assert (sound.exit_code, len(sound.models)) == (0, 1)
    (folder / missing).unlink()
    result = week.play(week.request(data_from=folder, submit=False, assignments=LEFT))
    assert (result.exit_code, result.models) == (5, ())
    assert result.error is not None
    assert f"could not be had: {folder / missing} is missing" in result.error["message"]
    assert week.play(week.request(data_from=folder, submit=False, assignments=PLAIN)).exit_code == 0


def test_a_tournament_without_its_files_costs_only_the_recipe_that_needs_them(
    week: Week, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = RECIPES["simple-mlp"]()
    left = replace(plain, name="left", data=replace(plain.data, target="target_ender_20", residual_of=BENCHMARK))
    monkeypatch.setattr("eraflow.recipes.RECIPES", {**RECIPES, "left": lambda: left})
    week.local.faults.add(Fault(where="get:train_benchmark_models.parquet", what="status", times=None, code=404))
    config = tmp_path / "weekly.toml"
    config.write_text('[slots]\nrehearsal_one = "left"\nrehearsal_two = "simple-mlp"\n')
    result = week.play(week.request(slots=(), recipe=None, config_file=config))
    refused, sound = result.receipts
    assert (refused.status, refused.error_code, sound.status) == ("failed", "data-refused", "submitted")
    assert "left must have the benchmark v53_lgbm_ender20" in str(refused.error_message)
    assert [model.recipe for model in result.models] == ["simple-mlp"]
    assert list(week.accepted()) == ["rehearsal_two"]
