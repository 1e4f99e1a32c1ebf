"""What the tournament's answers list: rounds, slots, submissions and scores, as values. Asks nobody.

Each `read_...` takes one entry of an answer, as the client hands it on. Raises `KeyError`, `TypeError` or `ValueError`
for one of another shape than documented, which `tournament` turns into a passing fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from eraflow.rounds import Round


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A submission as the tournament lists it for a slot."""

    filename: str
    id: str | None
    inserted_at_utc: datetime | None


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One of the account's models in tournament 8."""

    name: str
    model_id: str
    hosted: bool | None
    """A pickle upload submits for it; None where the tournament would not tell."""


@dataclass(frozen=True, kw_only=True)
class ScoreEntry:
    """What a submission to one round scored, as of one day; `ledger.Score` says what each field means."""

    round: int
    name: str
    version: str
    day: int
    date: str | None
    """UTC, as 2026-11-27."""
    value: float | None
    percentile: float | None
    resolved: bool


@dataclass(frozen=True, kw_only=True)
class PayoutTerms:
    """What a round pays a unit of stake: `clip(factor * (corr * CORR + mmc * MMC))`."""

    corr: float
    mmc: float
    factor: float
    clip: float
    """No more than this is paid or burned."""


def read_payout(entry: Mapping[str, Any]) -> PayoutTerms:
    """The terms of a round, from `roundScoreConfigs`: of the scores that are paid, named as corr60 and mmc60 are."""
    paid = [one for one in entry["roundScoreConfigs"] if one["isPayout"]]
    multipliers = {"corr": 0.0, "mmc": 0.0}
    for one in paid:
        kinds = [kind for kind in multipliers if kind in str(one["name"]).lower()]
        if len(kinds) != 1:
            raise ValueError(f"a score that is paid must be a corr or an mmc, however it is {one['name']!r}")
        multipliers[kinds[0]] += _known(one["defaultMultiplier"])
    if not paid or entry.get("payoutFactor") is None:
        raise ValueError("a round must say what it pays, however this one does not")
    clips = [_known(one["clipThreshold"]) for one in paid if one.get("clipThreshold") is not None]
    return PayoutTerms(**multipliers, factor=_known(entry["payoutFactor"]), clip=min(clips, default=1.0))


def read_round(entry: Mapping[str, Any]) -> Round:
    closes = entry.get("closeStakingTime") or entry["closeTime"]
    ends = entry.get("closeTime")
    return Round(
        number=_whole(entry["number"]),
        opens_at_utc=_utc(entry["openTime"]),
        closes_at_utc=_utc(closes),
        ends_at_utc=_utc(ends) if ends else None,
    )


def read_listed(entry: Mapping[str, Any]) -> Listed:
    inserted, identity = entry.get("insertedAt"), entry.get("id")
    return Listed(
        filename=str(entry["filename"]),
        id=str(identity) if identity else None,
        inserted_at_utc=_utc(inserted) if inserted else None,
    )


def read_score(entry: Mapping[str, Any]) -> ScoreEntry:
    date = entry.get("date")
    return ScoreEntry(
        round=_whole(entry["roundNumber"]),
        name=str(entry["displayName"]),
        version=str(entry.get("version") or ""),
        day=_whole(entry.get("day") or 0),
        date=f"{_utc(date):%Y-%m-%d}" if date else None,
        value=_finite(entry.get("value")),
        percentile=_finite(entry.get("percentile")),
        resolved=bool(entry.get("resolved")),
    )


def data_versions(names: Iterable[str]) -> tuple[str, ...]:
    """The versions of the data among file names, the newest last; other folders are left out.

    >>> data_versions(["v5.3/live.parquet", "v5.10/live.parquet", "v4/live.parquet", "signals/v2.0/live.parquet"])
    ('v4', 'v5.3', 'v5.10')
    """
    found = {version[1] for name in names if (version := re.match(r"v(\d+(?:\.\d+)*)/", name, re.ASCII))}
    return tuple(f"v{version}" for version in sorted(found, key=version_key))


def version_key(version: str) -> tuple[int, ...]:
    """What orders versions by their numbers: `v5.10` is newer than `v5.3`.

    >>> version_key("v5.10") > version_key("v5.3") > version_key("v5")
    True
    """
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _whole(value: Any) -> int:
    number = int(value)
    if not -(2**31) <= number < 2**31:  # GraphQL's Int; more than that no ledger keeps
        raise ValueError(f"a whole number must have 32 bits, however it is {number}")
    return number


def _known(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a number must be finite, however it is {number}")
    return number


def _finite(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _utc(moment: datetime | str) -> datetime:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    # The API speaks UTC; some of its fields leave the zone out.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
