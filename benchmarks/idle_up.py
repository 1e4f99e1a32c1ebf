"""What `eraflow up` costs while nothing happens, what its runs leave behind, and what removes that again.

    python -m benchmarks.idle_up [--runs 500] [--idle 60] [--keep FOLDER]

Prints processes and memory of an idle `up` in a fresh home, the CPU time of a minute of idling, and how database and
home grow over the runs of the pinned schedules, five rounds a week (see `played_runs`). Then the database's rows are
made older, first by more than a week and then by more than three months, and each time `up` is started and it is
shown what its own services remove and whether the file shrinks; more runs show whether it grows on. Linux only; half
an hour.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.played_runs import PINNED, SCHEDULED, PlayedRuns, due_in_a_week
from eraflow.rehearsal import MarketConfig
from eraflow.weekly_config import next_times
from flows.server import RETENTION_S
from tests.behaviour.outage import World
from tests.real_prefect import wait_until

TINY = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=30)
SETTLED_CPU_SHARE = 0.1
LOOK_EACH_S = 5.0
SETTLE_LIMIT_S = 180.0
# Rows that belong to runs, and so have to go with them; there are no others that runs add to.
OF_RUNS = (
    "flow_run", "flow_run_state", "task_run", "task_run_state", "log", "artifact", "artifact_collection", "events",
    "event_resources",
)  # fmt: skip
# The columns that decide how old a row is.
AGED = (("flow_run", "end_time"), ("events", "occurred"), ("event_resources", "occurred"))
# What the server keeps: ours for runs, Prefect's own for events.
RUNS_KEPT, EVENTS_KEPT = timedelta(seconds=RETENTION_S), timedelta(days=7)
COMPARED = 3
SHOWN_BYTES = 20_000
VACUUM_LIMIT_S = 300.0
# Events reach the database some seconds after what they tell of.
LATE_EVENTS_S = 10.0


class QuietWorld(World):
    """Without the tests' impatience, and in a time zone in which nothing comes due meanwhile."""

    @property
    def environment(self) -> dict[str, str]:
        found = super().environment
        del found["PREFECT_RUNNER_POLL_FREQUENCY"]
        return found


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of `up` and its memory [MB]."""

    name: str
    rss_mb: float
    pss_mb: float
    """Pages that it shares with others count in parts."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What lies in a home [bytes]."""

    file_bytes: int
    wal_bytes: int
    used_bytes: int
    """Pages of the database that hold something, those in the write-ahead log too."""
    free_bytes: int
    """Pages that hold nothing any more; they are used before the file grows."""
    home_bytes: int

    def __str__(self) -> str:
        return (
            f"prefect.db {mb(self.file_bytes)} MB and its wal {mb(self.wal_bytes)} MB, pages in use"
            f" {mb(self.used_bytes)} MB, free {mb(self.free_bytes)} MB; the whole home {mb(self.home_bytes)} MB"
        )


def mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.1f}"


def quiet_zone() -> str:
    """The whole-hour zone in which the pinned schedules leave the longest peace from now on."""

    def peace_s(zone: str) -> float:
        now_utc = datetime.now(UTC)
        crons = [cron for name in SCHEDULED for cron in getattr(PINNED, name)]
        return (next_times(crons, zone, now_utc, 1)[0] - now_utc).total_seconds()

    return max((f"Etc/GMT{hours:+d}" for hours in range(-14, 13)), key=peace_s)


def processes(world: World) -> list[Process]:
    """Those of `up`, as the kernel counts them."""
    found = []
    for process in world.processes():
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
        name = words[words.index("flows.lifeline") + 2] if "flows.lifeline" in words else "up"
        figures = {}
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
            label, amount, *_ = line.split()
            figures[label] = int(amount) * 1024 / 1e6
        found.append(Process(name=name, rss_mb=figures["Rss:"], pss_mb=figures["Pss:"]))
    return sorted(found, key=lambda one: one.name)


def cpu_s(world: World) -> dict[int, float]:
    """Process -> the CPU time that it has used [s]."""
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    found = {}
    for process in world.processes():
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        found[process] = (int(words[11]) + int(words[12])) / ticks_a_second
    return found


def cpu_over(world: World, seconds: float) -> float:
    """What all of them use in so many seconds [s]."""
    before = cpu_s(world)
    time.sleep(seconds)
    return sum(now - before.get(process, 0.0) for process, now in cpu_s(world).items())


def settle(world: World) -> None:
    """Wait until it idles: what it does once after its start is over."""
    started = time.monotonic()
    while cpu_over(world, LOOK_EACH_S) > SETTLED_CPU_SHARE * LOOK_EACH_S:
        if time.monotonic() - started > SETTLE_LIMIT_S:
            print(f"it has not come to rest in {SETTLE_LIMIT_S:.0f} s")
            return


def read_only(world: World) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{world.home / 'prefect' / 'prefect.db'}?mode=ro", uri=True)


def sizes(world: World) -> Sizes:
    """As of now; the server may be running."""
    database = world.home / "prefect" / "prefect.db"
    with closing(read_only(world)) as connection:
        page_bytes, pages, free_pages = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
    wal = database.with_name("prefect.db-wal")
    return Sizes(
        file_bytes=database.stat().st_size,
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        used_bytes=page_bytes * (pages - free_pages),
        free_bytes=page_bytes * free_pages,
        home_bytes=bytes_below(world.home),
    )


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def rows(world: World) -> dict[str, int]:
    """Table -> how many rows it has."""
    with closing(read_only(world)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
            for name in sorted(tables)
        }


def show_rows(before: dict[str, int], after: dict[str, int]) -> None:
    for name, count in after.items():
        if count != before.get(name, 0):
            print(f"  {name:24} {before.get(name, 0):7} -> {count:7}")


def timed_s(call: Callable[[], object], times: int = 5) -> float:
    """The median of some calls [s]."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def show_lists(world: World) -> None:
    """How long the lists take that the dashboard's first pages ask for, and the command beside them."""
    newest = {"sort": "START_TIME_DESC", "limit": 200}
    runs_s = timed_s(lambda: world.ask("flow_runs/filter", newest))
    artifacts_s = timed_s(lambda: world.ask("artifacts/latest/filter", {"limit": 200}))
    status_s = timed_s(lambda: world.command("status"), 3)
    print(f"newest 200 runs {runs_s:.2f} s, newest artifacts {artifacts_s:.2f} s, eraflow status {status_s:.1f} s")


def age(world: World, by: timedelta) -> None:
    """Let what is in the database have happened so much earlier; nothing may be using it."""
    with closing(sqlite3.connect(world.home / "prefect" / "prefect.db")) as connection, connection:
        for table, column in AGED:
            connection.execute(
                f"UPDATE {table} SET {column} = strftime('%Y-%m-%d %H:%M:%f', {column}, ?) || '000'"  # noqa: S608
                f" WHERE {column} IS NOT NULL",
                (f"-{by.total_seconds():.0f} seconds",),
            )


def rows_from_before(world: World, moment_utc: datetime, table: str) -> int:
    """How many rows that belong to ended runs were written before that moment."""
    ended = {"flow_run": " AND end_time IS NOT NULL", "flow_run_state": " AND type <> 'SCHEDULED'"}.get(table, "")
    with closing(read_only(world)) as connection:
        found = connection.execute(
            f"SELECT count(*) FROM {table} WHERE created < ?{ended}",  # noqa: S608
            (f"{moment_utc:%Y-%m-%d %H:%M:%S}",),
        )
        return int(found.fetchone()[0])


def machine() -> str:
    """Where and on what this ran."""
    told = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    model = next((text.strip() for name, _, text in told if name.startswith("model name")), "unknown")
    return f"{os.cpu_count()} cores ({model}), {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def measure_idle(world: World, idle_s: float) -> None:
    """Processes, memory and CPU time at rest."""
    settle(world)
    used_s = cpu_over(world, idle_s)
    found = processes(world)
    for one in found:
        print(f"  {one.name:24} RSS {one.rss_mb:6.1f} MB  PSS {one.pss_mb:6.1f} MB")
    print(
        f"{len(found)} processes, RSS {sum(one.rss_mb for one in found):.0f} MB, PSS"
        f" {sum(one.pss_mb for one in found):.0f} MB; {used_s:.2f} s of CPU in {idle_s:.0f} s of idling"
    )


def measure_growth(world: World, runs: PlayedRuns, count: int) -> int:
    """What so many runs leave behind; returns what was in use before them [bytes]."""
    before, rows_before = sizes(world), rows(world)
    print(f"before: {before}")
    seconds = runs.play(count)
    after = sizes(world)
    print(f"{count} runs in {seconds:.0f} s: {dict(runs.ran)}, ended {dict(runs.states)}")
    print(f"after: {after}")
    print(f"the database grows by {mb((after.used_bytes - before.used_bytes) / count * 100)} MB per 100 runs")
    show_rows(rows_before, rows(world))
    for path in (*world.home.iterdir(), *(world.home / "prefect").iterdir()):
        size_bytes = bytes_below(path) if path.is_dir() else path.stat().st_size
        if size_bytes > SHOWN_BYTES:
            print(f"  {path.relative_to(world.home).as_posix():24} {mb(size_bytes)} MB")
    return before.used_bytes


def compare_with_runner(world: World, runs: PlayedRuns) -> None:
    """A run in a process of its own against one in this process, both of a round that is safe."""
    runs.play_until_safe()
    for name in ("weekly", "watch"):
        for how, run in (("in a process of its own", runs.run_apart), ("here", runs.run)):
            time.sleep(LATE_EVENTS_S)
            before = rows(world)
            for _ in range(COMPARED):
                run(name)
            time.sleep(LATE_EVENTS_S)
            after = rows(world)
            told = {table: (after[table] - before[table]) / COMPARED for table in OF_RUNS}
            print(f"  {name} {how}: " + ", ".join(f"{table} {count:g}" for table, count in told.items() if count))


def measure_pruning(world: World, runs: PlayedRuns, empty_bytes: int) -> None:
    """More than a week later and more than three months later: what goes by itself, and does the file grow on?"""
    count, all_bytes = sum(runs.ran.values()), sizes(world).used_bytes
    let_pass(world, EVENTS_KEPT + timedelta(days=1), ("events", "event_resources"))
    without_events_bytes = sizes(world).used_bytes
    a_week = len(due_in_a_week(datetime.now(UTC)))
    kept = a_week * RUNS_KEPT / timedelta(days=7)
    of_runs = (without_events_bytes - empty_bytes) / count * kept
    of_events = (all_bytes - without_events_bytes) / count * a_week * (EVENTS_KEPT / timedelta(days=7))
    print(
        f"the pinned schedules start {a_week} runs a week: {kept:.0f} are kept with {mb(of_runs)} MB, and the events"
        f" of a week with {mb(of_events)} MB"
    )
    # One row for each artifact's key, with its newest value, which goes or is replaced once a day.
    let_pass(world, RUNS_KEPT, [table for table in OF_RUNS if table != "artifact_collection"])
    with world.up():
        settle(world)
        show_lists(world)
        seconds = runs.play(count // 5)
        print(f"after {count // 5} more runs ({seconds:.0f} s): {sizes(world)}")
    print(f"stopped: {sizes(world)}")
    with closing(sqlite3.connect(world.home / "prefect" / "prefect.db")) as connection:
        connection.execute("VACUUM")
    print(f"after a VACUUM by hand: {sizes(world)}")


def let_pass(world: World, by: timedelta, tables: Sequence[str]) -> None:
    """Start `up` when so much time has passed, until nothing old is left in these tables."""
    age(world, by)
    rows_before, begun_utc, started = rows(world), datetime.now(UTC), time.perf_counter()
    with world.up():
        wait_until(lambda: not any(rows_from_before(world, begun_utc, table) for table in tables), VACUUM_LIMIT_S)
        print(f"{by.days} days later, {time.perf_counter() - started:.0f} s after the start of `up`:")
        settle(world)
        show_rows(rows_before, rows(world))
        print(sizes(world))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--idle", type=float, default=60.0, metavar="S")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep everything there")
    given = parser.parse_args()
    print(machine())
    settings = f'time_zone = "{quiet_zone()}"\n[fallback]\nmax_age_weeks = 1000'  # models are dated by our own clock
    schedule = {name: list(getattr(PINNED, name)) for name in SCHEDULED}
    with (
        tempfile.TemporaryDirectory() as folder,
        QuietWorld(
            given.keep or Path(folder) / "world", schedule=schedule, settings=settings, market=TINY, weekly_only=False
        ) as world,
    ):
        started = time.perf_counter()
        with world.up():
            print(f"ready after {time.perf_counter() - started:.0f} s")
            measure_idle(world, given.idle)
            runs = PlayedRuns(world)
            empty_bytes = measure_growth(world, runs, given.runs)
            show_lists(world)
            compare_with_runner(world, runs)
            measure_idle(world, given.idle)
        measure_pruning(world, runs, empty_bytes)


if __name__ == "__main__":
    main()
