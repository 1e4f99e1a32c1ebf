"""From text to frozen dataclasses, and back."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eraflow import recipes
from eraflow.config import build, override, parse_assignments, read_toml, suggestion, to_table, to_toml
from eraflow.errors import InputError
from eraflow.recipes import Recipe
from eraflow.weekly_config import Configuration


@dataclass(frozen=True, kw_only=True)
class Inner:
    layers: tuple[int, ...] = (8, 4)
    pair: tuple[float, str] = (0.5, "a")
    share: float = 0.5
    kind: Literal["mse", "pearson"] = "mse"
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be from 0 to 1, however it is {self.share}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    refit: bool = False
    inner: Inner = field(default_factory=Inner)
    slots: Mapping[str, str] = field(default_factory=dict)


def test_a_whole_table_becomes_the_value_with_its_types() -> None:
    table = {"name": "a", "refit": True, "inner": {"layers": [3], "share": 1, "seed": 7}, "slots": {"s": "r"}}
    found = build(Outer, table)
    assert found == Outer(name="a", refit=True, inner=Inner(layers=(3,), share=1.0, seed=7), slots={"s": "r"})
    assert isinstance(found.inner.share, float)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"nam": "a"}, "unknown key nam; did you mean name?"),
        ({"name": "a", "xyz": 1}, "unknown key xyz; known are name, refit, inner, slots"),
        ({"name": "a", "inner": {"shares": 1}}, "unknown key inner.shares; did you mean share?"),
        ({"name": 1}, "name must be text, however 1 was given"),
        ({"name": "a", "refit": 1}, "refit must be true or false, however 1 was given"),
        ({"name": "a", "refit": "true"}, "refit must be true or false, however 'true' was given"),
        ({"name": "a", "inner": 5}, "inner must be a table, however 5 was given"),
        ({"name": "a", "inner": {"layers": 5}}, "inner.layers must be a list, however 5 was given"),
        ({"name": "a", "inner": {"layers": "84"}}, "inner.layers must be a list, however '84' was given"),
        ({"name": "a", "inner": {"layers": [1, "x"]}}, "inner.layers[1] must be a whole number, however 'x' was given"),
        ({"name": "a", "inner": {"layers": [True]}}, "inner.layers[0] must be a whole number, however True was given"),
        ({"name": "a", "inner": {"pair": [1]}}, "inner.pair must be a list of 2 values, however [1] was given"),
        ({"name": "a", "inner": {"pair": [1, 2]}}, "inner.pair[1] must be text, however 2 was given"),
        ({"name": "a", "inner": {"share": "x"}}, "inner.share must be a number, however 'x' was given"),
        ({"name": "a", "inner": {"share": True}}, "inner.share must be a number, however True was given"),
        ({"name": "a", "inner": {"seed": 1.5}}, "inner.seed must be a whole number, however 1.5 was given"),
        ({"name": "a", "inner": {"kind": "mae"}}, "inner.kind must be one of mse, pearson, however 'mae' was given"),
        ({"name": "a", "inner": {"share": 2}}, "inner.share must be from 0 to 1, however it is 2.0"),
        ({"name": "a", "slots": 5}, "slots must be a table, however 5 was given"),
        ({"name": "a", "slots": {"s": 5}}, "slots.s must be text, however 5 was given"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_its_dotted_path(table: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        build(Outer, table)
    assert caught.value.message == told


def test_a_missing_value_is_named() -> None:
    with pytest.raises(InputError, match=r"the configuration is incomplete: .*'name'"):
        build(Outer, {})


def test_a_part_is_replaced_and_the_rest_stays() -> None:
    before = Outer(name="a", inner=Inner(seed=3))
    found = override(before, {"inner.share": "0.25", "inner.layers": "[1, 2]", "name": "new name"})
    assert found == Outer(name="new name", inner=Inner(share=0.25, layers=(1, 2), seed=3))
    assert before == Outer(name="a", inner=Inner(seed=3))


def test_an_override_never_reaches_into_the_value_it_was_given() -> None:
    slots = {"first": "simple-mlp"}
    before = Outer(name="a", slots=slots)
    found = override(before, {"slots.second": "era-pearson"})
    assert found.slots == {"first": "simple-mlp", "second": "era-pearson"}
    assert before.slots == slots == {"first": "simple-mlp"}


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("inner.shape", "1", "unknown key inner.shape; did you mean share?"),
        ("inner.share.deep", "1", "unknown key inner.share.deep: share is a value, not a table"),
        ("inner.share", "much", "inner.share must be a number, however 'much' was given"),
        ("inner", "5", "inner must be a table, however 5 was given"),
        ("inner.", "5", "unknown key inner.; known are layers, pair, share, kind, seed"),
        ("refit", "yes", "refit must be true or false, however 'yes' was given"),
        ("inner.layers", "[" * 20000, "inner.layers must be a list"),
        ("inner.seed", "9" * 5000, "inner.seed must be a whole number"),
    ],
)
def test_a_wrong_override_is_refused_by_its_path(path: str, text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        override(Outer(name="a"), {path: text})
    assert caught.value.message.startswith(told)


def test_assignments_are_split_at_the_first_equals_sign() -> None:
    assert parse_assignments(["training.epochs=6", " name = a=b "]) == {"training.epochs": "6", "name": "a=b"}


@pytest.mark.parametrize("text", ["training.epochs", "", "=6", "  =6"])
def test_an_assignment_without_key_or_equals_sign_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--set must be key=value, however .* was given; for example"):
        parse_assignments([text])


@given(st.dictionaries(st.from_regex(r"[a-z]+(\.[a-z_]+)*", fullmatch=True), st.text().map(str.strip)))
def test_parsed_assignments_are_those_that_were_written(wanted: dict[str, str]) -> None:
    assert parse_assignments(f"{key}={value}" for key, value in wanted.items()) == wanted


@given(st.text())
def test_any_text_is_either_an_assignment_or_wrong_input(text: str) -> None:
    try:
        found = parse_assignments([text])
    except InputError:
        assert "=" not in text or not text.partition("=")[0].strip()
    else:
        assert len(found) == 1


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TABLES = st.recursive(
    st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=3), max_size=3),
    lambda inner: st.dictionaries(KEYS, SCALARS | inner, max_size=3),
    max_leaves=6,
)


@given(TABLES)
def test_toml_that_is_written_reads_back_the_same(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_every_recipe_survives_its_own_toml(name: str) -> None:
    recipe = recipes.get(name)
    assert build(Recipe, tomllib.loads(to_toml(to_table(recipe)))) == recipe


@given(
    st.builds(
        Inner,
        layers=st.lists(st.integers(0, 99), max_size=4).map(tuple),
        share=st.floats(0, 1),
        seed=st.none() | st.integers(0, 9),
    )
)
def test_a_value_survives_its_own_table(inner: Inner) -> None:
    value = Outer(name="a", inner=inner, slots={"s": "r"})
    assert build(Outer, tomllib.loads(to_toml(to_table(value)))) == value


def test_a_table_of_a_value_shares_nothing_with_it() -> None:
    value = Outer(name="a", slots={"s": "r"})
    table = to_table(value)
    assert table["slots"] == value.slots
    assert table["slots"] is not value.slots


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a = ", "cannot be read as TOML"),
        (b"\xff\xfe", "cannot be read as TOML"),
        (b"a = " + b"[" * 20000, "cannot be read as TOML"),
        (b"a = " + b"9" * 5000, "cannot be read as TOML"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "weekly.toml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"configuration file .*weekly\.toml {told}"):
        read_toml(file)


def test_a_file_that_is_not_there_is_refused_with_the_flag_to_correct(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml does not exist; name one that does"):
        read_toml(tmp_path / "none.toml")


def test_a_file_that_cannot_be_read_is_not_said_to_be_wrong_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_toml(tmp_path)
    assert caught.value.message == f"configuration file {tmp_path} cannot be read: Is a directory; name one that can"


def test_the_nearest_name_is_suggested_and_otherwise_all_are_told() -> None:
    assert suggestion("epoch", ["epochs", "steps"]) == "; did you mean epochs?"
    assert suggestion("zzz", ["epochs", "steps"]) == "; known are epochs, steps"


def test_the_users_configuration_that_ships_is_accepted() -> None:
    shipped = Path(__file__).parents[2] / "deployments" / "weekly.toml"
    config = build(Configuration, read_toml(shipped))
    assert set(config.slots.values()) <= set(recipes.RECIPES)
    assert dataclasses.replace(config, slots={}) == Configuration(), "the file shows the defaults"
