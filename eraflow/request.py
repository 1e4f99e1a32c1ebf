"""What a run of the weekly round is asked to do: the user's configuration and the flags of one command.

Everything is checked here, before any work: an unknown recipe, a wrong override, a slot nobody named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eraflow import recipes
from eraflow.config import nearest, override, suggestion
from eraflow.errors import InputError
from eraflow.recipes import Recipe
from eraflow.store import utc_text
from eraflow.variants import EXCLUDES, variant_of
from eraflow.weekly_config import CONFIG_FILE, WeeklyConfig, read_configuration

DEFAULT_RECIPE = "era-pearson"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run of the weekly round, as asked for. Holds no secrets: keys come from the environment."""

    home: Path
    config: WeeklyConfig = field(default_factory=WeeklyConfig)
    config_file: Path | None = None
    """Where alarms are read from when they ring: their addresses are secrets, which a parameter would show."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Parts of every recipe replaced: dotted path -> text."""
    recipe: str | None = None
    """The recipe when no slot names one."""
    submit: bool = True
    resubmit: bool = False
    train: bool = True
    """False: predict with the newest good model, as on weekdays, when an hour is all there is."""
    wait_s: float = 0.0
    """How long to wait for a round to open [s]."""
    asked_at_utc: str = field(default_factory=lambda: utc_text(datetime.now(UTC), "microseconds"))
    """When this was asked for: what `resubmit` has sent since then is not replaced again by a repetition."""
    data_from: Path | None = None

    @property
    def offline(self) -> bool:
        """Files from a folder and nothing to submit: the tournament is not asked at all."""
        return self.data_from is not None and not self.submit


def make_request(
    *,
    home: Path,
    config_file: Path | None = None,
    form: WeeklyConfig | None = None,
    recipe: str | None = None,
    slots: Sequence[str] = (),
    assignments: Mapping[str, str] | None = None,
    submit: bool = True,
    resubmit: bool = False,
    train: bool = True,
    wait_s: float = 0.0,
    data_from: Path | None = None,
) -> Request:
    """A request from what a command was given, or a `form`, which takes the place of the file's configuration.

    Raises `InputError` for whatever cannot be meant, before any work.
    """
    in_file = read_configuration(config_file).weekly
    of_recipe, of_config = _sorted_out(assignments or {})
    config = override(form or in_file, of_config)
    named = dict.fromkeys(slots)
    if empty := [slot for slot in (*named, *config.slots) if not slot.strip()]:
        where = "" if form or empty[0] in named else f"{config_file or '--set'}: "
        raise InputError(f"{where}a slot must be the name of a model of the account, however {empty[0]!r} was given")
    if unknown := [slot for slot in named if config.slots and slot not in config.slots and recipe is None]:
        raise InputError(f"slot {unknown[0]} is not in the configuration; add it there, or give --recipe")
    chosen = {s: recipe or config.slots.get(s) or DEFAULT_RECIPE for s in named or config.slots}
    if submit and not chosen:
        raise InputError(f"no slot to submit for; {how_to_name_one(home, config_file)}, or give --no-submit")
    if data_from is not None and not data_from.is_dir():
        raise InputError(f"--data-from must name a folder, however {data_from} is not one")
    if resubmit and not submit:
        raise InputError("--resubmit and --no-submit exclude each other")
    request = Request(
        home=home,
        config=dataclasses.replace(config, slots=chosen),
        config_file=config_file.resolve() if config_file else None,
        overrides=of_recipe,
        recipe=recipe,
        submit=submit,
        resubmit=resubmit,
        train=train,
        wait_s=wait_s,
        data_from=data_from,
    )
    _require_recipes(request, in_file)
    for name in [*config.variants, *recipe_names(request)]:
        wanted_recipe(request, name)
    return request


def how_to_name_one(home: Path, config_file: Path | None) -> str:
    """What to do where no slot is named: in which file, or by which flag."""
    copy = "" if config_file else " (copy deployments/weekly.toml)"
    return f"name one with --model, or under [slots] of {config_file or home / CONFIG_FILE}{copy}"


def _sorted_out(assignments: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those for a part of a recipe, and those for the configuration."""
    tables = (*recipes.SECTIONS, *(part.name for part in dataclasses.fields(WeeklyConfig)))
    for path in assignments:
        if (table := path.split(".")[0]) not in tables:
            raise InputError(f"unknown key {path} in --set{suggestion(table, tables)}")
    of_recipe = {path: text for path, text in assignments.items() if path.split(".")[0] in recipes.SECTIONS}
    return of_recipe, {path: text for path, text in assignments.items() if path not in of_recipe}


def recipe_names(request: Request) -> list[str]:
    """The recipes to train, each once."""
    return list(dict.fromkeys(request.config.slots.values())) or [request.recipe or DEFAULT_RECIPE]


def wanted_recipe(request: Request, name: str) -> Recipe:
    """The recipe `name` with the request's overrides; what one of them excludes is unset."""
    given = request.overrides
    unset = {f"training.{other}": "0" for one, other in EXCLUDES.items() if f"training.{one}" in given}
    return override(named_recipe(request.config.variants, name), {**unset, **given})


def _require_recipes(request: Request, in_file: WeeklyConfig) -> None:
    """Raise `InputError` for a variant or a slot whose recipe is none, naming it and the file that it stands in."""
    config, file = request.config, request.config_file
    places = [
        (name, f"variants.{name}", in_file.variants.get(name) == config.variants[name]) for name in config.variants
    ]
    if request.recipe is None:
        places += [(name, f"slot {slot}", in_file.slots.get(slot) == name) for slot, name in config.slots.items()]
    for name, place, is_of_file in places:
        try:
            named_recipe(config.variants, name)
        except InputError as error:
            parts = [str(file)] if is_of_file else []
            parts += [] if place in error.message else [place]
            raise InputError(": ".join([*parts, error.message])) from error


def named_recipe(variants: Mapping[str, Mapping[str, Any]], name: str) -> Recipe:
    """The variant or recipe called `name`. Raises `InputError` for an unknown name or a wrong variant."""
    if name in variants:
        return variant_of(name, variants[name], recipes.get, recipes.RECIPES)
    if name not in recipes.RECIPES:
        from eraflow.study.candidates import RIVALS

        known = [*recipes.RECIPES, *variants]
        hint = f"; {' and '.join(RIVALS)} exist in studies only" if name in RIVALS else nearest(name, known)
        raise InputError(f"a recipe must be one of {', '.join(known)}, however {name!r} was given{hint}")
    return recipes.get(name)
