"""A study of recipes with extra targets: refused early, purged by the longest horizon, and apart from the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eraflow.errors import InputError
from eraflow.study.plan import Study
from eraflow.study.run import run
from tests.eraflow.study.conftest import Made

TINY = {"recipe": "simple-mlp", "model": {"hidden": [8]}, "training": {"epochs": 1}}


def of_targets(made: Made, *extra: str, **changed: Any) -> Study:
    """A study of `tiny` and of `both`, which learns `extra` beside the target."""
    variants = {"tiny": TINY, "both": TINY | {"data": {"extra_targets": list(extra)}}}
    return made(**{"recipes": ["tiny", "both"], "seeds": 1, "variants": variants} | changed)


def test_a_recipe_with_an_extra_target_is_compared_on_the_target_alone(made: Made) -> None:
    study = of_targets(made, "target_ender_60")
    tiny, both = study.candidates
    rows = study.rows(both)
    assert (study.rows(tiny).n_targets, rows.n_targets) == (1, 2)
    np.testing.assert_array_equal(rows.target_M, study.rows(tiny).target_M)
    known = np.concatenate([one.column("target_ender_60")[~np.isnan(one.column(study.target))] for one in study.stored])
    era_M = np.concatenate([one.era_N[~np.isnan(one.column(study.target))] for one in study.stored])
    np.testing.assert_array_equal(rows.extra_MX[:, 0], known[np.argsort(era_M, kind="stable")])
    found = run(study, {})
    assert not found.scores.unfinished
    score = {name: found.scores.by_metric["spearman"][name] for name in ("tiny", "both")}
    assert score["tiny"].shape == score["both"].shape
    assert not np.array_equal(score["tiny"], score["both"], equal_nan=True)


def test_one_that_reaches_further_purges_more_of_its_own_recipe_and_of_no_other(made: Made) -> None:
    study, near = of_targets(made, "target_ender_60"), of_targets(made, "target_jasper_20")
    for unit in study.units:
        start = unit.fold.validation_E[0]
        purged = 16 if unit.candidate.name == "both" else 8
        assert study.training_eras(unit)[-1] == start - purged - 1
    assert {near.training_eras(unit)[-1] - unit.fold.validation_E[0] for unit in near.units} == {-9}
    keys = [{unit.key for unit in each.units if unit.candidate.name == "tiny"} for each in (study, near)]
    assert keys[0] == keys[1]
    assert not {unit.key for unit in study.units} - keys[0] & {unit.key for unit in near.units}


def test_a_purge_that_is_given_is_of_the_studys_target_and_not_of_the_extra_ones(made: Made) -> None:
    given = of_targets(made, "target_ender_60", folds={"chunk_eras": 15, "number": 2, "purge_eras": 10})
    for unit in given.units:
        purged = 16 if unit.candidate.name == "both" else 10
        assert given.training_eras(unit)[-1] == unit.fold.validation_E[0] - purged - 1


def test_what_cannot_be_learned_is_refused_before_any_training(made: Made) -> None:
    with pytest.raises(
        InputError, match=r"extra_targets of both must be among .*'target_endr_60' was given; did you mean"
    ):
        of_targets(made, "target_endr_60")
    with pytest.raises(InputError, match="extra_targets of rival must be empty, because only networks"):
        made(recipes=["rival"], variants={"rival": {"recipe": "ridge", "data": {"extra_targets": ["target_ender_60"]}}})
    with pytest.raises(InputError, match="training eras must lie more than 16 eras from the validation eras"):
        of_targets(made, "target_ender_60", folds={"chunk_eras": 60, "number": 1})
