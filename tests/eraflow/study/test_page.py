"""A study's page: whole, without a network, plain where nothing can be said, and with lines that work."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eraflow.config import build, to_table
from eraflow.errors import InputError
from eraflow.metric_texts import METRICS, difference_cell, heading_of, text_of, verdict_word
from eraflow.recipes import Recipe
from eraflow.request import named_recipe
from eraflow.store import Store
from eraflow.study.answer import MOST_BYTES, study_answer
from eraflow.study.candidates import fit_and_predict
from eraflow.study.config import StudyConfig
from eraflow.study.page import study_page, write_page
from eraflow.study.plan import plan
from eraflow.study.run import Found, found_of, references_of, run
from eraflow.study.verdict import judge
from eraflow.study.weekly_lines import SLOT, advice, lines_for
from eraflow.uncertainty import difference
from eraflow.weekly_config import Configuration
from tests.eraflow.parsed import Parsed, assert_needs_no_network
from tests.eraflow.study.conftest import SMALL, Made, file_of

MARK = '<b>&"x'
VARIANTS: Mapping[str, Any] = SMALL["variants"] | {
    MARK: {"recipe": "era-pearson", "model": {"hidden": [8]}, "training": {"steps": 4}, "prediction": {"members": 1}}
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, studied_folder: Path) -> Found:
    """Three candidates, one of them with a name that is HTML, and an ensemble."""
    asked = {"recipes": ["ridge", "tiny", MARK], "variants": VARIANTS, "ensembles": {"both": ["ridge", "tiny"]}}
    home = tmp_path_factory.mktemp("page")
    study = plan(
        build(StudyConfig, SMALL | asked),
        store=Store.open(home),
        files=[file_of(studied_folder / name) for name in ("train.parquet", "validation.parquet")],
        features_file=studied_folder / "features.json",
        decoded=home / "decoded",
    )
    return run(study, references_of(study))


def with_scores(found: Found, **of: Any) -> Found:
    """The same study with scores of its deciding metric replaced: candidate -> `[E]` or `[S, E]`."""
    assert found.verdict is not None
    given = {name: np.atleast_2d(np.asarray(value, np.float64)) for name, value in of.items()}
    scores = replace(found.scores, by_metric={found.verdict.metric: given})
    return replace(found, scores=scores, verdict=judge(found.study, scores))


def test_the_page_needs_no_network_and_a_name_is_never_html(found: Found) -> None:
    text = study_page(found)
    assert_needs_no_network(text)
    assert MARK not in text
    parsed = Parsed(text)
    assert "b" not in parsed.tags
    assert parsed.text.count(MARK) > 10


def test_the_same_study_gives_the_same_page_and_no_path_is_on_it(found: Found) -> None:
    text = study_page(found)
    assert study_page(found) == text
    assert str(found.study.folder.parents[1]) not in text
    path = write_page(found)
    assert path == found.study.folder / "report.html"
    assert path.read_text() == text


def test_every_candidate_and_every_metric_is_on_the_page(found: Found) -> None:
    assert found.verdict is not None
    told = Parsed(study_page(found)).text
    assert set(found.verdict.rows) > {"payout", "numerai_corr", "mmc", "bmc", "spearman", "benchmark_corr"}
    for metric, rows in found.verdict.rows.items():
        assert heading_of(metric) in told
        for name, row in rows.items():
            assert name in told
            assert f"{row.interval.mean:.{text_of(metric).decimals}f}".removeprefix("-") in told
    assert found.verdict.sentence in told
    for stored in found.study.stored:
        assert stored.sha256 in told
        assert f"{stored.rows:,}" in told
    for title in (
        "Exposures to features",
        "Learning curves",
        "Correlation of the predictions",
        "Folds",
        "Time",
        "Lines for weekly.toml",
        "Cumulative payout",
        "Payout by era",
        "Drawdown of cumulative payout",
    ):
        assert title in told
    assert "as tiny, but data.era_stride = 4 (1)" in told
    assert "the mean rank of ridge, tiny" in told


def test_what_is_estimated_and_how_many_comparisons_there_are_is_said(found: Found) -> None:
    told = Parsed(study_page(found)).text
    assert "about the recipes, trained anew with other seeds and scored on other eras like these" in told
    assert "3 comparisons with ridge; verdicts are corrected for their number by Holm's method" in told


def test_one_seed_is_said_to_tell_of_these_trained_models_alone(made: Made) -> None:
    told = Parsed(study_page(run(made(seeds=1), {}))).text
    assert "about these trained models on other eras like these: another seed may do better or worse" in told
    assert "1 comparison with ridge." in told
    assert "Holm" not in told


def test_nothing_can_be_said_is_said_as_plainly_as_a_verdict_and_no_value_is_nan(made: Made) -> None:
    target = "target_ender_60"
    found = run(made(target=target, folds={"chunk_eras": 8, "number": 2}), {})
    assert found.verdict is not None
    assert {one.verdict for one in found.verdict.comparisons[found.verdict.metric].values()} == {"undefined"}
    text = study_page(found)
    parsed = Parsed(text)
    assert re.search(r"<h1[^>]*>Nothing can be said", text)
    assert "nothing can be said" in parsed.text
    assert "and at least 2 are needed" in parsed.text
    assert "no interval" in parsed.text
    assert not re.search(r"\bnan\b|\binf\b", parsed.text, re.IGNORECASE)
    assert "None is better than ridge for certain: keep that." in parsed.text


def test_a_candidate_that_is_not_finished_is_shown_with_its_error(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fit_and_predict

    def failing(candidate: Any, *given: Any, **named: Any) -> Any:
        if candidate.name == "tiny":
            raise InputError("it must work, however <i> does not")
        return real(candidate, *given, **named)

    monkeypatch.setattr("eraflow.study.units.fit_and_predict", failing)
    found = run(made(), {})
    told = Parsed(study_page(found)).text
    assert "1 of 2 candidates not finished, and in no table" in told
    assert "tiny: tiny, fold 1, seed 0: it must work, however <i> does not" in told
    assert "tiny 0 of 4" in told
    assert "ridge alone was studied" in told
    monkeypatch.setattr("eraflow.study.units.fit_and_predict", real)
    nothing = run(made(recipes=["tiny"]), {})
    assert "tiny alone was studied" in Parsed(study_page(nothing)).text


def test_a_study_of_which_nothing_is_finished_has_its_page(made: Made) -> None:
    study = made(recipes=["ridge", "tiny"])
    found = found_of(study, {}, {})
    told = Parsed(study_page(found)).text
    assert "No candidate was finished on all folds." in told
    assert "2 of 2 candidates not finished" in told
    assert "tiny, fold 1, seed 0 was not done" in told
    assert "Lines for weekly.toml" not in told
    assert "No candidate was finished" in study_answer(found).sentence


def test_metrics_and_scores_that_nobody_described_go_by_their_own_names(found: Found) -> None:
    strange = replace(found.scores, by_metric=dict(found.scores.by_metric) | {"odd": found.scores.by_metric["bmc"]})
    told = Parsed(study_page(replace(found, scores=strange, verdict=judge(found.study, strange)))).text
    assert "odd" not in METRICS
    assert "Odd candidate mean" in told


def test_the_best_is_advised_only_where_it_is_better_for_certain(found: Found) -> None:
    eras = len(found.scores.era_E)
    noise_E = np.random.default_rng(0).normal(0, 0.01, eras)
    better = with_scores(found, ridge=noise_E, tiny=noise_E + 1.0 + 0.1 * noise_E)
    assert better.verdict is not None
    assert advice(better.study, better.verdict).name == "tiny"
    told = Parsed(study_page(better)).text
    assert "tiny is better than ridge." in told
    assert re.search(r"better, p < 0\.001", told)
    tied = with_scores(found, tiny=noise_E, ridge=-noise_E)
    assert tied.verdict is not None
    kept = advice(tied.study, tied.verdict)
    assert kept.sentences[0] == "None is better than ridge for certain: keep that."
    assert kept.sentences[1] == "ridge is no network: eraflow cannot submit it."
    assert kept.name == "tiny"


@pytest.mark.parametrize("name", ["tiny", MARK, "simple-mlp"])
def test_the_lines_for_weekly_toml_train_what_was_studied(made: Made, name: str) -> None:
    study = made(recipes=[name], variants=VARIANTS)
    candidate = study.candidates[0]
    assert isinstance(candidate, Recipe)
    lines = lines_for(candidate, study.config)
    assert lines is not None
    config = build(Configuration, tomllib.loads(lines)).weekly
    made_again = named_recipe(config.variants, config.slots[SLOT])
    assert replace(made_again, name=name) == candidate


def test_a_recipe_that_was_studied_as_it_is_needs_a_slot_alone(made: Made) -> None:
    study = made(recipes=["simple-mlp"], target="", feature_set="")
    candidate = study.candidates[0]
    assert lines_for(candidate, study.config) == f'[slots]\n{SLOT} = "simple-mlp"\n'


def test_what_cannot_be_submitted_has_no_lines(made: Made) -> None:
    study = made(recipes=["ridge", "lightgbm"])
    assert [lines_for(one, study.config) for one in study.candidates] == [None, None]
    told = Parsed(study_page(run(made(recipes=["ridge"]), {}))).text
    assert "ridge is no network: eraflow cannot submit it." in told
    assert "[slots]" not in told


def test_the_lines_on_the_page_are_those_that_work(found: Found) -> None:
    assert found.verdict is not None
    lines = advice(found.study, found.verdict).lines
    assert lines is not None
    assert " ".join(lines.split()) in Parsed(study_page(found)).text
    shown = "\n".join(line[4:] for line in study_answer(found).markdown.splitlines() if line.startswith("    "))
    assert tomllib.loads(shown) == tomllib.loads(lines)


def test_a_share_of_the_best_reachable_is_a_column_where_it_is_known(found: Found) -> None:
    assert found.verdict is not None
    assert "of the best reachable" not in study_page(found)
    one = found.verdict.rows["spearman"]["ridge"].interval
    share = replace(one, mean=0.49, low=0.31, high=0.66, lacking="")
    known = replace(found, shares={"payout": {"ridge": share}, "spearman": {"tiny": share}})
    told = Parsed(study_page(known)).text
    assert told.count("of the best reachable") == 2
    assert told.count("49 % (31 % to 66 %)") == 2


def test_a_lower_exposure_is_better_and_a_correlation_is_neither() -> None:
    eras = np.arange(100)
    noise_E = np.random.default_rng(0).normal(0, 0.01, 100)
    higher = difference(noise_E + 1, np.zeros(100), eras, horizon_eras=1)
    lower = difference(noise_E - 1, np.zeros(100), eras, horizon_eras=1)
    assert [verdict_word("spearman", one) for one in (higher, lower)] == ["better", "worse"]
    assert [verdict_word("exposure_max", one) for one in (higher, lower)] == ["worse", "better"]
    assert [verdict_word("benchmark_corr", one) for one in (higher, lower)] == ["higher", "lower"]
    undefined = difference(noise_E[:2], np.zeros(2), eras[:2], horizon_eras=12)
    assert "nothing can be said" in difference_cell("spearman", undefined)


def test_the_artifact_says_the_same_within_its_size(found: Found) -> None:
    assert found.verdict is not None
    answer = study_answer(found)
    assert answer.key == "study"
    assert answer.sentence == found.verdict.sentence
    assert len(answer.markdown.encode()) < MOST_BYTES
    assert answer.markdown.count("](data:image/svg+xml;base64,") == 3
    assert "| ridge | " in answer.markdown
    assert [line for line in answer.markdown.splitlines() if MARK in line] == [], "what is in it would be HTML"
    assert {line[:4] for line in answer.markdown.splitlines() if "<b>" in line} == {"    "}, "only code may hold it"
    assert not re.search(r"\bnan\b", answer.markdown)


def test_charts_that_would_make_the_artifact_too_large_are_left_out_and_said(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eraflow.study.answer.MOST_BYTES", 12_000)
    answer = study_answer(found)
    assert len(answer.markdown.encode()) < 13_000
    assert "Too large for the dashboard; the chart is on the study's page." in answer.markdown


def test_the_values_of_a_candidate_are_told_as_toml_writes_their_paths(found: Found) -> None:
    told = Parsed(study_page(found)).text
    recipe = next(one for one in found.study.candidates if one.name == MARK)
    assert "training.steps = 4" in told
    assert to_table(recipe)["training"]["steps"] == 4
    assert "training.epochs = – (1)" in told  # noqa: RUF001
