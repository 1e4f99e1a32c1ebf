"""A round of the tournament, and the time that is left of it.

The times of every round come from the API: timetables have changed five times since 2024 and openings drift by
minutes. The clock is the tournament's, not this machine's: `Clock` adds the difference that the answers' `Date`
header showed, so a machine whose clock is wrong still knows the deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

# `Date` has whole seconds and an answer takes time to arrive; less than this is no difference.
NOTICED_SKEW_S = 2.0
# The weekly round is open for a day, the ones from Tuesday to Friday for an hour.
SHORT_WINDOW = timedelta(hours=6)


def system_now_utc() -> datetime:
    """This machine's own clock."""
    return datetime.now(UTC)


@dataclass
class Clock:
    """The one clock: the system's, set right by what the tournament says."""

    system: Callable[[], datetime] = system_now_utc
    skew_s: float = field(default=0.0)
    """Tournament's time minus the system's [s]."""

    def now_utc(self) -> datetime:
        """The time at the tournament."""
        return self.system() + timedelta(seconds=self.skew_s)

    def heard(self, tournament_utc: datetime) -> None:
        """Take over the tournament's time if it differs by more than a `Date` header's own error."""
        difference_s = (tournament_utc - self.system()).total_seconds()
        if abs(difference_s - self.skew_s) > NOTICED_SKEW_S:
            self.skew_s = difference_s if abs(difference_s) > NOTICED_SKEW_S else 0.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of tournament 8. All times are UTC-aware."""

    number: int
    opens_at_utc: datetime
    closes_at_utc: datetime
    """The on-time deadline (the API's `closeStakingTime`); a later upload is late."""
    ends_at_utc: datetime | None = None
    """The API's `closeTime`."""

    def __post_init__(self) -> None:
        for name in ("opens_at_utc", "closes_at_utc", "ends_at_utc"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"{name} of round {self.number} must carry a time zone, however {moment} has none")

    @property
    def is_daily(self) -> bool:
        """One of those that are open for about an hour."""
        return self.closes_at_utc - self.opens_at_utc < SHORT_WINDOW

    def left_s(self, now_utc: datetime) -> float:
        """Seconds until the on-time deadline; negative after it."""
        return (self.closes_at_utc - now_utc).total_seconds()

    def is_open(self, now_utc: datetime) -> bool:
        """Opened, and the on-time deadline has not been reached."""
        return self.opens_at_utc <= now_utc < self.closes_at_utc


def duration_text(seconds: float) -> str:
    """A duration for people, two units long.

    >>> duration_text(93784)
    '1 d 2 h'
    >>> duration_text(61)
    '1 min 1 s'
    """
    seconds = round(abs(seconds))
    parts = [
        (seconds // 86400, "d"),
        (seconds % 86400 // 3600, "h"),
        (seconds % 3600 // 60, "min"),
        (seconds % 60, "s"),
    ]
    first = next((i for i, (n, _) in enumerate(parts) if n), len(parts) - 1)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2] if n or first == len(parts) - 1)
