"""What a study asks, as a TOML file or a command's flags say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eraflow.config import build, read_toml
from eraflow.folds import Folds

Runner = Literal["in turn", "process", "dask"]


@dataclass(frozen=True, kw_only=True)
class PayoutConfig:
    """What a unit of stake is paid in an era: `clip(factor * (corr * CORR + mmc * MMC))`.

    Source of the defaults: rounds from 1343 on. Up to 1342 it was 0.75 and 2.25, clipped at 0.05.
    """

    corr: float = 3.0
    mmc: float = 15.0
    clip: float = 1.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"clip must be above 0, however it is {self.clip}")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Recipes, each with seeds, over folds of one data set."""

    recipes: tuple[str, ...] = ("simple-mlp", "era-pearson", "ridge", "lightgbm")
    """Names of recipes, of `variants`, and "ridge" and "lightgbm"."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name -> the `recipe` that it changes, and the tables of values that it changes."""
    ensembles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name -> those of `recipes` whose predictions' mean rank it is; nothing is trained for it."""
    baseline: str = ""
    """What the others are compared with; "" is the first of `recipes`."""
    seeds: int = 3
    """Of each recipe that has chance in it."""
    target: str = "target_ender_60"
    """In place of every recipe's own, which differ; "" leaves them."""
    feature_set: str = ""
    """In place of every recipe's own; "" leaves them."""
    benchmark: str = "v53_lgbm_ender60"
    """Column of the benchmark models' files that BMC is taken against; "" for none."""
    horizon_eras: int | None = None
    """Eras that the target reaches over, for the intervals; without it 4 or 12 weekly ones, by the target's name."""
    folds: Folds = field(default_factory=Folds)
    reserve: bool = False
    """Validate the reserve (`folds.reserved_from`) and it alone: to be asked once, when everything is decided."""
    payout: PayoutConfig = field(default_factory=PayoutConfig)
    runner: Runner = "in turn"
    """Units of work one after the other, beside one another in processes of this machine, or on a Dask cluster."""
    workers: int = 1
    """Units at once, for the runners that can; each has its share of the cores, whatever the runner, because sums by
    other threads differ in their last digits."""
    dask_address: str = ""
    """Of a cluster that is there; "" starts one on this machine."""

    def __post_init__(self) -> None:
        if not self.recipes:
            raise ValueError("recipes must name at least one, however it is empty")
        if twice := sorted({name for name in self.recipes if self.recipes.count(name) > 1}):
            raise ValueError(f"recipes must be named once, however {twice[0]} is there twice; name a variant of it")
        for name, least in (("seeds", self.seeds), ("workers", self.workers)):
            if least < 1:
                raise ValueError(f"{name} must be 1 or more, however it is {least}")
        for name, members in self.ensembles.items():
            if name in self.recipes or name in self.variants:
                raise ValueError(f"ensembles.{name} must have a name of its own, however a recipe is called so")
            if len(set(members)) < len(members):
                raise ValueError(f"ensembles.{name} must name each of its members once, however one is there twice")
            if len(members) < 2 or (unknown := [one for one in members if one not in self.recipes]):
                told = f"{unknown[0]} is none of them" if len(members) > 1 else f"it has {len(members)}"
                raise ValueError(f"ensembles.{name} must be two or more of the recipes, however {told}")
        if self.baseline and self.baseline not in self.recipes:
            raise ValueError(f"baseline must be one of the recipes, however {self.baseline} is not among them")
        if self.horizon_eras is not None and self.horizon_eras < 1:
            raise ValueError(f"horizon_eras must be 1 or more, however it is {self.horizon_eras}")
        if self.reserve and self.folds.reserved_from is None:
            raise ValueError("reserve needs the first era of it in folds.reserved_from, however nothing is reserved")
        if self.dask_address and self.runner != "dask":
            raise ValueError(f'dask_address needs runner = "dask", however the runner is "{self.runner}"')

    @property
    def against(self) -> str:
        """The recipe that the others are compared with."""
        return self.baseline or self.recipes[0]


def read_study(path: Path) -> StudyConfig:
    """The study in the file at `path`. Raises `InputError` by the dotted path of what is wrong."""
    return build(StudyConfig, read_toml(path))
