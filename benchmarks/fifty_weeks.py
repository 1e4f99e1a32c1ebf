"""Fifty weeks by the pinned schedules: is every slot of every round submitted once, and in time?

    python -m benchmarks.fifty_weeks [--weeks 50] [--seed 0]

No server and no waiting: the local tournament's clock is moved from one moment at which a deployment is due to the
next, and what is due is called directly, for Saturday's rounds and the four of the week. Rounds open as late as real
ones did. In every fourth week the network has faults. In every seventh the machine is off from before Saturday's
opening until Sunday: in turn until the last attempt is still to come, and until only the watch is left. Prints a
summary; exits with 1 if a slot of a round is missing.
"""

from __future__ import annotations

import argparse
import heapq
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import torch

from benchmarks.on_time import Judged, judge, summary
from deployments.deploy import DAILY_WAIT_S, WEEKLY_WAIT_S
from eraflow import submission, tournament
from eraflow.ledger import Ledger
from eraflow.rehearsal import LocalTournament, MarketConfig, random_faults
from eraflow.rehearsal.timetable import FIRST_NUMBER, ScheduledRound, Timetable, last_saturday_noon
from eraflow.request import Request, make_request
from eraflow.rounds import system_now_utc
from eraflow.steps import POLL_S
from eraflow.store import Store
from eraflow.tell import alarm_config
from eraflow.watch import watch
from eraflow.weekly import plain_steps, play
from eraflow.weekly_config import ScheduleConfig, next_times

SLOTS = ("rehearsal_one", "rehearsal_two")
TINY = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=30)
FAULTY_EACH, OFF_EACH = 4, 7
# How long before the deadline a machine that was off is back: before the last attempt, and after it.
BACK = (timedelta(minutes=120), timedelta(minutes=100))
WAIT_S = {"weekly": WEEKLY_WAIT_S, "daily": DAILY_WAIT_S}


@dataclass(frozen=True, order=True)
class Due:
    """A deployment that is due, or one that has waited for the opening."""

    at_utc: datetime
    name: str
    waited: bool = False


class Weeks:
    """An account that nobody looks after, from the first Saturday on."""

    def __init__(self, local: LocalTournament, home: Path, seed: int) -> None:
        self.local, self.seed = local, seed
        self.timetable = Timetable(last_saturday_noon(system_now_utc()), weekly_only=False, seed=seed)
        self.schedule = ScheduleConfig()
        self.ran: Counter[str] = Counter()
        self.struck = 0
        self.request = make_request(
            home=home,
            recipe="simple-mlp",
            slots=SLOTS,
            assignments={
                "training.device": "cpu",
                "submission.readback_s": "1",
                # Models are dated by this machine's clock, which is not moved.
                "fallback.max_age_weeks": "1000",
            },
        )

    def play(self, weeks: int) -> list[Judged]:
        """Let so many weeks pass; judges their rounds."""
        first = self.timetable.following(self.local.now_utc()).number
        first += -(first - FIRST_NUMBER) % 5  # it begins on a Saturday, because the days live on its model
        rounds = [self.timetable.round(number) for number in range(first, first + 5 * weeks)]
        for week in range(weeks):
            self._play_week(week, rounds[5 * week : 5 * week + 5])
        return judge(rounds, self.local, self.ledger, SLOTS)

    @property
    def ledger(self) -> Ledger:
        return Ledger(Store.open(self.request.home).ledger_path, self.local.url)

    def _play_week(self, week: int, rounds: list[ScheduledRound]) -> None:
        before = len(self.local.faults.struck)
        if week % FAULTY_EACH == 1:
            self.local.faults.add(*random_faults(1000 * self.seed + week))
        waiting = list(self._due(week, rounds[0]))
        heapq.heapify(waiting)
        while waiting:
            due = heapq.heappop(waiting)
            self.local.move_clock(max(0.0, (due.at_utc - self.local.now_utc()).total_seconds()))
            if (again := self._run(due)) is not None:
                heapq.heappush(waiting, again)
        self.struck += len(self.local.faults.struck) - before
        self.local.faults.clear()

    def _due(self, week: int, saturday: ScheduledRound) -> Iterator[Due]:
        """What is due in the week that begins with this round, as far as the machine is on."""
        begins = back = saturday.scheduled_utc - timedelta(hours=1)
        if week % OFF_EACH == 2:
            back = saturday.closes_at_utc - BACK[week // OFF_EACH % len(BACK)]
        for name in ("weekly", "daily", "watch"):
            for at in next_times(getattr(self.schedule, name), self.schedule.time_zone, begins, 60):
                if back <= at < begins + timedelta(days=7):
                    yield Due(at, name)

    def _run(self, due: Due) -> Due | None:
        """Run what is due; returns when it would go on if it has to wait for a round to open."""
        self.ran[due.name] += 1
        if due.name == "watch":
            watch(self.request, alarm_config(self.request), os.environ)
            return None
        now_utc, was_open = self.local.now_utc(), self.local.open_round()
        play(self._request(due.name), replace(plain_steps(), report=lambda request, _: request.home / "report.html"))
        opens = self.timetable.following(now_utc).opens_at_utc + timedelta(seconds=POLL_S)
        if was_open is None and not due.waited and opens <= now_utc + timedelta(seconds=WAIT_S[due.name]):
            return Due(opens, due.name, waited=True)
        return None

    def _request(self, name: str) -> Request:
        return replace(self.request, train=name == "weekly")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # Faults are got over by trying again, here without the waits between.
    tournament.RETRY_WAITS_S = (0.01,) * 4
    tournament.LONGEST_WAIT_S = 0.01
    submission.READBACK_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with LocalTournament(Path(folder) / "tournament", market=TINY, seed=given.seed, weekly_only=False) as local:
            os.environ.update(
                ERAFLOW_API_URL=local.url, NUMERAI_PUBLIC_ID=local.public_id, NUMERAI_SECRET_KEY=local.secret_key
            )
            weeks = Weeks(local, home, given.seed)
            judged = weeks.play(given.weeks)
            alarms = Counter(note.kind for note in weeks.ledger.alarms(1000))
        size_bytes = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    print(summary(judged))
    print(f"{given.weeks} weeks in {time.perf_counter() - started:.0f} s: {_counts(weeks.ran)}; {weeks.struck} faults")
    print(f"alarms: {_counts(alarms)}; the home has grown to {size_bytes / 1e6:.1f} MB")
    return 1 if any(one.wrong for one in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
