"""The interval covers what it says on series whose truth is known, and a tie is called a tie."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from eraflow.errors import InputError
from eraflow.uncertainty import (
    MODELS,
    RECIPES,
    Interval,
    difference,
    differences,
    holm,
    interval,
    overlap_sum,
    seed_noise,
)

F64 = npt.NDArray[np.float64]


def overlapping(series: int, eras: int, horizon: int, seed: int = 0) -> F64:
    """Scores of mean 0 and variance 1 that correlate by 1 - k / horizon: sums of what happens in single weeks."""
    week = np.random.default_rng(seed).standard_normal((series, eras + horizon - 1))
    score_SE: F64 = np.lib.stride_tricks.sliding_window_view(week, horizon, axis=1).sum(-1) / np.sqrt(horizon)
    return score_SE


def coverage(score_SE: F64, horizon: int) -> float:
    era_E = np.arange(score_SE.shape[1])
    found = [interval(score_E, era_E, horizon_eras=horizon) for score_E in score_SE]
    return float(np.mean([one.low <= 0 <= one.high for one in found]))


@pytest.mark.parametrize(("eras", "horizon"), [(60, 12), (120, 12), (60, 4)])
def test_an_interval_of_95_percent_covers_in_93_to_98_and_without_the_overlap_in_fewer_than_70(
    eras: int, horizon: int
) -> None:
    score_SE = overlapping(1500, eras, horizon)
    assert 0.93 <= coverage(score_SE, horizon) <= 0.98
    assert coverage(score_SE, 1) < 0.70


def test_two_equal_recipes_are_called_different_in_at_most_7_percent() -> None:
    a_SE, b_SE = overlapping(600, 120, 12, seed=1), overlapping(600, 120, 12, seed=2)
    told = [difference(a, b, range(120), horizon_eras=12).verdict for a, b in zip(a_SE, b_SE, strict=True)]
    assert np.mean([verdict != "tie" for verdict in told]) <= 0.07


def test_the_squared_standard_error_is_on_average_the_variance_of_the_mean() -> None:
    """Short series, where the variance of overlapping scores around their own mean is too small by a fifth."""
    score_SE = overlapping(4000, 60, 12)
    found = [interval(score_E, range(60), horizon_eras=12).standard_error ** 2 for score_E in score_SE]
    assert np.mean(found) == pytest.approx(overlap_sum(np.arange(60), 12) / 60**2, rel=0.05)


def test_one_interval_worked_by_hand() -> None:
    """s = 4 + 2 · 2 · 0.5 = 6, variance = 4 / (4 - 1.5) = 1.6, error = sqrt(1.6 · 6) / 4, degrees = 16 / 6 - 1."""
    found = interval([1, 1, 3, 3], [1, 2, 5, 6], horizon_eras=2)
    assert found.mean == 2
    assert found.standard_error == pytest.approx(math.sqrt(9.6) / 4)
    assert found.degrees_of_freedom == pytest.approx(5 / 3)
    assert found.naive_standard_error == pytest.approx(math.sqrt(4 / 3 / 4))
    assert found.high - 2 == pytest.approx(found.standard_error * stats.t.isf(0.025, 5 / 3))
    assert 2 - found.low == pytest.approx(found.high - 2)


def test_independent_eras_give_the_usual_t_interval() -> None:
    score_E = overlapping(1, 30, 1)[0] + 0.4
    found, usual = interval(score_E, range(30), horizon_eras=1, level=0.9), stats.ttest_1samp(score_E, 0)
    assert (found.low, found.high) == pytest.approx(tuple(usual.confidence_interval(0.9)))
    assert found.p_value == pytest.approx(usual.pvalue)
    assert found.standard_error == pytest.approx(found.naive_standard_error)


@pytest.mark.parametrize("era_E", [range(40), range(0, 160, 4), [1, 2, 5, 9, 10, 11, 30, 77], [7, 3, 5]])
@pytest.mark.parametrize("horizon", [1, 4, 12])
def test_overlap_sum_is_that_of_the_whole_matrix_with_gaps_too(era_E: list[int], horizon: int) -> None:
    weeks = np.abs(np.subtract.outer(np.array(era_E), np.array(era_E)))
    assert overlap_sum(np.array(era_E), horizon) == pytest.approx(np.maximum(0, 1 - weeks / horizon).sum())


def test_every_fourth_era_counts_the_weeks_between() -> None:
    """At a horizon of 4 they no longer overlap; at 12 their neighbours share 2/3 and 1/3."""
    score_E = overlapping(1, 200, 1)[0]
    apart = interval(score_E, range(0, 800, 4), horizon_eras=4)
    assert apart.standard_error == pytest.approx(apart.naive_standard_error)
    near = interval(score_E, range(0, 800, 4), horizon_eras=12)
    assert near.standard_error / near.naive_standard_error == pytest.approx(math.sqrt(3), rel=0.02)


def test_a_nan_era_is_left_out_as_if_it_were_not_there_and_order_does_not_matter() -> None:
    score_E, era_E = overlapping(1, 60, 4)[0], np.arange(60)
    gap_E = (era_E > 20) & (era_E < 33)
    found = interval(np.where(gap_E, np.nan, score_E)[::-1], era_E[::-1], horizon_eras=4)
    without = interval(score_E[~gap_E], era_E[~gap_E], horizon_eras=4)
    assert (found.eras, found.left_out, without.left_out) == (48, 12, 0)
    assert (found.low, found.high, found.standard_error) == pytest.approx(
        (without.low, without.high, without.standard_error)
    )


def test_too_few_eras_have_no_interval_and_say_so() -> None:
    found = interval([0.1, 0.2, 0.3], [1, 2, 3], horizon_eras=12)
    assert not found.defined
    assert found.mean == pytest.approx(0.2)
    assert all(math.isnan(value) for value in (found.low, found.high, found.standard_error, found.p_value))
    assert str(found) == (
        "no interval: 3 eras whose targets reach over 12 are worth 1.1 independent eras, and at least 2 are needed"
    )
    nothing = interval([math.nan], [1], horizon_eras=4)
    assert (nothing.eras, nothing.left_out, math.isnan(nothing.mean)) == (0, 1, True)


def test_a_verdict_of_too_few_eras_is_that_nothing_can_be_said() -> None:
    found = difference([1, 2, 3], [0, 0, 0], [1, 2, 3], horizon_eras=12)
    assert found.verdict == "undefined"
    assert found.sentence("a", "b").startswith("nothing can be said of a against b: no interval: 3 eras")


def test_a_clear_difference_is_found_and_paired() -> None:
    """The eras' own scatter is 50 times the gain, and cancels."""
    shared_E, (own_a, own_b) = 5 * overlapping(1, 120, 12)[0], 0.1 * overlapping(2, 120, 12, seed=1)
    found = difference(shared_E + own_a + 0.1, shared_E + own_b, range(120), horizon_eras=12)
    assert (found.verdict, found.estimated) == ("better", MODELS)
    assert found.interval.low < 0.1 < found.interval.high
    back = difference(shared_E + own_b, shared_E + own_a + 0.1, range(120), horizon_eras=12)
    assert back.verdict == "worse"
    assert back.interval.mean == pytest.approx(-found.interval.mean)
    assert back.sentence("b", "a").startswith("b is worse than a: difference -0.")


def test_equal_predictions_tie_and_rounding_makes_no_winner() -> None:
    score_E = overlapping(1, 60, 4)[0]
    found = difference(score_E + 1e-15, score_E, range(60), horizon_eras=4)
    assert (found.verdict, found.adjusted_p_value) == ("tie", 1)
    assert found.sentence("a", "b").startswith("a and b tie: difference 0.0000")
    assert difference(np.full(60, 0.5), np.zeros(60), range(60), horizon_eras=4).verdict == "better"


def test_several_comparisons_use_the_eras_of_all_and_tell_their_number() -> None:
    scores = dict(zip("abc", overlapping(3, 80, 4), strict=True))
    scores["c"][7] = np.nan
    found = differences(scores, range(80), horizon_eras=4)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {(one.interval.eras, one.interval.left_out, one.comparisons) for one in found.values()} == {(79, 1, 3)}
    assert [one.adjusted_p_value for one in found.values()] == holm([one.interval.p_value for one in found.values()])
    assert "after Holm's correction for 3 comparisons" in found["a", "b"].sentence("a", "b")
    assert list(differences(scores, range(80), horizon_eras=4, against="b")) == [("a", "b"), ("c", "b")]


def test_what_is_significant_alone_may_tie_among_many() -> None:
    base_E, noise_SE = overlapping(1, 200, 4)[0], overlapping(6, 200, 4, seed=3)
    noise_SE -= noise_SE.mean(1, keepdims=True)
    scores = {"base": base_E, **{f"r{i}": base_E + noise_E for i, noise_E in enumerate(noise_SE)}}
    scores["r0"] = scores["r0"] + 2.3 * interval(noise_SE[0], range(200), horizon_eras=4).standard_error
    alone = difference(scores["r0"], base_E, range(200), horizon_eras=4)
    among = differences(scores, range(200), horizon_eras=4, against="base")["r0", "base"]
    assert (alone.verdict, among.verdict, among.comparisons) == ("better", "tie", 6)
    assert among.adjusted_p_value == pytest.approx(6 * alone.adjusted_p_value)
    assert among.interval == alone.interval


def test_holm_counts_comparisons_that_are_undefined() -> None:
    assert holm([0.01, math.nan, 0.04]) == [pytest.approx(0.03), pytest.approx(math.nan, nan_ok=True), 0.08]
    assert holm([]) == []


def crossed(
    seed: int, *, seed_sd: float, folds: int = 4, seeds: int = 3, eras: int = 120
) -> tuple[F64, npt.NDArray[np.int64]]:
    """Scores [S, E] of a recipe of mean 0, and the fold of each era [E]."""
    fold_E = np.arange(eras) * folds // eras
    by_seed = np.random.default_rng(seed).standard_normal((seeds, folds))[:, fold_E]
    by_era, rest = overlapping(1, eras, 4, seed + 10**6), overlapping(seeds, eras, 4, seed + 2 * 10**6)
    return by_era + 0.5 * rest + seed_sd * by_seed, fold_E


def test_seed_noise_and_era_noise_are_told_apart() -> None:
    made = [
        seed_noise(score_SE, range(120), horizon_eras=4, fold_E=fold_E)
        for score_SE, fold_E in (crossed(i, seed_sd=0.4) for i in range(200))
    ]
    assert np.mean([one.seed_sd**2 for one in made]) == pytest.approx(0.16, rel=0.1)
    assert np.mean([one.rest_sd**2 for one in made]) == pytest.approx(0.25, rel=0.1)
    # The seeds' mean moves from fold to fold, and that is in the scatter of eras: 0.16 / 3.
    assert np.mean([one.era_sd**2 for one in made]) == pytest.approx(1.05, rel=0.1)


def test_the_recipes_interval_covers_where_that_of_one_model_does_not() -> None:
    covered, alone = [], []
    for i in range(300):
        score_SE, fold_E = crossed(i, seed_sd=1.0)
        of_recipe = seed_noise(score_SE, range(120), horizon_eras=4, fold_E=fold_E).interval
        of_model = interval(score_SE[0], range(120), horizon_eras=4)
        covered.append(_covers(of_recipe))
        alone.append(_covers(of_model))
    assert 0.92 <= np.mean(covered) <= 0.99
    assert np.mean(alone) < 0.8


def _covers(found: Interval) -> bool:
    return found.low <= 0 <= found.high


def test_one_seed_tells_of_its_model_and_not_of_the_recipe() -> None:
    score_E = overlapping(1, 60, 4)[0]
    found = seed_noise(score_E, range(60), horizon_eras=4)
    assert found.model_standard_error == interval(score_E, range(60), horizon_eras=4).standard_error
    assert str(found.interval) == "no interval: one seed says nothing of another"
    assert math.isnan(found.seed_sd)


def test_seeds_that_agree_add_nothing() -> None:
    score_E = overlapping(1, 60, 4)[0]
    found, alone = (
        seed_noise(np.tile(score_E, (3, 1)), range(60), horizon_eras=4),
        interval(score_E, range(60), horizon_eras=4),
    )
    assert (found.seed_sd, found.rest_sd) == pytest.approx((0, 0), abs=1e-12)
    assert (found.interval.low, found.interval.high) == pytest.approx((alone.low, alone.high))
    assert found.model_standard_error == pytest.approx(alone.standard_error)


def test_a_difference_with_seeds_is_of_the_recipes_and_holds_their_noise() -> None:
    score_SE, fold_E = crossed(1, seed_sd=1.0)
    seedless_E = score_SE.mean(0) - 0.1
    found = difference(score_SE, seedless_E, range(120), horizon_eras=4, fold_E=fold_E)
    assert (found.estimated, found.verdict) == (RECIPES, "tie")
    ignored = difference(score_SE.mean(0), seedless_E, range(120), horizon_eras=4)
    assert (ignored.estimated, ignored.verdict) == (MODELS, "better")
    assert found.interval.mean == pytest.approx(ignored.interval.mean)


@pytest.mark.parametrize(
    ("score", "era", "horizon", "told"),
    [
        ([1.0, 2.0], [1], 4, r"each score must have an era, however the shapes are \(1, 2\) and \(1,\)"),
        ([1.0, 2.0], [1, 1], 4, "some eras are there twice"),
        ([1.0, math.inf], [1, 2], 4, "some are infinite"),
        ([1.0, 2.0], ["1", "x"], 4, "eras must be whole numbers"),
        ([1.0, 2.0], [1, 2], 0, "horizon must be 1 or more"),
        ([[1.0], [2.0]], [1], 4, "one series of scores, however 2 came"),
        ([[[1.0]]], [1], 4, r"\[eras\] or \[seeds, eras\]"),
    ],
)
def test_wrong_scores_and_eras_are_refused(score: list[float], era: list[int], horizon: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        interval(score, era, horizon_eras=horizon)


def test_recipes_that_do_not_match_are_refused() -> None:
    with pytest.raises(InputError, match="the same seeds and eras"):
        difference(np.zeros((2, 9)), np.zeros((3, 9)), range(9), horizon_eras=1)
    with pytest.raises(InputError, match="on the same eras"):
        differences({"a": np.zeros(9), "b": np.zeros(8)}, range(9), horizon_eras=1)
    with pytest.raises(InputError, match="must be one of a, b, however it is c"):
        differences({"a": np.zeros(9), "b": np.zeros(9)}, range(9), horizon_eras=1, against="c")
    with pytest.raises(InputError, match="each era must have a fold"):
        seed_noise(np.zeros((2, 9)), range(9), horizon_eras=1, fold_E=[1, 2])
