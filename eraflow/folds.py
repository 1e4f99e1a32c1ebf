"""Walk-forward folds: train on what came before, leave out the purge, validate on the next chunk, and so on.

`walk_forward` is what a study uses; `reserved_fold` is the one way to the eras that no study touches.

All lengths are original weekly eras, counted by the eras' numbers; the purge comes before any down-sampling. Pass the
eras that have a target: an era without one can be neither trained on nor scored.

Shape letter: E eras.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from eraflow import splits
from eraflow.errors import InputError
from eraflow.splits import Eras


@dataclass(frozen=True, kw_only=True)
class Folds:
    """How the eras are divided. The defaults are the tournament's own table, by which its benchmark models are made:
    chunks of 156 eras from era 1 on, each but the first validated by a model of all that came before, less the purge.
    """

    window: Literal["expanding", "sliding"] = "expanding"
    """Train on all earlier eras, or on the last `window_eras` of them."""
    window_eras: int | None = None
    """Length of the sliding window, purge not included; the first folds may have fewer."""
    chunk_eras: int = 156
    """Eras that one fold validates."""
    number: int | None = None
    """Folds, counted back from the last era; without it every chunk of the tournament's table, counted from era 1."""
    last_era: int | None = None
    """Validate no later era, so that the folds stay the same while the data grow; without it all up to the reserve."""
    purge_eras: int | None = None
    """Eras left out between training and validation; without it what the target's horizon asks for (8 or 16)."""
    era_stride: int = 1
    """Train on every n-th era, counted back from the newest."""
    reserved_from: int | None = None
    """First era of the reserve, which no study touches. A number and not a count: eras that are added make the reserve
    longer, and release nothing."""

    def __post_init__(self) -> None:
        if (self.window == "sliding") != (self.window_eras is not None):
            raise ValueError(f"window_eras must be given for a sliding window alone, however window is {self.window}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more, however it is {value}")


LEAST = {"window_eras": 1, "chunk_eras": 1, "number": 1, "purge_eras": 0, "era_stride": 1}
PRESETS = {"numerai": Folds()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One training and the eras that it is judged on, all distinct and in order."""

    number: int
    """From 1, in order of time; 0 is the reserve."""
    train_E: Eras
    validation_E: Eras
    purged_E: Eras
    """Earlier eras that are too near to the validation to train on."""

    def __str__(self) -> str:
        purged = f"purges {_told(self.purged_E)}, " if len(self.purged_E) else ""
        return f"{_name(self.number)} trains on {_told(self.train_E)}, {purged}validates {_told(self.validation_E)}"


def walk_forward(era: Any, config: Folds, target: str) -> list[Fold]:
    """The folds in order of time, none of which touches the reserve or an era within the purge of it.

    `era` holds whole numbers, repeated and in any order (those of the rows, say); `target` decides the purge.
    Raises `InputError`, naming the fold, if it has no training or no validation eras, if the purge takes all of its
    training eras, or if it would touch the reserve.

    >>> for fold in walk_forward(range(1, 400), Folds(), "target_ender_20"):
    ...     print(fold)
    fold 1 trains on 148 eras 1 to 148, purges 8 eras 149 to 156, validates 156 eras 157 to 312
    fold 2 trains on 304 eras 1 to 304, purges 8 eras 305 to 312, validates 87 eras 313 to 399
    """
    era_E, purge_eras = splits.distinct(era), _purge_eras(config, target)
    if not len(era_E):
        raise InputError("folds need eras that have a target, however none was given")
    ends = int(era_E[-1]) if config.last_era is None else config.last_era
    if config.reserved_from is not None:
        # The last purged weeks share days of their targets with the reserve.
        free = config.reserved_from - purge_eras - 1
        if config.last_era is not None and config.last_era > free:
            raise InputError(
                f"the last fold must end with era {free}, since eras from {config.reserved_from} on are reserved and"
                f" {purge_eras} before them are purged, however last_era is {config.last_era}; lower it"
            )
        ends = min(ends, free)
    starts = list(_starts(int(era_E[0]), ends, config))
    if not starts:
        raise InputError(
            f"there must be a fold, however the eras {era_E[0]} to {ends} that may be used do not reach beyond the"
            f" first chunk of {config.chunk_eras}; lower chunk_eras or set number"
        )
    return [
        _fold(number, era_E, start, min(start + config.chunk_eras - 1, ends), config, purge_eras)
        for number, start in enumerate(starts, start=1)
    ]


def reserved_fold(era: Any, config: Folds, target: str) -> Fold:
    """The reserve, validated by one model of what came before it less the purge: to be asked for once, by name.

    Raises `InputError` as `walk_forward`, and if the configuration reserves nothing.
    """
    if config.reserved_from is None:
        raise InputError("reserved_from must name the first era of the reserve, however nothing is reserved")
    era_E = splits.distinct(era)
    ends = int(era_E[-1]) if len(era_E) else 0
    return _fold(0, era_E, config.reserved_from, ends, config, _purge_eras(config, target))


def _purge_eras(config: Folds, target: str) -> int:
    return splits.purge_eras(target) if config.purge_eras is None else config.purge_eras


def _starts(first: int, ends: int, config: Folds) -> Iterator[int]:
    """The first era of each chunk that is validated."""
    chunk = config.chunk_eras
    if config.number is not None:
        return iter(range(ends - config.number * chunk + 1, ends + 1, chunk))
    # The chunk that holds the first era has nothing before it to train on.
    return iter(range(((first - 1) // chunk + 1) * chunk + 1, ends + 1, chunk))


def _fold(number: int, era_E: Eras, start: int, stop: int, config: Folds, purge_eras: int) -> Fold:
    validation_E = era_E[(era_E >= start) & (era_E <= stop)]
    before_E = era_E[era_E < start]
    train_E = before_E[before_E < start - purge_eras]
    name = f"{_name(number)}, which validates eras {start} to {stop},"
    if not len(validation_E):
        raise InputError(f"{name} must have validation eras, however the data have none of these; change the folds")
    if not len(before_E):
        raise InputError(
            f"{name} must have training eras, however the data begin with era {era_E[0]}; use fewer or shorter folds"
        )
    if not len(train_E):
        raise InputError(
            f"{name} must have training eras, however the purge of {purge_eras} takes all that come before it:"
            f" {_told(before_E)}; use fewer or shorter folds"
        )
    if config.window_eras is not None:
        train_E = train_E[train_E >= start - purge_eras - config.window_eras]
    if not len(train_E):
        raise InputError(
            f"{name} must have training eras, however the data have none of the {config.window_eras} in its window;"
            " lengthen the window"
        )
    return Fold(
        number=number,
        train_E=splits.every_nth(train_E, config.era_stride),
        validation_E=validation_E,
        purged_E=before_E[before_E >= start - purge_eras],
    )


def _name(number: int) -> str:
    return f"fold {number}" if number else "the reserve"


def _told(era_E: Eras) -> str:
    return f"{len(era_E)} eras {era_E[0]} to {era_E[-1]}" if len(era_E) > 1 else f"era {era_E[0]}"
