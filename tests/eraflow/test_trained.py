"""A recipe on stored data: purge, hold-out, refit, members, and the folder that comes of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eraflow import footprint, metrics, trained
from eraflow.config import override
from eraflow.dataset import decode
from eraflow.errors import DataError, InputError, StorageError
from eraflow.exam import FEWEST_ERAS
from eraflow.footprint import bytes_a_row, bytes_of_weights
from eraflow.inference import predict
from eraflow.predictions import ensemble, rank_uniform
from eraflow.recipes import Recipe, get
from eraflow.rows import Rows
from eraflow.runs import FINISHED
from eraflow.store import sha256_of
from eraflow.stored import StoredDataset
from eraflow.trained import Trained, load, model_id, predict_live, train
from eraflow.training import load_fitted
from tests.eraflow.fitting import Enough

# Of one member of `simple-mlp`: 6 epochs of the purged rows in batches of 64.
STEPS = 6 * -(-32 * 30 // 64)
FEATURES = tuple(f"feature_{i}" for i in range(6))


def table(eras: Sequence[int], *, rows: int = 30, seed: int = 0, live: bool = False) -> pd.DataFrame:
    """A frame in v5.3's shape with a linear signal; `target` equals `target_x_20`."""
    rng = np.random.default_rng(seed)
    n = len(eras) * rows
    code = rng.integers(0, 5, (n, len(FEATURES))).astype(np.int8)
    score = code[:, :3].sum(1) + rng.standard_normal(n)
    frame = pd.DataFrame(code, columns=list(FEATURES))
    frame.insert(0, "id", [f"n{seed}{i:06d}" for i in range(n)])
    frame.insert(1, "era", "X" if live else np.repeat([f"{era:04d}" for era in eras], rows))
    frame.insert(2, "data_type", "live" if live else "train")
    target = (np.digitize(score, [3, 5, 7, 9]) / 4).astype(np.float32)
    for name, values in (("target", target), ("target_x_20", target), ("target_y_60", target[::-1])):
        frame[name] = np.full(n, np.nan, np.float32) if live else values
    return frame


def store(folder: Path, name: str, frame: pd.DataFrame) -> StoredDataset:
    folder.mkdir(exist_ok=True)
    frame.to_parquet(path := folder / f"{name}.parquet", index=False)
    return decode(path, into=folder / "decoded", sha256=sha256_of(path), features=FEATURES)


@dataclasses.dataclass(frozen=True)
class Market:
    train: StoredDataset
    validation: StoredDataset
    live: StoredDataset


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    folder = tmp_path_factory.mktemp("market")
    validation = table(range(41, 51), seed=1)
    validation.loc[validation.era == "0050", ["target", "target_x_20"]] = np.nan  # not resolved yet
    validation.loc[validation.era == "0043", ["target", "target_x_20"]] = 0.5  # defines no score
    return Market(
        train=store(folder, "train", table(range(1, 41))),
        validation=store(folder, "validation", validation),
        live=store(folder, "live", table([0], rows=50, seed=2, live=True)),
    )


def recipe(name: str = "simple-mlp", **assignments: str) -> Recipe:
    given = {"model.hidden": "[16]", "training.device": "cpu", "data.target": "target"}
    given |= {"training.steps": "20"} if name == "era-pearson" else {"training.batch_size": "64"}
    return override(get(name), given | {key.replace("__", "."): value for key, value in assignments.items()})


def run(market: Market, folder: Path, wanted: Recipe | None = None, **more: Any) -> Trained:
    return train(
        wanted or recipe(),
        train=more.pop("train", market.train),
        validation=more.pop("validation", market.validation),
        features=more.pop("features", FEATURES),
        folder=folder,
        **more,
    )


def refuse_to_train(stage: str, done: float, total: float, text: str = "") -> None:
    raise AssertionError(f"{stage} was done again")


def test_the_purge_follows_the_column_that_target_equals(market: Market, tmp_path: Path) -> None:
    found = run(market, tmp_path)
    assert (found.target_equals, found.purged_eras) == ("target_x_20", 8)
    assert (found.eras, found.rows) == (40 - 8, 32 * 30)


def test_a_target_of_60_days_purges_16_eras(market: Market, tmp_path: Path) -> None:
    found = run(market, tmp_path, recipe(data__target="target_y_60"))
    assert (found.target_equals, found.purged_eras, found.eras) == (None, 16, 24)


def test_the_stride_is_counted_in_weeks_after_the_purge(market: Market, tmp_path: Path) -> None:
    found = run(market, tmp_path, recipe("era-pearson", prediction__members="1"))
    assert (found.eras, found.rows) == (8, 8 * 30)
    # Labelled eras 1..49, every 4th back from 49.
    assert found.refit_rows == 13 * 30


def test_the_hold_out_is_every_labelled_era_and_undefined_ones_are_counted(market: Market, tmp_path: Path) -> None:
    found = run(market, tmp_path).validation
    assert [score.era for score in found.per_era] == list(range(41, 50))
    assert (found.eras, found.undefined) == (8, 1)
    assert [score.era for score in found.per_era if score.spearman is None] == [43]
    assert "per_era" not in found.figures()
    assert json.dumps(found.figures(), allow_nan=False)


def test_training_beats_the_untrained_network(market: Market, tmp_path: Path) -> None:
    found = run(market, tmp_path, recipe(training__epochs="30"))
    assert found.untrained_spearman is not None
    assert found.validation.spearman_mean is not None
    assert found.validation.spearman_mean > 0.5 > found.untrained_spearman
    assert found.histories[0][-1]["spearman_mean"] == pytest.approx(found.validation.spearman_mean, abs=1e-9)


def test_validation_is_that_of_the_members_mean_rank(market: Market, tmp_path: Path) -> None:
    wanted = recipe("era-pearson", prediction__members="3", training__refit="false")
    found = run(market, tmp_path, wanted)
    rows = Rows.of(market.validation.codes_NF, market.validation.column("target"), market.validation.era_N).labelled()
    members = found.members()
    each = predict(members, rows)
    assert (
        len(
            {
                weights.numpy().tobytes()
                for m in members
                for k, weights in m.state_dict().items()
                if k == "layers.0.bias"
            }
        )
        == 3
    )
    mean = ensemble(list(each), rows.era_M)
    expected = metrics.era_spearman(mean, rows.target_M, rows.era_M)
    told = [np.nan if score.spearman is None else score.spearman for score in found.validation.per_era]
    np.testing.assert_allclose(told, expected, atol=1e-12)
    assert found.validation.sharpe == pytest.approx(metrics.summary(expected).sharpe)
    corr = metrics.numerai_corr(mean, rows.target_M, rows.era_M)
    assert found.validation.numerai_corr_mean == pytest.approx(metrics.summary(corr).mean)


def test_members_are_trained_in_groups_where_memory_is_short_and_come_out_the_same(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe("era-pearson", prediction__members="3")
    together = run(market, tmp_path / "a", wanted)
    stages: set[str] = set()
    room = bytes_of_weights(wanted.model, 6, 2) + 4 * 30 * bytes_a_row(wanted.model, 6, 2)
    monkeypatch.setattr(footprint, "free_bytes", lambda device: round(room / footprint.SHARE) + 10)
    groups = run(
        market, tmp_path / "b", wanted, progress=lambda stage, done, total, text="": stages.add(stage.partition("-")[2])
    )
    assert {"pearson 1 to 2 of 3", "pearson 3 to 3 of 3"} <= stages
    rows = Rows.of(market.validation.codes_NF, market.validation.column("target"), market.validation.era_N).labelled()
    ours, theirs = predict(together.members(), rows), predict(groups.members(), rows)
    # The correlation that is trained on does not know a member's mean, which rounding moves.
    np.testing.assert_allclose(ours - ours.mean(1)[:, None], theirs - theirs.mean(1)[:, None], atol=1e-3)
    assert found_members(groups) == ["final-0", "final-1", "final-2"]


def found_members(made: Trained) -> list[str]:
    return [path.name for path in made.member_folders()]


def test_a_member_that_is_cut_is_left_out_where_another_is_whole(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(prediction__members="2", training__refit="false")
    monkeypatch.setattr("eraflow.trained.members_at_once", lambda *given: 1)
    one = run(market, tmp_path / "a", wanted, enough=Enough(STEPS + 40))
    assert (found_members(one), one.cut) == (["holdout-0"], True)
    monkeypatch.undo()
    both = run(market, tmp_path / "b", wanted, enough=Enough(40))
    assert (found_members(both), both.cut) == (["holdout-0", "holdout-1"], True)
    assert both.steps < one.steps
    assert not run(market, tmp_path / "b", wanted).cut


@pytest.fixture(scope="module")
def large_holdout(tmp_path_factory: pytest.TempPathFactory) -> StoredDataset:
    """More eras than a sample has."""
    return store(tmp_path_factory.mktemp("large"), "validation", table(range(41, 101), rows=60, seed=1))


def test_a_model_that_is_cut_is_validated_on_a_sample_and_in_full_when_it_is_gone_on_with(
    market: Market, tmp_path: Path, large_holdout: StoredDataset
) -> None:
    cut = run(market, tmp_path, validation=large_holdout, enough=Enough(40), notes=["said before"])
    assert (cut.cut, cut.sampled, cut.validation.eras, cut.untrained_eras) == (True, True, FEWEST_ERAS, FEWEST_ERAS)
    told = f"validated on {FEWEST_ERAS} of 60 eras, evenly spread, because there was no time for all"
    assert cut.notes == ("said before", told)
    assert load(tmp_path) == cut
    whole = run(market, tmp_path, validation=large_holdout, notes=["said before"])
    assert (whole.cut, whole.sampled, whole.validation.eras, whole.notes) == (False, False, 60, ("said before",))


def test_a_whole_model_that_there_was_no_time_to_validate_is_validated_by_the_next_run(
    market: Market, tmp_path: Path, large_holdout: StoredDataset
) -> None:
    hurried = run(market, tmp_path, validation=large_holdout, enough=Enough(STEPS))
    assert (hurried.cut, hurried.sampled, hurried.validation.eras) == (False, True, FEWEST_ERAS)
    fitted = (tmp_path / "holdout-0" / FINISHED).stat().st_mtime_ns
    later = run(market, tmp_path, validation=large_holdout)
    assert (later.cut, later.sampled, later.validation.eras) == (False, False, 60)
    assert (tmp_path / "holdout-0" / FINISHED).stat().st_mtime_ns == fitted, "it was fitted again"
    assert run(market, tmp_path, validation=large_holdout, progress=refuse_to_train) == later


def test_a_model_that_was_written_before_samples_were_told_is_loaded(market: Market, tmp_path: Path) -> None:
    made = run(market, tmp_path)
    told = json.loads((tmp_path / trained.MODEL).read_text())
    del told["untrained_eras"], told["sampled"]
    (tmp_path / trained.SUMS).unlink()
    (tmp_path / trained.MODEL).write_text(json.dumps(told))
    assert load(tmp_path) == dataclasses.replace(made, untrained_eras=None)


def test_the_refit_takes_as_many_steps_and_is_what_predicts(market: Market, tmp_path: Path) -> None:
    wanted = recipe(training__refit="true")
    found = run(market, tmp_path, wanted)
    assert found.refit_rows == 49 * 30
    first, final = (load_fitted(tmp_path / kind, wanted.model, "cpu") for kind in ("holdout-0", "final-0"))
    assert first.steps == final.steps == found.steps
    assert final.rows == 49 * 30
    ours, theirs = found.members()[0].state_dict(), final.model.state_dict()
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert not bool((ours["layers.0.weight"] == first.model.state_dict()["layers.0.weight"]).all())


def test_live_predictions_are_ranks_of_every_row(market: Market, tmp_path: Path) -> None:
    found = run(market, tmp_path, recipe("era-pearson"))
    live = predict_live(load(tmp_path), market.live)
    rows = Rows.of(market.live.codes_NF, None, market.live.era_N)
    expected = rank_uniform(ensemble(list(predict(found.members(), rows)), np.zeros(50)))
    np.testing.assert_array_equal(live, expected)
    assert live.dtype == np.float64
    assert 0 < live.min() < live.max() < 1


def test_features_are_found_by_name(market: Market, tmp_path: Path) -> None:
    """A wider or reordered store gives the same model and predictions."""
    other = tmp_path / "other"
    frame = table([0], rows=50, seed=2, live=True)
    reordered = frame[[*frame.columns[:3], *reversed(FEATURES), *frame.columns[9:]]]
    live = store(other, "live", reordered)
    chosen = FEATURES[1:4]
    found = run(market, tmp_path / "model", features=chosen)
    expected = predict_live(found, market.live)
    np.testing.assert_array_equal(predict_live(found, live), expected)


def test_a_whole_folder_is_loaded_and_not_trained_again(market: Market, tmp_path: Path) -> None:
    first = run(market, tmp_path, recipe("era-pearson"), notes=["said before"])
    second = run(market, tmp_path, recipe("era-pearson"), progress=refuse_to_train)
    assert first == second == load(tmp_path)
    assert second.notes == ("said before",)
    assert second.versions["eraflow"]


@pytest.mark.parametrize("damaged", ["recipe.toml", "model.json", "sha256sums", "holdout-0/fitted.safetensors"])
def test_what_is_damaged_in_a_folder_is_made_again(market: Market, tmp_path: Path, damaged: str) -> None:
    first = run(market, tmp_path)
    (tmp_path / damaged).write_bytes(b"nothing")
    second = run(market, tmp_path)
    assert second.validation == first.validation
    np.testing.assert_array_equal(predict_live(second, market.live), predict_live(first, market.live))


@pytest.mark.parametrize(
    "change",
    [
        {"features": 3}, {"features": []}, {"features": [3]}, {"predicting": []}, {"histories": [3]}, {"cut": "no"},
        {"made_at_utc": None}, {"made_at_utc": "yesterday"}, {"made_at_utc": "0001-01-01T00:00:00+05:00"},
        {"validation": None}, {"validation": {}}, {"data_version": 5}, {"versions": []}, {"unknown": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_model_with_a_damaged_value_is_not_whole(market: Market, tmp_path: Path, change: dict[str, Any]) -> None:
    run(market, tmp_path)
    (tmp_path / trained.SUMS).unlink()
    path = tmp_path / trained.MODEL
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StorageError, match="must hold a whole trained model"):
        load(tmp_path)


@pytest.mark.parametrize("name", [trained.RECIPE, trained.MODEL])
def test_a_model_that_reads_well_but_is_not_what_was_written_is_not_whole(
    market: Market, tmp_path: Path, name: str
) -> None:
    run(market, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(StorageError, match="have changed since they were written"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"', "{}", "[" * 100_000], ids=lambda text: text[:6])
def test_a_model_file_that_is_not_its_table_is_not_whole(market: Market, tmp_path: Path, text: str) -> None:
    run(market, tmp_path)
    (tmp_path / trained.SUMS).unlink()
    (tmp_path / trained.MODEL).write_text(text)
    with pytest.raises(StorageError, match="must hold a whole trained model"):
        load(tmp_path)


@pytest.mark.parametrize("place", [[], ["validation"], ["validation", "per_era", 0]], ids=str)
def test_a_model_that_lacks_a_value_is_not_whole(market: Market, tmp_path: Path, place: list[Any]) -> None:
    run(market, tmp_path)
    (tmp_path / trained.SUMS).unlink()
    path, optional = tmp_path / trained.MODEL, {"untrained_eras", "sampled", "benchmarks_sha256"}
    whole = path.read_text()
    for name in sorted(reduce(getitem, place, json.loads(whole)).keys() - optional):
        told = json.loads(whole)
        del reduce(getitem, place, told)[name]
        path.write_text(json.dumps(told))
        with pytest.raises(StorageError, match=f"missing 1 required keyword-only argument: '{name}'"):
            load(tmp_path)


def test_a_run_that_was_killed_in_the_refit_keeps_its_hold_out_fit(market: Market, tmp_path: Path) -> None:
    wanted = recipe(training__refit="true")

    class Killed(Exception):
        pass

    def kill(stage: str, done: float, total: float, text: str = "") -> None:
        if stage.startswith("refit"):
            raise Killed

    with pytest.raises(Killed):
        run(market, tmp_path / "a", wanted, progress=kill)
    kept = (tmp_path / "a" / "holdout-0" / FINISHED).stat().st_mtime_ns
    assert not (tmp_path / "a" / trained.MODEL).exists()
    with pytest.raises(StorageError, match="must hold a whole trained model"):
        load(tmp_path / "a")
    found, whole = run(market, tmp_path / "a", wanted), run(market, tmp_path / "b", wanted)
    assert (tmp_path / "a" / "holdout-0" / FINISHED).stat().st_mtime_ns == kept
    assert found.validation == whole.validation
    np.testing.assert_array_equal(predict_live(found, market.live), predict_live(whole, market.live))


def test_the_name_says_recipe_and_what_it_was_made_from() -> None:
    wanted = recipe("era-pearson")
    name = model_id(wanted, "a", "b", FEATURES)
    assert name.startswith("era-pearson-")
    assert len(name.removeprefix("era-pearson-")) == 12
    others = {
        model_id(wanted, "a", "b", FEATURES[:-1]),
        model_id(wanted, "x", "b", FEATURES),
        model_id(wanted, "a", "x", FEATURES),
        model_id(recipe("era-pearson", training__seed="9"), "a", "b", FEATURES),
    }
    assert len(others | {name}) == 5


def test_too_few_eras_and_no_labels_are_refused(market: Market, tmp_path: Path) -> None:
    few = store(tmp_path / "few", "train", table(range(35, 41)))
    with pytest.raises(InputError, match="more than 8 eras from the validation eras 41 to 49, however none of the 6"):
        run(market, tmp_path / "a", train=few)
    unlabelled = table(range(41, 45))
    unlabelled[["target", "target_x_20"]] = np.float32(np.nan)
    with pytest.raises(DataError, match=r"validation\.parquet must have rows with the target target"):
        run(market, tmp_path / "b", validation=store(tmp_path / "none", "validation", unlabelled))
    with pytest.raises(InputError, match="feature_99"):
        run(market, tmp_path / "c", features=[*FEATURES, "feature_99"])
    assert not (tmp_path / "a" / trained.MODEL).exists()
