"""What the recipes come to, and how they fit the files that are there."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest

from eraflow import recipes
from eraflow.config import build, override, to_table, to_toml
from eraflow.errors import InputError
from eraflow.recipes import RECIPES, Recipe, describe, fingerprint, get, resolve


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_the_way_through_its_file(name: str) -> None:
    recipe = get(name)
    assert recipe.name == name
    assert build(Recipe, tomllib.loads(to_toml(to_table(recipe)))) == recipe


def test_simple_mlp_is_the_write_ups() -> None:
    found = get("simple-mlp")
    assert found.model.hidden == (256,)
    assert (found.model.dropout, found.model.batch_norm, found.model.input) == (0, False, "unit")
    training = found.training
    assert (training.loss, training.optimizer, training.learning_rate, training.weight_decay) == (
        "mse",
        "adam",
        1e-3,
        0,
    )
    assert (training.epochs, training.batch_size, training.shuffle, training.drop_last) == (6, 2048, False, False)
    assert (training.betas, training.eps) == ((0.9, 0.999), 1e-8)
    assert not training.refit


def test_an_unknown_recipe_is_refused_with_the_known_names() -> None:
    with pytest.raises(InputError, match="simple-mlp, fastai-tabular, era-pearson, however 'nn' was given"):
        get("nn")


def test_epochs_replace_steps_where_the_other_is_set_to_0() -> None:
    found = override(get("era-pearson"), {"training.epochs": "2", "training.steps": "0"})
    assert (found.training.epochs, found.training.steps) == (2, None)
    with pytest.raises(
        InputError, match="exactly one of epochs and steps must be above 0, however epochs is 2 and steps"
    ):
        override(get("era-pearson"), {"training.epochs": "2"})
    with pytest.raises(InputError, match="loss era_pearson needs whole eras"):
        override(get("era-pearson"), {"training.eras_per_step": "0", "training.batch_size": "64"})


def test_missing_feature_set_and_target_are_replaced_and_said() -> None:
    recipe = dataclasses.replace(get("simple-mlp"), data=recipes.DataConfig(target="target_ender_60"))
    found, notes = resolve(recipe, ["all", "small"], ["target", "target_x_20"])
    assert (found.data.feature_set, found.data.target) == ("all", "target")
    assert [note.split(" is not")[0] for note in notes] == ["feature set medium", "target target_ender_60"]
    assert resolve(recipe, ["medium"], ["target_ender_60"]) == (recipe, ())


def test_what_a_user_asked_for_by_name_is_never_replaced() -> None:
    typing_error = dataclasses.replace(get("simple-mlp"), data=recipes.DataConfig(target="targe"))
    with pytest.raises(InputError, match=r"data.target must be one of target, target_x_20, .*; did you mean target\?"):
        resolve(typing_error, ["medium"], ["target", "target_x_20"], asked=["data.target"])
    with pytest.raises(InputError, match=r"data.feature_set must be one of all, small, however 'medium' was given"):
        resolve(get("simple-mlp"), ["all", "small"], ["target"], asked=["data.feature_set"])


def test_an_extra_target_that_the_data_lack_is_left_out_and_said_unless_it_was_asked_for() -> None:
    data = recipes.DataConfig(target="target_a_20", extra_targets=("target_b_20", "target_c_20", "target"))
    recipe, there = dataclasses.replace(get("simple-mlp"), data=data), ["target", "target_a_20", "target_b_20"]
    found, notes = resolve(recipe, ["medium"], there)
    assert found.data.targets == ("target_a_20", "target_b_20", "target")
    assert notes == ("extra target target_c_20 is not in the data; it is left out",)
    with pytest.raises(InputError, match=r"data.extra_targets must be one of .* 'target_c_20' .* mean target_b_20\?"):
        resolve(recipe, ["medium"], there, asked=["data.extra_targets"])
    assert resolve(recipe, ["medium"], there, asked=["data.target"]) == (found, notes)


def test_an_extra_target_that_stands_in_for_the_target_is_not_learned_twice() -> None:
    data = recipes.DataConfig(target="target_a_20", extra_targets=("target", "target_b_20"))
    recipe = dataclasses.replace(get("simple-mlp"), data=data)
    found, notes = resolve(recipe, ["medium"], ["target", "target_b_20"])
    assert found.data.targets == ("target", "target_b_20")
    assert notes == ("target target_a_20 is not in the data; the column target is used",)


def test_describe_shows_an_output_for_each_target() -> None:
    recipe = override(get("simple-mlp"), {"data.extra_targets": '["target_a_20", "target_b_20"]'})
    assert "Linear(in_features=256, out_features=3, bias=True)" in describe(recipe, 780)


def test_a_misspelt_recipe_is_told_its_nearest_name() -> None:
    with pytest.raises(InputError, match=r"'simple_mlp' was given; did you mean simple-mlp\?"):
        get("simple_mlp")


def test_what_cannot_be_replaced_is_refused() -> None:
    with pytest.raises(InputError, match="the feature set medium or all, however it has small"):
        resolve(get("simple-mlp"), ["small"], ["target"])
    with pytest.raises(InputError, match="column target or target"):
        resolve(get("simple-mlp"), ["medium"], ["other"])


def test_the_fingerprint_changes_with_any_value_and_only_then() -> None:
    assert fingerprint(get("era-pearson")) == fingerprint(get("era-pearson"))
    changed = override(get("era-pearson"), {"training.seed": "1"})
    assert len({fingerprint(get(name)) for name in RECIPES} | {fingerprint(changed)}) == 4


@pytest.mark.parametrize("name", RECIPES)
def test_describe_shows_every_value(name: str) -> None:
    text = describe(get(name), 42)
    for section in recipes.SECTIONS:
        assert f"[{section}]" in text
        for key in to_table(get(name))[section]:
            assert f"\n{key} = " in text
    assert "parameters" in text
    assert f"optimiser {get(name).training.optimizer}" in text


def test_describe_counts_the_parameters() -> None:
    assert "200,193 parameters" in describe(get("simple-mlp"), 780)
    assert "(0): Linear(in_features=780, out_features=256, bias=True)" in describe(get("simple-mlp"), 780)


def test_every_default_of_fastai_has_its_source() -> None:
    lines = [line for line in describe(get("fastai-tabular"), 42).splitlines() if " = " in line]
    unsaid = {line.split(" = ")[0] for line in lines if "# " not in line}
    # What is ours: the data, the members, and options that this recipe does not use.
    assert unsaid == {
        "feature_set",
        "target",
        "era_stride",
        "extra_targets",
        "residual_of",
        "l1",
        "input",
        "warmup_share",
        "refit",
        "seed",
        "device",
        "members",
        "neutralize",
    }
