"""When the rounds of the local tournament open, close and are scored; a pure function of the number.

A round opens on Saturday at 12:00 UTC, and unless `weekly_only` also from Tuesday to Friday; its number is one more
than that of the round before. It opens late the way the real ones did: each round draws one of the delays in
`openings.csv`. At a `Pace` rounds follow one another within seconds or minutes instead, each in place of a week.
Nothing here knows what time it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files

import numpy as np

from eraflow.errors import InputError

FIRST_NUMBER = 1400
"""The number of the Saturday round that a new tournament begins with."""
OPENING_HOUR_UTC = 12
DAY_CLOSES_AFTER_S = 3600.0
"""Tuesday to Friday: 12:00 to 13:00 UTC."""
WEEKEND_CLOSES_AFTER_S = 26 * 3600.0
"""Saturday 12:00 to Sunday 14:00 UTC."""
SHORTEST_WINDOW_S = 3600.0
"""However late a round opens, it stays open for an hour."""
LINGERS_S = 3600.0
"""After the on-time deadline the round is still the current one for this long: `closeTime`."""
# Days after the Saturday on which a week begins: Saturday, then Tuesday to Friday.
DAYS_OF_A_WEEK = (0, 3, 4, 5, 6)
RESOLVES_AFTER_WEEKDAYS = 63
SCORE_DAYS = 60
"""A round is scored on so many weekdays, the last of them that on which it resolves."""
SCORING_HOUR_UTC = 16
WEEKDAYS_OF_A_WEEK = 5


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Fast rounds: from one round on, another opens every `every_s` seconds of the tournament's clock."""

    first_number: int
    begins_utc: datetime
    """When the first of them is scheduled."""
    every_s: float
    window_s: float
    """From a round's real opening to its on-time deadline [s]."""
    delay_scale: float = 0.0
    """Drawn delays are multiplied by this; 0 opens every round on time."""

    def __post_init__(self) -> None:
        if not (1 <= self.every_s <= 1e7 and 0 < self.window_s <= self.every_s):
            raise InputError(
                "fast rounds must open every 1 s or more, for no longer than that, however one every"
                f" {self.every_s:g} s for {self.window_s:g} s was asked for"
            )
        if not 0 <= self.delay_scale * max(observed_delays_s()) <= self.longest_delay_s:
            raise InputError(
                f"the longest delay of fast rounds must fit between two windows ({self.longest_delay_s:g} s), however"
                f" delay_scale {self.delay_scale:g} makes it {self.delay_scale * max(observed_delays_s()):g} s"
            )

    @property
    def longest_delay_s(self) -> float:
        """A round that opens later than this would still be open when the next one opens [s]."""
        return self.every_s - self.window_s


@dataclass(frozen=True, kw_only=True)
class ScheduledRound:
    """One round. All times are UTC-aware."""

    number: int
    week: int
    """Saturdays, or fast rounds, since the tournament began; the market grows by one era with each."""
    scheduled_utc: datetime
    """Noon of its day; what is announced before it opens."""
    opens_at_utc: datetime
    """When it really opens; nobody knows before."""
    closes_at_utc: datetime
    """The on-time deadline, the API's `closeStakingTime`."""
    ends_at_utc: datetime
    """The API's `closeTime`: from here to the next opening no round is current."""
    weekday_s: float | None = None
    """How long a weekday of its scoring lasts [s] if it is a fast round."""

    @property
    def resolves_at_utc(self) -> datetime:
        return self.scored_at_utc(SCORE_DAYS)

    def scored_at_utc(self, day: int) -> datetime:
        """When the score of this day, counted from 1, is told."""
        weekdays = day + RESOLVES_AFTER_WEEKDAYS - SCORE_DAYS
        if self.weekday_s is not None:
            return self.scheduled_utc + timedelta(seconds=weekdays * self.weekday_s)
        return add_weekdays(self.scheduled_utc, weekdays).replace(hour=SCORING_HOUR_UTC)

    def days_scored(self, now_utc: datetime) -> int:
        """So many of its `SCORE_DAYS` days are scored by now."""
        return bisect_right(range(1, SCORE_DAYS + 1), now_utc, key=self.scored_at_utc)


@dataclass(frozen=True)
class Timetable:
    """All rounds from `begins_utc`, the noon of a Saturday, on."""

    begins_utc: datetime
    weekly_only: bool
    seed: int
    delay_s_of: Mapping[int, float] = field(default_factory=dict)
    """Delays that were asked for, by round number; the others are drawn."""
    paces: Sequence[Pace] = ()
    """Stretches of fast rounds in order; each goes on until the next one's first round."""
    early_s_of: Mapping[int, float] = field(default_factory=dict)
    """How much earlier than usual a round closes [s], by its number; its end moves along."""

    def round(self, number: int) -> ScheduledRound:
        """The round of this number. Raises `ValueError` below `FIRST_NUMBER`."""
        if number < FIRST_NUMBER:
            raise ValueError(f"the first round is {FIRST_NUMBER}, however {number} was asked for")
        pace = next((one for one in reversed(self.paces) if one.first_number <= number), None)
        usual = self._usual_round(number) if pace is None else self._fast_round(number, pace)
        early = timedelta(seconds=self.early_s_of.get(number, 0.0))
        return replace(usual, closes_at_utc=usual.closes_at_utc - early, ends_at_utc=usual.ends_at_utc - early)

    def _usual_round(self, number: int) -> ScheduledRound:
        days = (0,) if self.weekly_only else DAYS_OF_A_WEEK
        week, day = divmod(number - FIRST_NUMBER, len(days))
        scheduled = self.begins_utc + timedelta(days=7 * week + days[day])
        opens = scheduled + timedelta(seconds=self._delay_s(number))
        closes = scheduled + timedelta(seconds=DAY_CLOSES_AFTER_S if day else WEEKEND_CLOSES_AFTER_S)
        closes = max(closes, opens + timedelta(seconds=SHORTEST_WINDOW_S))
        return ScheduledRound(
            number=number,
            week=week,
            scheduled_utc=scheduled,
            opens_at_utc=opens,
            closes_at_utc=closes,
            ends_at_utc=closes + timedelta(seconds=LINGERS_S),
        )

    def _fast_round(self, number: int, pace: Pace) -> ScheduledRound:
        fast = number - pace.first_number
        scheduled = pace.begins_utc + timedelta(seconds=fast * pace.every_s)
        opens = scheduled + timedelta(seconds=self._delay_s(number, pace.delay_scale))
        closes = opens + timedelta(seconds=pace.window_s)
        # Half of the time that is left belongs to the round, so that there is some in which no round is current.
        lingers = (scheduled + timedelta(seconds=pace.every_s) - closes) / 2
        return ScheduledRound(
            number=number,
            week=self.round(pace.first_number - 1).week + 1 + fast,
            scheduled_utc=scheduled,
            opens_at_utc=opens,
            closes_at_utc=closes,
            ends_at_utc=closes + max(lingers, timedelta(0)),
            weekday_s=pace.every_s / WEEKDAYS_OF_A_WEEK,
        )

    def latest(self, now_utc: datetime) -> ScheduledRound:
        """The round that opened last."""
        if self.paces:
            pace = self.paces[-1]
            fast = int((now_utc - pace.begins_utc).total_seconds() // pace.every_s)
            number = pace.first_number + max(fast, -1)
        else:
            per_week = 1 if self.weekly_only else len(DAYS_OF_A_WEEK)
            weeks = (now_utc - self.begins_utc).days // 7
            number = FIRST_NUMBER + max(weeks, 0) * per_week + per_week - 1
        while number > FIRST_NUMBER and self.round(number).opens_at_utc > now_utc:
            number -= 1
        return self.round(number)

    def following(self, now_utc: datetime) -> ScheduledRound:
        """The next round that has not opened yet."""
        return self.round(self.latest(now_utc).number + 1)

    def _delay_s(self, number: int, scale: float = 1.0) -> float:
        if number in self.delay_s_of:
            return float(self.delay_s_of[number])
        if not scale:
            return 0.0
        delays = observed_delays_s()
        return scale * float(delays[int(np.random.default_rng([self.seed, number]).integers(len(delays)))])


def last_saturday_noon(now_utc: datetime) -> datetime:
    """The noon of the last Saturday that has passed its latest opening, so that a round has surely opened.

    >>> last_saturday_noon(datetime(2026, 11, 24, 8, tzinfo=UTC)).isoformat()
    '2026-11-21T12:00:00+00:00'
    """
    latest = now_utc - timedelta(seconds=max(observed_delays_s()))
    noon = latest.astimezone(UTC).replace(hour=OPENING_HOUR_UTC, minute=0, second=0, microsecond=0)
    noon -= timedelta(days=(noon.weekday() - 5) % 7)
    return noon if noon <= latest else noon - timedelta(days=7)


@cache
def observed_delays_s() -> tuple[int, ...]:
    """The observed delays after 12:00 UTC [s], in the order of the rounds; their source stands in the file."""
    text = files("eraflow.rehearsal").joinpath("openings.csv").read_text(encoding="utf-8")
    return tuple(int(line) for line in text.splitlines() if line.isdigit())


def add_weekdays(moment: datetime, days: int) -> datetime:
    """`moment` moved by working days; a weekend's moment counts as the Monday after it.

    >>> add_weekdays(datetime(2026, 9, 1, 12, tzinfo=UTC), 63).date().isoformat()  # round 1345
    '2026-11-27'
    """
    moment += timedelta(days=max(0, 7 - moment.weekday()) if moment.weekday() > 4 else 0)
    weeks, rest = divmod(days, 5)
    moment += timedelta(days=7 * weeks)
    for _ in range(rest):
        moment += timedelta(days=3 if moment.weekday() == 4 else 1)
    return moment
