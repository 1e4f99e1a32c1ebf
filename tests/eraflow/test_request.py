"""What a run is asked to do, judged before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eraflow import recipes
from eraflow.errors import InputError
from eraflow.request import DEFAULT_RECIPE, Request, make_request, recipe_names, wanted_recipe
from eraflow.weekly_config import WeeklyConfig

CONFIG = """
data_version = "v5.3"
[slots]
first = "simple-mlp"
second = "fastai-tabular"
third = "simple-mlp"
[submission]
late = "submit"
readback_s = 5
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "weekly.toml"
    path.write_text(CONFIG)
    return path


def asked(**given: Any) -> Request:
    return make_request(home=Path("/home"), **given)


def test_slots_and_policies_come_from_the_configuration(config_file: Path) -> None:
    request = asked(config_file=config_file)
    assert dict(request.config.slots) == {"first": "simple-mlp", "second": "fastai-tabular", "third": "simple-mlp"}
    assert (request.config.submission.late, request.config.submission.readback_s) == ("submit", 5.0)
    assert recipe_names(request) == ["simple-mlp", "fastai-tabular"], "each once"


def test_named_slots_are_the_only_ones_and_keep_their_recipes(config_file: Path) -> None:
    request = asked(config_file=config_file, slots=["second", "second"])
    assert dict(request.config.slots) == {"second": "fastai-tabular"}


def test_a_recipe_flag_overrides_that_of_the_slots_named(config_file: Path) -> None:
    request = asked(config_file=config_file, slots=["first", "new"], recipe="era-pearson")
    assert dict(request.config.slots) == {"first": "era-pearson", "new": "era-pearson"}


def test_without_a_configuration_slot_and_recipe_suffice() -> None:
    assert dict(asked(slots=["one"], recipe="simple-mlp").config.slots) == {"one": "simple-mlp"}
    assert dict(asked(slots=["one"]).config.slots) == {"one": DEFAULT_RECIPE}
    assert DEFAULT_RECIPE in recipes.RECIPES


def test_without_slots_and_submission_the_recipe_is_trained_all_the_same() -> None:
    assert recipe_names(asked(submit=False, recipe="simple-mlp")) == ["simple-mlp"]
    assert recipe_names(asked(submit=False)) == [DEFAULT_RECIPE]


@pytest.mark.parametrize(
    ("submit", "data_from", "offline"), [(True, False, False), (True, True, False), (False, False, False),
                                         (False, True, True)],
)  # fmt: skip
def test_only_own_files_without_submission_ask_no_tournament(
    tmp_path: Path, submit: bool, data_from: bool, offline: bool
) -> None:
    request = asked(slots=["one"], submit=submit, data_from=tmp_path if data_from else None)
    assert request.offline is offline


def test_an_override_reaches_every_recipe_and_the_configuration(config_file: Path) -> None:
    request = asked(
        config_file=config_file,
        assignments={"training.seed": "7", "submission.late": "skip", "slots.second": "era-pearson"},
    )
    assert wanted_recipe(request, "simple-mlp").training.seed == 7
    assert wanted_recipe(request, "era-pearson").training.seed == 7
    assert request.config.submission.late == "skip"
    assert request.config.slots["second"] == "era-pearson"


def test_one_request_never_changes_the_next() -> None:
    asked(slots=["one"], assignments={"slots.one": "simple-mlp", "training.seed": "7"})
    fresh = asked(submit=False)
    assert dict(fresh.config.slots) == {}
    assert wanted_recipe(fresh, "simple-mlp") == recipes.get("simple-mlp")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, r"no slot to submit for; name one with --model, or under \[slots\] of /home/weekly\.toml"
             r" \(copy deployments/weekly\.toml\), or give --no-submit"),
        ({"slots": ["one"], "recipe": "ridge"}, "'ridge' was given; ridge and lightgbm exist in studies only"),
        ({"slots": ["one"], "recipe": "best"}, "a recipe must be one of simple-mlp, .*, however 'best' was given"),
        ({"slots": ["one"], "resubmit": True, "submit": False}, "--resubmit and --no-submit exclude each other"),
        ({"slots": ["one"], "assignments": {"trainig.epochs": "6"}},
         r"unknown key trainig\.epochs in --set; did you mean training\?"),
        ({"slots": ["one"], "assignments": {"zzz": "6"}},
         "unknown key zzz in --set; known are data, model, training, prediction, data_version, slots, variants,"),
        ({"slots": ["one"], "recipe": "simple-mlp", "assignments": {"training.epoch": "6"}},
         r"unknown key training\.epoch; did you mean epochs\?"),
        ({"slots": ["one"], "recipe": "simple-mlp", "assignments": {"training.epochs": "many"}},
         r"training\.epochs must be a whole number, however 'many' was given"),
        ({"slots": ["one"], "recipe": "simple-mlp", "assignments": {"training.epochs": "-1"}},
         "training: exactly one of epochs and steps must be above 0"),
        ({"slots": ["one"], "recipe": "simple-mlp", "assignments": {"training.betas": "[0.9]"}},
         r"training\.betas must be a list of 2 values, however \[0\.9\] was given"),
        ({"slots": ["one"], "assignments": {"training": "6"}}, "training must be a table, however 6 was given"),
        ({"slots": ["one"], "assignments": {"submission.late": "maybe"}},
         r"submission\.late must be one of skip, submit, however 'maybe' was given"),
        ({"slots": ["one"], "assignments": {"submission.readback_s": "-1"}}, "submission.readback_s must be 0 to"),
        ({"slots": ["one"], "data_from": Path("/none")}, "--data-from must name a folder, however /none is not one"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        asked(**given)


def test_a_slot_that_the_configuration_does_not_name_is_a_typo(config_file: Path) -> None:
    with pytest.raises(InputError, match="slot frist is not in the configuration; add it there, or give --recipe"):
        asked(config_file=config_file, slots=["frist"])


def test_a_recipe_that_the_configuration_misspells_is_refused_by_its_file_and_slot(tmp_path: Path) -> None:
    path = tmp_path / "weekly.toml"
    path.write_text('[slots]\none = "simple-mlp"\ntwo = "simple-mpl"\n')
    with pytest.raises(InputError, match=rf"^{path}: slot two: a recipe must be .* however 'simple-mpl' was given"):
        asked(config_file=path)


def test_a_recipe_that_a_flag_misspells_is_no_fault_of_the_file(config_file: Path) -> None:
    with pytest.raises(InputError, match=r"^a recipe must be one of"):
        asked(config_file=config_file, recipe="simple-mpl")
    with pytest.raises(InputError, match=r"^slot second: a recipe must be one of"):
        asked(config_file=config_file, assignments={"slots.second": "simple-mpl"})


def test_a_configuration_without_slots_is_named(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[slots]\n")
    told = rf"no slot to submit for; name one with --model, or under \[slots\] of {path}, or give --no-submit"
    with pytest.raises(InputError, match=told):
        asked(config_file=path)


def test_a_request_shows_no_secret_because_it_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMERAI_SECRET_KEY", "s3cr3t")
    assert "s3cr3t" not in repr(asked(slots=["one"]))


@pytest.mark.parametrize("slot", ["", "  "])
def test_a_slot_without_a_name_is_refused(slot: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^a slot must be the name of a model"):
        make_request(home=tmp_path, slots=[slot])
    path = tmp_path / "weekly.toml"
    path.write_text(f'[slots]\n"{slot}" = "simple-mlp"\n')
    with pytest.raises(InputError, match=rf"^{path}: a slot must be the name of a model"):
        make_request(home=tmp_path, config_file=path)


def test_epochs_take_the_place_of_steps_and_steps_of_epochs(tmp_path: Path) -> None:
    request = make_request(home=tmp_path, slots=["one"], recipe="era-pearson", assignments={"training.epochs": "6"})
    training = wanted_recipe(request, "era-pearson").training
    assert (training.epochs, training.steps, training.eras_per_step) == (6, None, 4)
    request = make_request(home=tmp_path, slots=["one"], recipe="simple-mlp", assignments={"training.steps": "9"})
    assert wanted_recipe(request, "simple-mlp").training.epochs is None


def test_both_of_what_excludes_the_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exactly one of epochs and steps"):
        make_request(home=tmp_path, slots=["one"], assignments={"training.epochs": "6", "training.steps": "9"})


VARIANT = """
[slots]
one = "small"

[variants.small]
recipe = "era-pearson"
model.hidden = [32]
training.epochs = 2
"""


def test_a_slot_may_have_a_variant_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "weekly.toml"
    path.write_text(VARIANT)
    request = make_request(home=tmp_path, config_file=path, assignments={"training.seed": "3"})
    small = wanted_recipe(request, "small")
    assert (small.name, small.model.hidden, small.model.activation) == ("small", (32,), "silu")
    assert (small.training.epochs, small.training.steps, small.training.seed) == (2, None, 3)


def test_a_form_takes_the_place_of_the_file_with_its_variants_too(tmp_path: Path) -> None:
    small = {"recipe": "era-pearson", "model": {"hidden": [32]}}
    form = WeeklyConfig(slots={"one": "small", "two": "simple-mlp"}, variants={"small": small})
    request = asked(form=form, assignments={"training.seed": "3"})
    assert request.config == form
    assert (request.recipe, recipe_names(request)) == (None, ["small", "simple-mlp"])
    assert wanted_recipe(request, "small").model.hidden == (32,)
    assert wanted_recipe(request, "small").training.seed == 3
    assert dict(asked(form=form, recipe="small").config.slots) == {"one": "small", "two": "small"}
    assert recipe_names(asked(form=replace(form, slots={}), recipe="small", submit=False)) == ["small"]


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (WeeklyConfig(slots={"one": "smal"}), r"^slot one: a recipe must be one of .* however 'smal' was given"),
        (
            WeeklyConfig(slots={"one": "small"}, variants={"small": {}}),
            r"^variants\.small\.recipe must name the recipe that it changes",
        ),
        (WeeklyConfig(slots={" ": "simple-mlp"}), r"^a slot must be the name of a model of the account"),
    ],
)
def test_what_a_form_cannot_mean_is_no_fault_of_any_file(form: WeeklyConfig, told: str) -> None:
    with pytest.raises(InputError, match=told):
        asked(form=form)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("model.hidden", "model.hiden", r"unknown key variants\.small\.model\.hiden; did you mean hidden\?"),
        ('"era-pearson"', '"era-person"', r"'era-person' was given; did you mean era-pearson\?"),
        ('recipe = "era-pearson"', "", r"variants\.small\.recipe must name the recipe that it changes"),
        ("variants.small", "variants.simple-mlp", r"variants\.simple-mlp must have a name of its own"),
        (
            '"era-pearson"',
            '"small"',
            r"variants\.small: a recipe must be one of simple-mlp, .*, however 'small' was given",
        ),
        ('"small"', '"smal"', r"'smal' was given; did you mean small\?"),
    ],
)
def test_a_variant_that_means_nothing_is_refused_before_any_work(old: str, new: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "weekly.toml"
    path.write_text(VARIANT.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"^{path}: .*{told}"):
        make_request(home=tmp_path, config_file=path)
