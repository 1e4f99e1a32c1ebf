"""Tests of `eraflow.rehearsal.study_market`, `study_rules`, `market_oracle` and `market_files.write_market`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from eraflow.errors import InputError
from eraflow.prepared import NUMERAI_CORR, PreparedScores
from eraflow.rehearsal.market_files import ROUND_FILES, TRAIN_FILES, WEEK_FILES, write_market
from eraflow.rehearsal.market_oracle import ORACLES, SCORES, oracles
from eraflow.rehearsal.study_market import CONFIG_FILE, StudyMarket, read_market
from eraflow.rehearsal.study_rules import StudyConfig

F64 = npt.NDArray[np.float64]
QUICK = StudyMarket(StudyConfig.quick())
LAST = QUICK.last_era(0)
# Nothing drifts, so that what is left of a feature's correlation is luck.
STEADY = StudyMarket(
    StudyConfig(
        features=40, train_eras=200, validation_eras=200, rows_per_era=600, drift=0.0, turn=0.0, level=0.0, decay=1.0
    )
)


@pytest.fixture(scope="module")
def best() -> dict[str, pd.DataFrame]:
    """The oracles of every second era that has all features."""
    return oracles(QUICK, range(31, LAST + 1, 2), neutral=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "market"
    write_market(QUICK, folder)
    return folder


def feature_corr(market: StudyMarket, number: int, column: str) -> F64:
    era = market.era(number)
    x_FN = era.codes_FN - era.codes_FN.mean(1, keepdims=True)
    target_N = era.targets[column] - era.targets[column].mean()
    length_F = np.sqrt((x_FN**2).sum(1) * (target_N**2).sum())
    return np.asarray((x_FN @ target_N) / length_F, dtype=np.float64)


def test_an_era_depends_on_the_seed_and_its_number_alone() -> None:
    alone = StudyMarket(StudyConfig.quick()).era(77)
    larger = StudyMarket(replace(QUICK.config, validation_eras=60))
    for number in (1, 40, 76):
        larger.era(number)
    # The stops are placed by the number of eras, and rows and features must not be.
    np.testing.assert_array_equal(larger.era(77).codes_FN, alone.codes_FN)
    again = QUICK.era(77)
    assert again.id_N == alone.id_N
    for column in QUICK.targets:
        np.testing.assert_array_equal(again.targets[column], alone.targets[column])
    assert not np.array_equal(StudyMarket(StudyConfig.quick(seed=1)).era(77).codes_FN[:, :50], alone.codes_FN[:, :50])


def test_stocks_of_neighbouring_weeks_are_the_same_ones() -> None:
    """By features that wander slowly: the nearest stock of the next era is much nearer than that of a year later."""
    codes_FN = {number: QUICK.era(number).codes_FN.astype(np.float64) for number in (50, 51, 100)}
    one_F = codes_FN[50][:, 0]
    nearest = {number: np.abs(codes_FN[number] - one_F[:, None]).mean(0).min() for number in (51, 100)}
    assert nearest[51] < 0.25 < 0.6 < nearest[100]


def test_features_have_five_equal_bins_and_targets_the_documented_shares() -> None:
    era = QUICK.era(60)
    shares = [(era.codes_FN == code).mean() for code in range(5)]
    np.testing.assert_allclose(shares, 0.2, atol=0.02)
    shares = [(era.targets["target"] == value).mean() for value in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(shares, [0.05, 0.2, 0.5, 0.2, 0.05], atol=0.002)


def test_a_feature_that_stops_has_no_correlation_with_the_target_after_its_era() -> None:
    assert QUICK.stops
    for name, stop in QUICK.stops.items():
        one = QUICK.features.index(name)
        assert 0.4 * LAST < stop < 0.8 * LAST
        spans = (range(20, stop - 3), range(stop, LAST + 1))
        before_E, after_E = (
            np.array([feature_corr(QUICK, number, "target_ender_20")[one] for number in span]) for span in spans
        )
        # Four weeks of the target overlap, so a quarter of the eras counts.
        assert abs(before_E.mean()) > 4 * before_E.std() / (len(before_E) / 4) ** 0.5
        assert abs(after_E.mean()) < 2.5 * after_E.std() / (len(after_E) / 4) ** 0.5
        assert QUICK.learnable(stop - 1, "target_ender_20")[0] != 0
        assert QUICK.learnable(stop, "target_ender_60")[0] == 0


@pytest.mark.parametrize(("column", "horizon"), [("target_ender_20", 4), ("target_ender_60", 12)])
def test_scores_are_autocorrelated_as_their_horizons_overlap(column: str, horizon: int) -> None:
    """1 - k / horizon, less what five bins lose of a return's neighbourhood: at most 0.17."""
    corr_EF = np.array([feature_corr(STEADY, number, column) for number in range(51, 401)])
    lasting = [name not in STEADY.stops for name in STEADY.features]
    noise_EF = (corr_EF - corr_EF.mean(0))[:, lasting]
    for lag in (1, 2, 3, horizon):
        found = float(np.mean((noise_EF[lag:] * noise_EF[:-lag]).mean(0) / (noise_EF**2).mean(0)))
        assert -0.17 < found - max(0.0, 1 - lag / horizon) < 0.05


def test_the_oracle_is_above_what_is_linear_what_is_known_late_and_both_models(best: dict[str, pd.DataFrame]) -> None:
    assert list(best) == list(ORACLES)
    mean = {name: table.mean() for name, table in best.items()}
    for score in (*SCORES, "fnc"):
        assert mean["best"][score] > mean["linear"][score] > 0
        assert mean["best"][score] > mean["fixed"][score] > 0
        assert mean["fixed"][score] > mean["fixed_linear"][score]
    found = []
    for number in range(31, LAST + 1, 2):
        era = QUICK.era(number)
        scores = PreparedScores(era.targets["target_ender_20"], np.zeros(len(era.id_N), np.int64))
        both_N2 = np.column_stack([QUICK.benchmark(era, "target_ender_20"), QUICK.meta_model(era)])
        found.append(scores(both_N2, (NUMERAI_CORR,))[NUMERAI_CORR][0])
    for one in np.mean(found, axis=0):
        assert mean["best"][NUMERAI_CORR] > one + 0.02
        assert one > 0.03


def test_each_score_has_a_prediction_of_its_own_that_is_best(best: dict[str, pd.DataFrame]) -> None:
    """The prediction that is best for CORR contributes less than the one that is made to contribute."""
    contributed = []
    for number in range(31, LAST + 1, 2):
        era = QUICK.era(number)
        target_N = era.targets["target_ender_20"]
        references = {"mmc": QUICK.meta_model(era), "bmc": QUICK.benchmark(era, "target_ender_20")}
        scores = PreparedScores(target_N, np.zeros(len(target_N), np.int64), references)(
            era.expected["target_ender_20"]
        )
        pay = 3 * scores[NUMERAI_CORR][0] + 15 * scores["mmc"][0]
        contributed.append([scores["mmc"][0], scores["bmc"][0], pay])
    mean = best["best"].mean()
    for score, one in zip(("mmc", "bmc", "payout"), np.mean(contributed, axis=0), strict=True):
        assert mean[score] > one > 0


def test_the_linear_oracle_is_the_least_squares_fit_of_the_expected_return() -> None:
    paid_S = QUICK.learnable(60, "target_ender_20")
    eras = [QUICK.era(number) for number in range(31, LAST + 1, 3)]
    x_NF = np.concatenate([era.codes_FN.T - 2.0 for era in eras])
    expected_N, linear_N = (
        np.concatenate([paid_S @ QUICK.signals(era.codes_FN, linear=linear) for era in eras])
        for linear in (False, True)
    )
    fit_N = x_NF @ np.linalg.lstsq(x_NF, expected_N, rcond=None)[0]
    assert np.corrcoef(fit_N, linear_N)[0, 1] > 0.99
    assert 0.6 < np.corrcoef(expected_N, linear_N)[0, 1] < 0.9


def test_fixed_oracles_know_no_more_than_they_are_told() -> None:
    stop = next(iter(QUICK.stops.values()))
    before, after = range(1, stop - 15), range(stop, LAST)
    assert QUICK.average_learnable("target_ender_20", before)[0] != 0
    assert QUICK.average_learnable("target_ender_20", after)[0] == 0
    late = oracles(QUICK, [LAST], known=after)["fixed"]
    assert not late.equals(oracles(QUICK, [LAST], known=before)["fixed"])


def test_all_files_are_written_in_the_layout_of_the_real_ones(files: Path) -> None:
    assert {path.name for path in files.iterdir()} == {*TRAIN_FILES, *WEEK_FILES, *ROUND_FILES, CONFIG_FILE}
    train, validation, live = (pd.read_parquet(files / f"{name}.parquet") for name in ("train", "validation", "live"))
    assert list(train.columns) == ["era", "data_type", *QUICK.features, *QUICK.targets] == list(live.columns)
    assert train.era.nunique() == 70
    assert validation.era.nunique() == 50
    assert len({*train.index, *validation.index, *live.index}) == len(train) + len(validation) + len(live)
    resolved = validation[validation.target.notna()]
    meta = pd.read_parquet(files / "meta_model.parquet")
    assert set(meta.index) <= set(resolved.index)
    era = QUICK.era(71)
    here = validation[validation.era == "0071"]
    np.testing.assert_array_equal(here[list(QUICK.features)].to_numpy().T, era.codes_FN)


def test_a_folder_of_a_market_for_studies_makes_the_same_market_again(files: Path, tmp_path: Path) -> None:
    again = read_market(files)
    assert again is not None
    assert again == QUICK
    assert read_market(tmp_path) is None
    for text in ("{", json.dumps({"colour": "red"}), json.dumps({"features": 8}), "3"):
        (tmp_path / CONFIG_FILE).write_text(text)
        with pytest.raises(InputError, match="market for studies"):
            read_market(tmp_path)


@pytest.mark.parametrize("features", [40, 47, 60, 310, 780])
def test_any_number_of_features_from_forty_on_makes_a_market(features: int) -> None:
    config = StudyConfig(features=features, rows_per_era=20, train_eras=20, validation_eras=20)
    market = StudyMarket(config)
    era = market.era(39)
    assert era.codes_FN.shape[0] == features
    assert np.isfinite(market.meta_model(era)).all()
    assert (market.learnable(1, "target") != 0).all()
    live = market.live(0, 1400)
    assert not set(live.id_N) & set(market.era(41).id_N)
    assert live.codes_FN.shape == market.era(41).codes_FN.shape


def test_a_market_for_studies_with_too_few_features_is_refused() -> None:
    with pytest.raises(InputError, match="at least 40 features, however 39 were given"):
        StudyConfig(features=39)
