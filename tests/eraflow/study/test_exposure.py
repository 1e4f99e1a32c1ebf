"""What a study says of exposures and ensembles is what the plain functions say of the same predictions."""

from __future__ import annotations

import numpy as np
import pytest

from eraflow.errors import InputError
from eraflow.metrics import era_spearman, feature_exposure, feature_neutral_corr
from eraflow.neutral import exposures
from eraflow.predictions import ensemble
from eraflow.study import exposure
from eraflow.study.run import Found, references_of, run
from tests.eraflow.study.conftest import Made


def codes(found: Found, features: list[str], era: int) -> np.ndarray:
    rows = found.study.rows_of(features)
    index_M = np.flatnonzero(rows.era_M == era)
    code_MF = np.empty((len(index_M), rows.n_features), np.int8)
    rows.gather(index_M, code_MF)
    return code_MF


def test_exposures_and_neutral_corr_are_those_of_the_plain_metrics(made: Made) -> None:
    found = run(made(), {})
    study, era = found.study, int(found.scores.era_E[3])
    unit = next(unit for unit in study.units if unit.candidate.name == "tiny" and unit.seed == 1)
    rows = study.rows_of(study.features)
    rows = rows.take(np.flatnonzero(np.isin(rows.era_M, unit.fold.validation_E)))
    here_M = rows.era_M == era
    prediction_M, target_M = found.done[unit.key].prediction_M[here_M], rows.target_M[here_M]
    code_MF, era_M = codes(found, study.features, era), np.zeros(here_M.sum(), int)
    table = {name: found.scores.by_metric[name]["tiny"][1, 3] for name in exposure.NAMES}
    assert table["exposure_max"] == pytest.approx(feature_exposure(prediction_M, code_MF, era_M).iloc[0])
    square_F = exposures(prediction_M[:, None], code_MF) ** 2
    assert table["exposure_rms"] == pytest.approx(np.sqrt(np.nanmean(square_F)))
    neutral_MF = codes(found, study.neutral_features, era)
    assert neutral_MF.shape[1] == 6  # of the 8 features
    assert table["fnc"] == pytest.approx(feature_neutral_corr(prediction_M, neutral_MF, target_M, era_M).iloc[0])


def test_exposures_are_computed_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(made(), {})

    def never(*given: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(exposure, "_computed", never)
    again = run(made(), {})
    assert np.array_equal(first.scores.by_metric["fnc"]["tiny"], again.scores.by_metric["fnc"]["tiny"])


def test_the_correlation_with_the_benchmark_is_their_spearman_by_era(made: Made) -> None:
    study = made()
    found = run(study, references_of(study))
    unit = next(unit for unit in study.units if unit.candidate.name == "ridge")
    rows = study.rows_of(study.features)
    chosen_M = np.isin(rows.era_M, unit.fold.validation_E)
    benchmark_M = study.in_order(references_of(study)["bmc"])[chosen_M]
    expected = era_spearman(found.done[unit.key].prediction_M, benchmark_M, rows.era_M[chosen_M])
    here_E = np.isin(found.scores.era_E, unit.fold.validation_E)
    assert np.allclose(found.scores.by_metric["benchmark_corr"]["ridge"][0, here_E], expected.to_numpy())


def test_an_ensemble_is_the_mean_rank_of_its_members_seed_by_seed_and_costs_no_unit(made: Made) -> None:
    study = made(ensembles={"both": ["ridge", "tiny"]})
    assert {unit.candidate.name for unit in study.units} == {"ridge", "tiny"}
    found = run(study, {})
    units = {(unit.candidate.name, unit.seed): unit for unit in study.units if unit.fold.number == 2}
    rows = study.rows_of(study.features)
    rows = rows.take(np.flatnonzero(np.isin(rows.era_M, units["ridge", 0].fold.validation_E)))
    members = [found.done[units[key].key].prediction_M for key in (("ridge", 0), ("tiny", 1))]
    expected = era_spearman(ensemble(members, rows.era_M), rows.target_M, rows.era_M)
    here_E = np.isin(found.scores.era_E, units["ridge", 0].fold.validation_E)
    assert found.scores.by_metric["spearman"]["both"].shape[0] == 2
    assert np.allclose(found.scores.by_metric["spearman"]["both"][1, here_E], expected.to_numpy(), atol=1e-6)
    assert found.verdict is not None
    assert "both" in found.verdict.comparisons["spearman"]


@pytest.mark.parametrize(
    ("ensembles", "text"),
    [
        ({"both": ["ridge"]}, "two or more of the recipes, however it has 1"),
        ({"both": ["ridge", "other"]}, "however other is none of them"),
        ({"tiny": ["ridge", "tiny"]}, "a name of its own"),
    ],
)
def test_an_ensemble_that_means_nothing_is_refused(made: Made, ensembles: dict[str, list[str]], text: str) -> None:
    with pytest.raises(InputError, match=text):
        made(ensembles=ensembles)
