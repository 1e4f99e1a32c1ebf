"""What the configuration file holds: slots, what may stand in for a fresh model, when things run, who is told.

`read_configuration` reads it whole; `WeeklyConfig` is the part that a run gets as its parameter. Schedule and alarms
are no part of that: an alarm's address is a secret, and parameters lie in clear in Prefect's database.
Imports neither torch nor the client, so that `eraflow status` answers in a second.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from eraflow.config import build, read_toml
from eraflow.errors import InputError
from eraflow.rounds import Round
from eraflow.store import STATE_FILE, safe_name
from eraflow.submission import SubmissionConfig

CONFIG_FILE = "weekly.toml"
WEEK_S = 7 * 24 * 3600.0

# The weekly round opens on Saturday at 12:00 UTC, often minutes later, and closes on Sunday at 14:00 UTC; the others
# open from Tuesday to Friday at 12:00 UTC and close an hour later.
WEEKLY_CRONS = ("5 12,14,17,21 * * 6", "5 2,7,10,12 * * 0")
# The first waits for the opening, and the others are cancelled meanwhile; they are for when it died.
DAILY_CRONS = ("58 11 * * 2-5", "18,38 12 * * 2-5")
WATCH_CRONS = (
    "10 18,23 * * 6",
    "10 6,9,11 * * 0",
    "30,55 12 * * 0",
    "20,40 13 * * 0",
    "20,35,50 12 * * 2-5",
    "5,20,35,50 13 * * 2-5",
)
SCORES_CRONS = ("15 19 * * *",)


@dataclass(frozen=True, kw_only=True)
class FallbackConfig:
    """What is sent when a fresh model cannot be ready in time."""

    max_age_weeks: float = 8.0
    """An older model that was trained longer ago than this is not used [weeks]."""
    min_spearman: float = 0.0
    """Nor is one whose mean era Spearman on its hold-out is not above this; a fresh one that is not is sent only where
    nothing stands in for it, and never if its training was cut as well."""
    benchmark: str = ""
    """Column of `live_benchmark_models.parquet` to send when there is no model either; empty: never."""
    reserve_s: float = 300.0
    """Kept free before the deadline, beyond what prediction and submission usually take [s]."""
    takeover_s: float = 1800.0
    """With less than this left the watch no longer leaves the round to a run that is still at work [s]."""

    def __post_init__(self) -> None:
        for name in ("max_age_weeks", "reserve_s", "takeover_s"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise ValueError(f"{name} must be 0 or more, however {getattr(self, name)} was given")

    def against_score(self, spearman_mean: float | None) -> str | None:
        """Why a model with this mean era Spearman on its hold-out is not good; None if it is."""
        if spearman_mean is not None and spearman_mean > self.min_spearman:
            return None
        return f"has a mean era Spearman of {spearman_mean}, not above fallback.min_spearman = {self.min_spearman:g}"


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """When the deployments run: five-field crons, an empty list for never."""

    time_zone: str = "UTC"
    """Of all crons; the tournament's timetable is in UTC."""
    weekly: tuple[str, ...] = WEEKLY_CRONS
    daily: tuple[str, ...] = DAILY_CRONS
    watch: tuple[str, ...] = WATCH_CRONS
    scores: tuple[str, ...] = SCORES_CRONS

    def __post_init__(self) -> None:
        from cronsim import CronSim, CronSimError

        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"time_zone must name a time zone, as UTC or Europe/Berlin, however {self.time_zone!r} was given"
            ) from None
        for name in ("weekly", "daily", "watch", "scores"):
            for cron in getattr(self, name):
                try:
                    CronSim(cron, datetime.now(UTC))
                except CronSimError as error:
                    raise ValueError(f"{name} must hold five-field crons, however {cron!r} is none: {error}") from None

    def plays(self, opened: Round) -> bool:
        """Whether rounds of this kind are played at all."""
        return bool(self.daily if opened.is_daily else self.weekly)


@dataclass(frozen=True, kw_only=True)
class AlarmConfig:
    """Who is told. An address may be given as `$NAME`, which reads the environment variable NAME."""

    urls: tuple[str, ...] = field(default=(), repr=False)
    """Where alarms go, each in the form of the apprise library, as `mailtos://...`."""
    heartbeat_url: str = field(default="", repr=False)
    """Requested after each round whose slots are all verified, so that an outside monitor misses a dead machine."""
    receipts: bool = False
    """Tell of each receipt too, not only of what went wrong."""


@dataclass(frozen=True, kw_only=True)
class WeeklyConfig:
    """The part of the configuration that a run gets. Holds no secret."""

    data_version: str = "v5.3"
    """The tournament's data version, a folder of its file names."""
    slots: Mapping[str, str] = field(default_factory=dict)
    """Slot (the account's model name in tournament 8) -> recipe, or one of `variants`."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name -> the `recipe` that it changes, and the tables of values that it changes."""
    submission: SubmissionConfig = field(default_factory=SubmissionConfig)
    fallback: FallbackConfig = field(default_factory=FallbackConfig)

    def __post_init__(self) -> None:
        try:
            safe_name(self.data_version)
        except InputError:
            raise ValueError(
                f"data_version must be the name of one folder, as v5.3, however {self.data_version!r} was given"
            ) from None

    def against(self, *, cut: bool, data_version: str | None, age_s: float, spearman_mean: float | None) -> str | None:
        """Why a model that tells this of itself may not stand in for a fresh one; None if it may."""
        age_weeks = age_s / WEEK_S
        if cut:
            return "was never finished"
        if data_version != self.data_version:
            return f"is of data version {data_version or 'unknown'}, not {self.data_version}"
        if age_weeks > self.fallback.max_age_weeks:
            limit = f"fallback.max_age_weeks = {self.fallback.max_age_weeks:g}"
            return f"is {age_weeks:.1f} weeks old, above {limit}"
        return self.fallback.against_score(spearman_mean)


@dataclass(frozen=True, kw_only=True)
class Configuration(WeeklyConfig):
    """The whole file."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)

    @property
    def weekly(self) -> WeeklyConfig:
        """What a run gets of it."""
        return WeeklyConfig(**{part.name: getattr(self, part.name) for part in fields(WeeklyConfig)})


def read_configuration(path: Path | None) -> Configuration:
    """The configuration in the file at `path`, or all defaults without one.

    Raises `InputError` naming the file and the dotted path of what is wrong; of alarms never with the value, which may
    be an address with a password.
    """
    if path is None:
        return Configuration()
    table = read_toml(path)
    try:
        return build(Configuration, table)
    except InputError as error:
        what, however, _ = error.message.partition(", however ")
        if not (however and re.match(r"alarm\b", what)):
            raise InputError(f"{path}: {error.message}") from error
        problem = InputError(f"{path}: {what}, however it is not; what was given is not shown, as it may be a secret")
    raise problem


def default_config_file(home: Path) -> Path | None:
    """The configuration of this home: `weekly.toml` in it, else what the `eraflow up` that runs here was given."""
    path = home / CONFIG_FILE
    if path.is_file():
        return path
    try:
        return Path(json.loads((home / STATE_FILE).read_bytes())["config_file"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def from_environment(text: str, path: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text`, or for `$NAME` the environment variable of that name. Raises `InputError` if it is not set."""
    named = re.fullmatch(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?", text)
    if named is None:
        return text
    if not environ.get(named[1]):
        raise InputError(f"{path} reads the environment variable {named[1]}, however it is not set; set it or correct")
    return environ[named[1]]


def next_times(crons: Iterable[str], time_zone: str, after_utc: datetime, count: int) -> list[datetime]:
    """The next `count` moments (UTC) at which one of `crons` is due after `after_utc`, soonest first.

    >>> next_times(["5 12 * * 6"], "UTC", datetime(2026, 11, 24, tzinfo=UTC), 1)[0].isoformat()
    '2026-11-28T12:05:00+00:00'
    """
    from cronsim import CronSim

    local = after_utc.astimezone(ZoneInfo(time_zone))
    due = {moment.astimezone(UTC) for cron in crons for moment in islice(CronSim(cron, local), count)}
    return sorted(due)[:count]
