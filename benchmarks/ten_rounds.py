"""Ten rounds in a row that nobody starts by hand: `eraflow up`, its deployments on schedules of seconds, fast rounds.

    python -m benchmarks.ten_rounds [--rounds 10] [--every 45] [--window 40] [--due-every 20]

A round opens every `--every` seconds and is open for `--window`; all scheduled deployments are due each `--due-every`
seconds, so Saturday's, the daily one and the watch compete for every round. In the first round there is no model, nor
is it known how long anything takes, so a benchmark is allowed to stand in. Prints a table; exits with 1 if a slot of a
round has not exactly one verified submission in time. A run needs some seconds of two cores to start: on a busy
machine give larger figures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.on_time import Judged, Window, judge, summary, table
from eraflow.errors import EraflowError
from eraflow.ledger import Ledger
from eraflow.rehearsal import MarketConfig
from eraflow.rounds import Round
from eraflow.store import Store
from eraflow.tournament import Tournament
from tests.behaviour.outage import World

TINY = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=30)
# Any hour, so that each is scheduled; the interval replaces it.
SCHEDULE = {name: ["0 * * * *"] for name in ("weekly", "daily", "watch")}
SETTINGS = """
[fallback]
benchmark = "v53_lgbm_ender60"
reserve_s = 1
takeover_s = 8
"""
LOOK_EACH_S = 0.5


def world_in(folder: Path) -> World:
    """A home, its tournament and its configuration; `eraflow up` is not started yet."""
    return World(folder, schedule=SCHEDULE, settings=SETTINGS, market=TINY)


def play(world: World, *, rounds: int, every_s: float, window_s: float, due_every_s: float) -> list[Judged]:
    """Serve until so many fast rounds are over, then judge them."""
    with world.up(due_every_s):
        world.local.set_pace(every_s, window_s)
        seen = _rounds_as_told(world, rounds, every_s)
    return judged_in(world, seen)


def judged_in(world: World, rounds: Iterable[Window]) -> list[Judged]:
    """What became of every slot of these rounds."""
    return judge(rounds, world.local, Ledger(Store.open(world.home).ledger_path, world.local.url), world.slots)


def _rounds_as_told(world: World, count: int, every_s: float) -> list[Round]:
    """The next rounds, as the tournament tells them to anybody who asks, once the last of them is over."""
    tournament, seen = Tournament.from_environment(world.environment), dict[int, Round]()
    give_up_s = time.monotonic() + (count + 2) * every_s
    while len(seen) < count or world.local.now_utc() < max(one.closes_at_utc for one in seen.values()):
        if time.monotonic() > give_up_s:
            raise EraflowError(f"{count} rounds must open, however only {sorted(seen)} did")
        found = tournament.glance()
        if found is not None and len(seen) < count:
            seen.setdefault(found.number, found)
        time.sleep(LOOK_EACH_S)
    if sorted(seen) != list(range(min(seen), min(seen) + count)):
        raise EraflowError(f"no round may go unseen, however these were: {sorted(seen)}")
    return [seen[number] for number in sorted(seen)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--every", type=float, default=45.0, metavar="S")
    parser.add_argument("--window", type=float, default=40.0, metavar="S")
    parser.add_argument("--due-every", type=float, default=20.0, metavar="S")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep everything there")
    given = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, world_in(given.keep or Path(folder) / "world") as world:
        judged = play(
            world, rounds=given.rounds, every_s=given.every, window_s=given.window, due_every_s=given.due_every
        )
        alarms = Counter(title.split(",")[0] for title in world.bell.titles())
    print(table(judged))
    print(summary(judged))
    print(f"{time.perf_counter() - started:.0f} s; alarms:")
    for title, count in alarms.items():
        print(f"{count:4} {title}")
    return 1 if any(one.wrong for one in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
