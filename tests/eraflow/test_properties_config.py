"""Whatever a configuration file or `--set` holds is read to a configuration, or refused by its dotted path."""

from __future__ import annotations

import copy
import datetime as dt
import json
import math
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eraflow import recipes
from eraflow.config import build, to_table, to_toml
from eraflow.errors import InputError
from eraflow.recipes import Recipe
from eraflow.request import Request, make_request, recipe_names, wanted_recipe
from eraflow.weekly_config import Configuration, read_configuration

anew = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)

HIDDEN = "mailtos://me:hidden@host"
WHOLE = to_table(
    Configuration(
        slots={"one": "small", "two": "era-pearson"},
        variants={"small": {"recipe": "era-pearson", "model": {"hidden": [32]}, "training": {"epochs": 2}}},
    )
)
ODD_TEXTS = (
    "", "../../etc/passwd", "a\x00b", "é\u202e\U0001f600", "nan", "9" * 400, "/", ".", "UTC\x00", "Etc", "A" * 300,
    "* * * * *", "*/0 * * * *", "5-1 * * * *", "0 0 31 2 *", "L L L L L", "1#9 * * * *", "* * * * 1#9", "@daily",
    "0 0 * * * *", "-1 * * * *", "² * * * *", "* * * JAN-XXX *", "*,,* * * * *", "a" * 2000, HIDDEN,
)  # fmt: skip
ODD_VALUES = (
    True, 0, -1, 1, 2**63, 10**400, -(10**400), 0.5, -0.0, 5e-324, 1e308, math.inf, -math.inf, math.nan,
    dt.date(2026, 8, 22), dt.time(12), dt.datetime(2026, 8, 22, 12, tzinfo=dt.UTC), [], {}, [[]], [{}], {"": {}},
    {"a": {"b": [1, {"c": []}]}}, [1, "a", None], *ODD_TEXTS, *([text] for text in ODD_TEXTS),
)  # fmt: skip
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(ODD_TEXTS)
NAMES = WORDS | st.sampled_from([*WHOLE, *WHOLE["fallback"], *WHOLE["schedule"], "recipe", "model", "training"])
TOMLS = st.recursive(
    st.booleans() | st.integers() | st.floats() | WORDS | st.dates() | st.datetimes() | st.sampled_from(ODD_VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def built(table: Mapping[str, Any]) -> Configuration | InputError:
    """The configuration that survives its own table, or the refusal."""
    try:
        found = build(Configuration, table)
    except InputError as error:
        return error
    again = build(Configuration, to_table(found))
    assert repr(again) == repr(found)  # text, because NaN is not equal to itself
    return found


@anew
@given(st.dictionaries(NAMES, TOMLS, max_size=4))
def test_any_table_is_a_configuration_that_survives_its_own_table_or_wrong_input(table: dict[str, Any]) -> None:
    found = built(table)
    assert isinstance(found, Configuration | InputError)
    if not set(table) <= set(WHOLE):
        assert isinstance(found, InputError)


def places(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in table.items():
        here = f"{path}.{key}" if path else key
        yield here
        if isinstance(value, Mapping):
            yield from places(value, here)


def put(table: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `table` with `value` at the dotted path."""
    changed = copy.deepcopy(dict(table))
    *parents, last = path.split(".")
    holder = changed
    for parent in parents:
        holder = holder[parent]
    holder[last] = value
    return changed


@pytest.mark.parametrize("path", [*places(WHOLE), "new", "fallback.new", "slots.new", "variants.new"])
def test_any_odd_value_at_any_place_is_taken_or_refused_by_its_path(path: str) -> None:
    for value in ODD_VALUES:
        found = built(put(WHOLE, path, value))
        if isinstance(found, InputError):
            assert path in found.message, value


@anew
@given(TOMLS, st.sampled_from(list(places(WHOLE))))
def test_any_value_at_any_place_is_taken_or_refused_by_its_path(value: Any, path: str) -> None:
    found = built(put(WHOLE, path, value))
    if isinstance(found, InputError):
        assert path in found.message


# Addresses that are secrets


@pytest.mark.parametrize("path", ["alarm", "alarm.urls", "alarm.heartbeat_url", "alarm.receipts"])
def test_an_address_in_any_wrong_place_of_the_alarms_is_never_told(tmp_path: Path, path: str) -> None:
    table, _, key = path.partition(".")
    for value in (HIDDEN, [HIDDEN], [[HIDDEN]], {"urls": HIDDEN}, {"a": [HIDDEN]}, [{"a": HIDDEN}], [1, HIDDEN]):
        text = f"[{table}]\n{key} = {inline(value)}\n" if key else f"{table} = {inline(value)}\n"
        assert "hidden" not in told_of(tmp_path, text.encode())


def inline(value: Any) -> str:
    """TOML of a value on one line, inner tables included."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {inline(part)}" for key, part in value.items()) + "}"
    return "[" + ", ".join(map(inline, value)) + "]" if isinstance(value, list) else json.dumps(value)


def told_of(folder: Path, content: bytes) -> str:
    """What is told of a file of these bytes: the refusal with its causes, or the configuration."""
    path = folder / "weekly.toml"
    path.write_bytes(content)
    try:
        return repr(read_configuration(path))
    except InputError as error:
        return "".join(traceback.format_exception(error))


# The file


@anew
@given(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 60))
def test_a_file_with_any_bytes_cut_or_put_in_is_a_configuration_or_wrong_input(
    tmp_path: Path, place: int, put_in: bytes, cut: int
) -> None:
    content = to_toml(WHOLE).encode()
    place %= len(content)
    told_of(tmp_path, content[:place] + put_in + content[place + cut :])


@pytest.mark.parametrize(
    "content",
    ["0x" + "f" * 4000, "9" * 5000, "1e99999", "[" * 2000, "{a=" * 500, '"""', "1979-05-27T07:32:00-99:99", "0xg"],
)
def test_a_file_with_any_odd_literal_is_a_configuration_or_wrong_input(tmp_path: Path, content: str) -> None:
    for path in ("data_version", "fallback.reserve_s", "variants.small.model.hidden", "slots"):
        table, _, key = path.rpartition(".")
        told_of(tmp_path, (f"[{table}]\n{key} = {content}\n" if table else f"{key} = {content}\n").encode())


def test_the_whole_configuration_survives_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "weekly.toml"
    path.write_text(to_toml(WHOLE))
    assert to_table(read_configuration(path)) == WHOLE


# --set

RECIPE_PATHS = [path for path in places(to_table(recipes.get("era-pearson"))) if path.split(".")[0] in recipes.SECTIONS]
PATHS = [*RECIPE_PATHS, "fallback.max_age_weeks", "submission.late", "slots.one", "variants.small.recipe", "variants"]
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["", "1", "0", "-1", "1e400", "nan", "inf", "[1, 2]", "[]", "{a = 1}", '"x"', "true", "9" * 400, "0x" + "f" * 4000,
     "2026-08-22", "[" * 2000, "\ud800", "era-pearson", "1\nb = 2"]
)  # fmt: skip


def requested(home: Path, assignments: dict[str, str]) -> Request | InputError:
    try:
        return make_request(home=home, slots=["one"], assignments=assignments)
    except InputError as error:
        return error


@settings(anew, max_examples=200)
@given(st.dictionaries(st.sampled_from(PATHS) | st.text(max_size=8), TEXTS, min_size=1, max_size=2))
def test_any_assignments_make_a_request_whose_recipes_are_whole_or_wrong_input(
    tmp_path: Path, assignments: dict[str, str]
) -> None:
    found = requested(tmp_path, assignments)
    if isinstance(found, Request):
        for name in recipe_names(found):
            recipe = wanted_recipe(found, name)
            assert repr(build(Recipe, to_table(recipe))) == repr(recipe)
    else:
        parts = [path.split(".")[0] for path in assignments]
        assert "a recipe must be one of" in found.message or any(part in found.message for part in parts)
