"""What eraflow does when things break: each outage played for real, and a table of what came of it.

    python -m benchmarks.outages [SCENE...] [--list] [--write docs/outages.md] [--keep FOLDER]

Against the real `eraflow up` (Prefect server, serving process, a process for each run), the real client, and the local
tournament on its movable clock; alarms go to an address of this machine. A scene is a function that yields what became
of its rounds; all of them take about half an hour. Ends with 1 if a round was not saved, anything was sent twice, or a
process was left behind.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.behaviour.outage import Outcome
from tests.behaviour.outage_kills import EVERY_S, KILLS
from tests.behaviour.outage_time import LATE
from tests.real_prefect import processes_of

SCENES: Mapping[str, Callable[[Path], Iterator[Outcome]]] = {**KILLS, **LATE}
HEAD = ("outage", "what happened", "receipts after", "left", "source", "accepted a slot", "alarms")
DOCUMENT = """# Outages

What eraflow does when things break. Each row was played against the real `eraflow up` (Prefect server, serving
process, a process for each run) and the local tournament on its movable clock; alarms went to an HTTP endpoint.
{claim}

- *receipts after*: from the kill, the restart, the trigger or the tournament's return until the last slot's
  submission was read back.
- *left*: from then until the on-time deadline, by the tournament's clock. A weekly round is open for 26 hours, a daily
  one for one.
- *source*: fresh, or the older model that stood in.
- *accepted a slot*: how many submissions the tournament took for each slot. More than one would be one too many.
- *alarms*: the titles of those that arrived, without the time left. An outage that costs nothing raises none.

Attempts are due every {every_s:g} s while runs are killed; in the other rows nothing is scheduled and each run is
triggered, caught up, or started by `eraflow status --check`, as a timer of the operating system does.

{table}

{command}, {rounds} rounds, on {machine}, {date}.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help="all of them by default")
    parser.add_argument("--list", action="store_true", help="name the scenes")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table and its explanation there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave homes and logs there")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name:12} {_sentence(name)}" for name in SCENES))
        return 0
    names, lines, good = given.scenes or list(SCENES), _say(_head()), True
    with tempfile.TemporaryDirectory(prefix="eraflow-outages-") as folder:
        for name in names:
            rows, is_good = _played(name, (given.keep or Path(folder)) / name)
            lines, good = lines + rows, good and is_good
    if given.write:
        given.write.write_text(_document(names, lines, good), encoding="utf-8")
    return 0 if good else 1


def _played(name: str, folder: Path) -> tuple[list[str], bool]:
    """Play one scene; its rows, and whether each round was saved, nothing sent twice, and nothing left behind."""
    started, rows, good = time.monotonic(), list[str](), True
    try:
        for outcome in SCENES[name](folder):
            rows += _say([outcome.row])
            good &= outcome.is_saved
    except Exception:
        # The others are still worth playing.
        traceback.print_exc()
        good = False
    left = processes_of(folder)
    for process, command in left.items():
        print(f"left behind: {process} {command}", file=sys.stderr)
    good = good and not left
    print(f"{name}: {'good' if good else 'NOT GOOD'}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return rows, good


def _head() -> list[str]:
    return [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]


def _say(lines: list[str]) -> list[str]:
    print("\n".join(lines), flush=True)
    return lines


def _sentence(name: str) -> str:
    return (SCENES[name].__doc__ or "").splitlines()[0]


def _document(names: list[str], lines: list[str], good: bool) -> str:
    given = "" if names == list(SCENES) else f" {' '.join(names)}"
    claim = "Every slot of every round had exactly one verified submission, in time." if good else "NOT ALL IS WELL."
    return DOCUMENT.format(
        claim=claim,
        every_s=EVERY_S,
        table="\n".join(lines),
        command=f"`.venv/bin/python -m benchmarks.outages{given}`",
        machine=f"{os.cpu_count()} cores of {_processor()}, {platform.system()}, Python {platform.python_version()}",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        rounds=len(lines) - len(_head()),
    )


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
