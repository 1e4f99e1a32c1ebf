"""What the submissions of a round score in the made-up market, day by day until the round resolves.

The last day's value is the true one: the tournament's own metrics of the submitted predictions on the targets that
the live file hides. Earlier days lead there along a path that wanders and ends; drawn from the submission's bytes, it
is the same whenever and however often it is asked for. Nothing is scored where the data come from a folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from eraflow.rehearsal.publishing import Publisher
from eraflow.rehearsal.state import Submission
from eraflow.rehearsal.timetable import SCORE_DAYS, ScheduledRound

F64 = npt.NDArray[np.float64]

TARGET = "target_ender_60"
BENCHMARK = "target_ender_60"
SPREADS = {"corr60": 0.1, "mmc60": 0.03, "bmc60": 0.03}
"""Display name -> standard deviation of a round's final score over the models of the made-up field."""
VERSION = "v1"


@dataclass(frozen=True, kw_only=True)
class DayScore:
    """One score of a submission as of one day."""

    name: str
    version: str
    day: int
    """Counted from 1; that of `SCORE_DAYS` is final."""
    value: float | None
    percentile: float | None
    """Share of the made-up field that has less, 0 to 1."""


class Scorer:
    """Scores submissions; what it has computed it keeps, so that asking again costs nothing."""

    def __init__(self, publisher: Publisher, stored: Callable[[str], bytes]) -> None:
        self._publisher, self._stored = publisher, stored
        self._lock = threading.Lock()
        self._paths: dict[tuple[str, int], dict[str, F64]] = {}

    def rows(self, one: Submission, at: ScheduledRound, now_utc: datetime) -> list[DayScore]:
        """Every score of a submission to that round so far, newest day first."""
        days = at.days_scored(now_utc)
        if not days or one.sha256 is None or self._publisher.data_from is not None:
            return []
        with self._lock:
            paths = self._paths.get((one.sha256, at.number))
            if paths is None:
                paths = self._paths[one.sha256, at.number] = self._scored(one.sha256, at)
        return [_row(name, day, float(paths[name][day - 1])) for day in range(days, 0, -1) for name in paths]

    def _scored(self, sha256: str, at: ScheduledRound) -> dict[str, F64]:
        """Display name -> its value on each day."""
        from eraflow.metrics import contribution, numerai_corr

        market = self._publisher.market
        live = market.live(at.week, at.number)
        value_of = {row["id"]: float(row["prediction"]) for row in _csv(self._stored(sha256))}
        if set(value_of) != set(live.id_N):  # sent while another market was behind this home
            return {}
        prediction = np.array([value_of[one] for one in live.id_N])
        target, era = live.targets[TARGET], np.full(len(live.id_N), live.number)
        benchmark = market.benchmark(live, BENCHMARK, at.number)
        final = {
            "corr60": numerai_corr(prediction, target, era),
            "mmc60": contribution(prediction, market.meta_model(live), target, era),
            "bmc60": contribution(prediction, benchmark, target, era),
        }
        drawn_from = f"{sha256} {at.number}"
        return {name: _path(name, float(found.iloc[0]), drawn_from) for name, found in final.items()}


def _csv(data: bytes) -> csv.DictReader[str]:
    return csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))


def _path(name: str, final: float, drawn_from: str) -> F64:
    """From little on the first day to exactly `final` on the last: a bridge, wide in the middle."""
    seed = int.from_bytes(hashlib.sha256(f"{drawn_from} {name}".encode()).digest()[:8], "big")
    done = np.arange(1, SCORE_DAYS + 1) / SCORE_DAYS
    walk = np.cumsum(np.random.default_rng(seed).standard_normal(SCORE_DAYS)) / SCORE_DAYS**0.5
    path = final * done**0.5 + 0.3 * SPREADS[name] * (walk - done * walk[-1])
    path[-1] = final
    return np.asarray(path, dtype=np.float64)


def _row(name: str, day: int, value: float) -> DayScore:
    known = math.isfinite(value)
    field = NormalDist(0.0, SPREADS[name] * (day / SCORE_DAYS) ** 0.5)
    return DayScore(
        name=name,
        version=VERSION,
        day=day,
        value=value if known else None,
        percentile=field.cdf(value) if known else None,
    )
