"""A study: refused early where it means nothing, every unit done once, and one table for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eraflow.errors import InputError
from eraflow.metrics import contribution, era_spearman, numerai_corr
from eraflow.study import units
from eraflow.study.candidates import fit_and_predict
from eraflow.study.plan import open_study
from eraflow.study.run import references_of, run
from eraflow.study.units import do, find
from tests.eraflow.study.conftest import Made


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"recipes": ["ridge", "simple-mpl"]}, r"'simple-mpl' was given; did you mean simple-mlp\?"),
        ({"recipes": ["ridge", "ridge"]}, "ridge is there twice"),
        ({"recipes": ["ridge", "era-pearson"], "target": ""}, "must predict one target, however they differ"),
        ({"target": "target_none_20"}, "'target_none_20' was asked for"),
        ({"feature_set": "enormous"}, "'enormous' was given"),
        ({"folds": {"chunk_eras": 40, "number": 2}}, "fold 1"),
        ({"folds": {"chunk_eras": 15, "number": 2, "purge_eras": 60}}, "the purge of 60 takes all"),
        ({"folds": {"chunk_eras": 15, "last_era": 80, "reserved_from": 70}}, "reserved"),
        ({"reserve": True}, "however nothing is reserved"),
        ({"baseline": "other"}, "baseline must be one of the recipes"),
        ({"variants": {"tiny": {"recipe": "simple-mlp", "model": {"hiden": [8]}}}}, "unknown key variants.tiny.model"),
        ({"variants": {"tiny": {}}}, "variants.tiny.recipe must name"),
    ],
)
def test_a_study_that_means_nothing_is_refused_before_any_training(
    made: Made, changed: dict[str, Any], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        made(**changed)


def test_a_finished_unit_is_never_done_again_and_one_more_recipe_costs_one_more_recipe(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    real = fit_and_predict

    def counted(candidate: Any, *given: Any, **named: Any) -> Any:
        fitted.append(candidate.name)
        return real(candidate, *given, **named)

    monkeypatch.setattr("eraflow.study.units.fit_and_predict", counted)
    study = made()
    first = run(study, {})
    assert sorted(fitted) == ["ridge"] * 2 + ["tiny"] * 4
    run(open_study(study.folder), {})
    wider = run(made(recipes=["ridge", "tiny", "lightgbm"], seeds=2), {})
    assert fitted[6:] == ["lightgbm"] * 4
    for name in ("ridge", "tiny"):
        assert np.array_equal(
            first.scores.by_metric["spearman"][name], wider.scores.by_metric["spearman"][name], equal_nan=True
        )


def test_a_unit_that_is_damaged_is_done_again(made: Made) -> None:
    study = made()
    done = do(study, study.units[0])
    (done.folder / units.TOLD).write_text("{")
    assert find(study, study.units[0]) is None
    again = do(study, study.units[0])
    assert np.array_equal(again.prediction_M, done.prediction_M)


def test_the_table_is_that_of_the_plain_metrics(made: Made) -> None:
    study = made()
    references = references_of(study)
    found = run(study, references)
    unit = next(unit for unit in study.units if unit.candidate.name == "tiny" and unit.seed == 1)
    rows = study.rows(unit.candidate)
    rows = rows.take(np.flatnonzero(np.isin(rows.era_M, unit.fold.validation_E)))
    prediction_M = found.done[unit.key].prediction_M
    here = np.isin(found.scores.era_E, unit.fold.validation_E)
    for name, plain in (
        ("spearman", era_spearman(prediction_M, rows.target_M, rows.era_M)),
        ("numerai_corr", numerai_corr(prediction_M, rows.target_M, rows.era_M)),
    ):
        assert np.allclose(found.scores.by_metric[name]["tiny"][1, here], plain.to_numpy(), atol=1e-12)
    whole = study.rows(unit.candidate)
    meta_M = study.in_order(references["mmc"])[np.isin(whole.era_M, unit.fold.validation_E)]
    expected = contribution(prediction_M, meta_M, rows.target_M, rows.era_M).to_numpy()
    assert np.allclose(found.scores.by_metric["mmc"]["tiny"][1, here], expected, atol=1e-12, equal_nan=True)
    payout_E = found.scores.by_metric["payout"]["tiny"][1]
    both_E = 3 * found.scores.by_metric["numerai_corr"]["tiny"][1] + 15 * found.scores.by_metric["mmc"]["tiny"][1]
    assert np.allclose(payout_E, np.clip(both_E, -1, 1), equal_nan=True)


def test_a_unit_that_fails_is_told_and_its_recipe_gets_no_verdict(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fit_and_predict

    def failing(candidate: Any, *given: Any, **named: Any) -> Any:
        if candidate.name == "tiny" and named["seed"] % 1000 == 1:
            raise InputError("it must work, however it does not")
        return real(candidate, *given, **named)

    monkeypatch.setattr("eraflow.study.units.fit_and_predict", failing)
    found = run(made(), {})
    assert list(found.scores.unfinished) == ["tiny"]
    assert "tiny, fold 1, seed 1: it must work" in found.scores.unfinished["tiny"]
    assert found.verdict is not None
    assert list(found.verdict.rows["spearman"]) == ["ridge"]


def test_the_reserve_is_validated_only_when_it_is_asked_for_by_name(made: Made) -> None:
    folds = {"chunk_eras": 15, "number": 2, "reserved_from": 71}
    before = made(folds=folds)
    assert max(fold.validation_E[-1] for fold in before.folds) == 71 - 8 - 1  # and not the purge before it
    reserve = made(folds=folds, reserve=True)
    assert [fold.validation_E[[0, -1]].tolist() for fold in reserve.folds] == [[71, 76]]
    assert set(run(reserve, {}).scores.era_E) == set(range(71, 77))
    assert {unit.key for unit in reserve.units}.isdisjoint(unit.key for unit in before.units)


def test_a_study_of_noise_calls_nothing_better(made: Made) -> None:
    found = run(made(recipes=["tiny", "wide"], variants={
        "tiny": {"recipe": "simple-mlp", "model": {"hidden": [8]}, "training": {"epochs": 1}},
        "wide": {"recipe": "simple-mlp", "model": {"hidden": [9]}, "training": {"epochs": 1}},
    }), {})  # fmt: skip
    assert found.verdict is not None
    assert found.verdict.metric == "numerai_corr"
    assert "wide" in found.verdict.comparisons["numerai_corr"]
    assert found.verdict.sentence.endswith(".")


def test_a_unit_leaves_nothing_but_its_prediction(made: Made) -> None:
    study = made()
    done = do(study, next(unit for unit in study.units if unit.candidate.name == "tiny"))
    assert sorted(path.name for path in done.folder.iterdir()) == ["prediction.npy", "unit.json"]
    assert not [path for path in done.folder.parent.iterdir() if path.name.endswith(".part")]


def test_each_fold_draws_its_seeds_anew(made: Made) -> None:
    units = [unit for unit in made().units if unit.candidate.name == "tiny"]
    assert len({unit.drawn for unit in units}) == len(units) == 4


def test_the_horizon_of_the_intervals_may_be_given_for_eras_that_are_no_weeks(made: Made) -> None:
    weekly, own = run(made(), {}), run(made(horizon_eras=1), {})
    assert weekly.verdict is not None
    assert own.verdict is not None
    wide, narrow = (found.verdict.rows["spearman"]["ridge"].interval for found in (weekly, own))  # type: ignore[union-attr]
    assert (wide.horizon_eras, narrow.horizon_eras) == (4, 1)
    assert narrow.standard_error == pytest.approx(narrow.naive_standard_error)
    assert wide.standard_error > 1.5 * wide.naive_standard_error


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"variants": {"ridge": {"recipe": "simple-mlp"}}}, r"variants\.ridge must have a name of its own"),
        ({"ensembles": {"lightgbm": ["ridge", "tiny"]}}, r"ensembles\.lightgbm must have a name of its own"),
        ({"ensembles": {"both": ["ridge", "ridge"]}}, r"ensembles\.both must name each of its members once"),
        (
            {"recipes": ["ridge"], "variants": {"unused": {"recipe": "simple-mlp", "model": {"hiden": [8]}}}},
            r"unknown key variants\.unused\.model\.hiden",
        ),
        ({"benchmark": "v53_lgbm_endr20"}, r"benchmark must be one of .*; did you mean v53_lgbm_ender20\?"),
    ],
)
def test_a_name_that_would_mislead_is_refused_whether_it_is_studied_or_not(
    made: Made, changed: dict[str, Any], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        made(**changed)


def test_a_seed_of_a_variant_makes_no_other_unit_because_the_study_draws_them(made: Made) -> None:
    variants = {name: {"recipe": "simple-mlp", "training": {"seed": seed}} for name, seed in (("a", 0), ("b", 7))}
    units = made(recipes=["a", "b"], variants=variants).units
    assert {unit.key for unit in units if unit.candidate.name == "a"} == {
        unit.key for unit in units if unit.candidate.name == "b"
    }


def test_files_of_the_cache_that_are_damaged_are_made_again(made: Made) -> None:
    first = run(made(), {})
    home = first.study.folder.parent
    for path in [*home.glob("units/*/prediction.npy"), *home.glob("exposures/*.npy")]:
        path.write_bytes(b"")
    again = run(made(), {})
    for metric, table in first.scores.by_metric.items():
        for name, score_SE in table.items():
            assert np.array_equal(score_SE, again.scores.by_metric[metric][name], equal_nan=True)


def test_payout_does_not_decide_where_few_eras_have_a_meta_model(made: Made) -> None:
    study = made()
    references = references_of(study)
    known_E = np.concatenate(
        [one.era_N[~np.isnan(meta_N)] for one, meta_N in zip(study.stored, references["mmc"], strict=True)]
    )
    late_E = np.intersect1d(known_E, study.folds[-1].validation_E)[-3:]
    late = [
        np.where(np.isin(one.era_N, late_E), meta_N, np.nan)
        for one, meta_N in zip(study.stored, references["mmc"], strict=True)
    ]
    whole, few = run(study, references).verdict, run(study, references | {"mmc": late}).verdict
    assert whole is not None
    assert few is not None
    assert (whole.metric, few.metric) == ("payout", "numerai_corr")
    assert few.rows["payout"]["ridge"].interval.eras == 3
