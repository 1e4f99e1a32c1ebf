"""Tests of `eraflow.rehearsal.market` and `market_files`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eraflow.errors import InputError
from eraflow.metrics import era_spearman
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.market_files import ROUND_FILES, TRAIN_FILES, WEEK_FILES, write_file

DEFAULT = Market(MarketConfig())
SMALL = Market(MarketConfig(features=12, train_eras=24, validation_eras=20, rows_per_era=30))


def written(market: Market, name: str, folder: Path, week: int = 0, number: int = 1400) -> Path:
    path = folder / f"{week}-{number}-{name}"
    write_file(market, name, path, week=week, number=number)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    for name in (*TRAIN_FILES, *WEEK_FILES, *ROUND_FILES):
        write_file(DEFAULT, name, folder / name, week=0, number=1400)
    return folder


def test_files_have_the_layout_of_the_real_ones(files: Path) -> None:
    train, live = pd.read_parquet(files / "train.parquet"), pd.read_parquet(files / "live.parquet")
    assert list(train.columns) == ["era", "data_type", *DEFAULT.features, *DEFAULT.targets]
    assert list(live.columns) == list(train.columns)
    assert train.index.name == live.index.name == "id"
    assert {str(kind) for kind in train[list(DEFAULT.features)].dtypes} == {"int8"}
    assert {str(kind) for kind in train[list(DEFAULT.targets)].dtypes} == {"float32"}
    assert set(live.era) == {"X"}
    assert set(live.data_type) == {"live"}
    assert live[list(DEFAULT.targets)].isna().all(axis=None)
    assert train.era.iloc[0] == "0001"
    assert train.era.iloc[-1] == "0100"
    assert len(train) == 100 * 500


def test_the_newest_validation_eras_are_unresolved_by_horizon(files: Path) -> None:
    validation = pd.read_parquet(files / "validation.parquet")
    by_era = validation.groupby("era")
    assert (by_era.data_type.first() == "test").tolist() == [False] * 27 + [True] * 13
    for target, unresolved in (("target", 13), ("target_jasper_60", 13), ("target_ender_20", 5)):
        counts = by_era[target].count().to_numpy()
        assert (counts == 0).tolist() == [False] * (40 - unresolved) + [True] * unresolved


def test_feature_sets_name_existing_features_and_small_is_not_inside_medium(files: Path) -> None:
    table = json.loads((files / "features.json").read_text())
    sets = table["feature_sets"]
    assert set(sets) == {"small", "medium", "all", "fncv3_features"}
    assert sets["all"] == list(DEFAULT.features)
    assert all(set(names) <= set(sets["all"]) for names in sets.values())
    assert not set(sets["small"]) <= set(sets["medium"])
    assert table["targets"] == list(DEFAULT.targets)


def test_targets_have_five_bins_of_the_documented_shares(files: Path) -> None:
    train = pd.read_parquet(files / "train.parquet")
    for target in DEFAULT.targets:
        shares = train[target].value_counts(normalize=True).sort_index()
        assert shares.index.tolist() == [0, 0.25, 0.5, 0.75, 1]
        np.testing.assert_allclose(shares, [0.05, 0.2, 0.5, 0.2, 0.05], atol=0.002)
    assert train.target.equals(train.target_ender_60.rename("target"))


def test_features_have_five_equal_bins_and_are_correlated_in_groups(files: Path) -> None:
    train = pd.read_parquet(files / "train.parquet")
    codes = train.loc[train.era > "0030", list(DEFAULT.features)].to_numpy()
    shares = np.stack([(codes == code).mean(axis=0) for code in range(5)])
    np.testing.assert_allclose(shares, 0.2, atol=0.02)
    correlation = np.abs(np.corrcoef(codes.T))
    assert correlation[0, 8] > 0.1  # of one group
    assert correlation[0, 1] < 0.03  # of two


def test_some_features_are_missing_in_the_early_eras(files: Path) -> None:
    train = pd.read_parquet(files / "train.parquet")
    early, later = train[train.era <= "0025"], train[train.era > "0025"]
    missing = [name for name in DEFAULT.features if (early[name] == 2).all()]
    assert 2 <= len(missing) <= 4
    assert not (later[missing] == 2).all().any()


def test_ids_are_unique_over_the_whole_market(files: Path) -> None:
    names = ("train.parquet", "validation.parquet", "live.parquet")
    ids = np.concatenate([pd.read_parquet(files / name, columns=["era"]).index.to_numpy() for name in names])
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 17 and one[0] == "n" for one in ids[:100])


def test_a_market_repeats_for_its_seed_and_differs_for_another(tmp_path: Path) -> None:
    again = Market(SMALL.config)
    for name in ("train.parquet", "live.parquet"):
        assert written(SMALL, name, tmp_path).read_bytes() == written(again, name, tmp_path).read_bytes()
    other = Market(replace(SMALL.config, seed=1))
    assert not np.array_equal(other.era(1).codes_FN[:, :20], SMALL.era(1).codes_FN[:, :20])


def test_the_default_market_is_what_it_always_was() -> None:
    """What the README says of a rehearsal was measured on it."""
    found = []
    for number in (7, 120):
        era = DEFAULT.era(number)
        digest = hashlib.sha256("".join(era.id_N).encode())
        parts: list[np.ndarray] = [era.codes_FN, *(era.targets[target] for target in DEFAULT.targets)]
        for part in parts:
            digest.update(part.tobytes())
        found.append(digest.hexdigest()[:16])
    assert found == ["70dc7c180671e7fa", "991910feb1d98622"]


def test_a_week_later_validation_has_one_more_era_and_the_old_rows_are_as_they_were(tmp_path: Path) -> None:
    before = pd.read_parquet(written(SMALL, "validation.parquet", tmp_path, week=0))
    after = pd.read_parquet(written(SMALL, "validation.parquet", tmp_path, week=1))
    assert after.era.nunique() == before.era.nunique() + 1
    same = ["era", *SMALL.features]
    pd.testing.assert_frame_equal(after.loc[before.index, same], before[same])
    resolved = before.target.notna()
    assert after.loc[before.index, "target"][resolved].equals(before.target[resolved])
    assert after.target.notna().sum() > resolved.sum()
    train = [written(SMALL, "train.parquet", tmp_path, week=week).read_bytes() for week in (0, 1)]
    assert train[0] == train[1]


def test_live_ids_are_new_in_every_round(tmp_path: Path) -> None:
    ids = [
        set(pd.read_parquet(written(SMALL, "live.parquet", tmp_path, week, number), columns=["era"]).index)
        for week, number in ((0, 1400), (0, 1401), (1, 1405))
    ]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]


def test_best_reachable_score_is_above_the_benchmark_which_is_above_nothing(files: Path) -> None:
    validation = pd.read_parquet(files / "validation.parquet")
    resolved = validation[validation.target.notna()]
    benchmark = pd.read_parquet(files / "validation_benchmark_models.parquet").loc[resolved.index]
    meta = pd.read_parquet(files / "meta_model.parquet")
    score = era_spearman(benchmark.v53_lgbm_ender60, resolved.target, resolved.era)
    meta_score = era_spearman(meta.numerai_meta_model, resolved.target.loc[meta.index], meta.era)
    oracle = DEFAULT.oracle()
    assert [f"{int(era):04d}" for era in score.index] == list(oracle)
    assert 0.1 < np.mean(list(oracle.values())) < 0.35
    assert np.mean(list(oracle.values())) > score.mean() + 0.02 > 0.1
    assert np.mean(list(oracle.values())) > meta_score.mean() > 0.05


def test_scores_of_neighbouring_eras_share_the_weeks_of_their_targets() -> None:
    market = Market(MarketConfig(features=16, rows_per_era=1500, train_eras=160))
    lag_1, lag_3 = {}, {}
    for target in ("target_ender_20", "target_ender_60"):
        scores = []
        for number in range(1, 161):
            era = market.era(number)
            prediction_N = market._rules.payment_S @ market._signals(era.codes_FN)
            scores.append(float(np.corrcoef(prediction_N, era.targets[target])[0, 1]))
        noise = np.array(scores) - pd.Series(scores).rolling(41, center=True, min_periods=1).mean().to_numpy()
        lag_1[target], lag_3[target] = (float(np.corrcoef(noise[:-k], noise[k:])[0, 1]) for k in (1, 3))
    # 1 - k/4 and 1 - k/12, less what an era's own sampling adds.
    assert 0.4 < lag_1["target_ender_20"] < 0.85
    assert lag_3["target_ender_20"] < 0.4
    assert 0.5 < lag_1["target_ender_60"] < 0.95
    assert lag_3["target_ender_60"] > lag_3["target_ender_20"] + 0.15


def test_a_linear_fit_finds_most_of_the_signal_and_an_untrained_guess_none() -> None:
    eras = [DEFAULT.era(number) for number in range(1, 85)]
    x_NF = np.concatenate([era.codes_FN.T - 2.0 for era in eras])
    weight_F = np.linalg.lstsq(x_NF, np.concatenate([era.targets["target"] for era in eras]) - 0.5, rcond=None)[0]
    scores: list[float] = []
    guesses: list[float] = []
    guess_F = np.random.default_rng(0).standard_normal(len(weight_F))
    for number in range(101, 128):
        era = DEFAULT.era(number)
        for weights, out in ((weight_F, scores), (guess_F, guesses)):
            same = np.zeros(len(era.id_N))
            out.append(float(era_spearman((era.codes_FN.T - 2.0) @ weights, era.targets["target"], same).iloc[0]))
    best = np.mean(list(DEFAULT.oracle().values()))
    assert 0.5 * best < np.mean(scores) < best
    assert abs(np.mean(guesses)) < 0.4 * best


@pytest.mark.parametrize(("rows", "eras"), [(200, 20), (1000, 50), (20_000, 100), (50_000, 100), (2_000_000, 400)])
def test_a_market_has_about_the_rows_that_were_asked_for(rows: int, eras: int) -> None:
    config = MarketConfig.sized(rows=rows)
    market = Market(config)
    assert config.train_eras == eras
    assert sum(map(market.rows_of, range(1, eras + 1))) == pytest.approx(rows, rel=0.02)


def test_any_number_of_features_from_four_on_makes_a_market() -> None:
    for features in (4, 5, 7, 13, 310):
        market = Market(replace(MarketConfig.sized(features=features), rows_per_era=12, train_eras=20))
        era = market.era(1)
        assert era.codes_FN.shape == (features, len(era.id_N))
        assert np.isfinite(era.expected["target"]).all()


def test_sizes_that_make_no_market_are_refused() -> None:
    with pytest.raises(InputError, match="--rows must be at least 200, however 10 was given"):
        MarketConfig.sized(rows=10)
    with pytest.raises(InputError, match="--features must be at least 4, however 3 was given"):
        MarketConfig.sized(features=3)
    with pytest.raises(ValueError, match="train_eras must be at least 20"):
        MarketConfig(train_eras=1)
