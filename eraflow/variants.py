"""A variant: a recipe under another name with some values changed, as `weekly.toml` and a study's file write it.

[variants.small]
recipe = "era-pearson"
model.hidden = [256]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from eraflow.config import build, to_table
from eraflow.errors import InputError

# Of each pair exactly one is set, so a change of epochs means that steps no longer rule.
EXCLUDES = {"epochs": "steps", "steps": "epochs", "batch_size": "eras_per_step", "eras_per_step": "batch_size"}

T = TypeVar("T")


def variant_of(name: str, tables: Mapping[str, Any], base_of: Callable[[str], T], taken: Collection[str]) -> T:
    """What `base_of` gives for the recipe that the variant names, with the variant's changes and its own name.

    Raises `InputError` by the dotted path of what is wrong, also for a name that is `taken`.
    """
    here = f"variants.{name}"
    if name in taken:
        raise InputError(f"{here} must have a name of its own, however {name} is one of eraflow's; choose another")
    if not isinstance(base_name := tables.get("recipe"), str):
        raise InputError(f"{here}.recipe must name the recipe that it changes, however it does not")
    base = base_of(base_name)
    changed = to_table(base)
    for part, values in tables.items():
        if part == "recipe":
            continue
        if not isinstance(values, Mapping):
            raise InputError(f"{here}.{part} must be a table of values, however it is {values!r}")
        table = changed.setdefault(part, {})
        for one, other in EXCLUDES.items():
            if part == "training" and one in values:
                table.pop(other, None)
        table.update(values)
    return build(type(base), changed | {"name": name}, here)
