"""What eraflow does when things break: each outage played for real, and a table of what came of it.

    python benchmarks/outages.py [SCENE...] [--list] [--keep FOLDER]

Against the real `eraflow up` (Prefect server, serving process, a process for each run), the real client, and the local
tournament on its movable clock; alarms go to an address of this machine. A scene is a function in `SCENES` that
returns what became of its rounds. Ends with 1 if a round that could be saved was not, or anything was sent twice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.behaviour.outage import Outcome
from tests.behaviour.outage_kills import KILLS
from tests.behaviour.outage_time import LATE
from tests.real_prefect import processes_of

SCENES: Mapping[str, Callable[[Path], Iterator[Outcome]]] = {**KILLS, **LATE}
HEAD = ("outage", "what happened", "receipts after", "left", "source", "accepted a slot", "alarms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help="all of them by default")
    parser.add_argument("--list", action="store_true", help="name the scenes")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave homes and logs there")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name:12} {(scene.__doc__ or '').splitlines()[0]}" for name, scene in SCENES.items()))
        return 0
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    good = True
    with tempfile.TemporaryDirectory(prefix="eraflow-outages-") as folder:
        for name in given.scenes or SCENES:
            good &= _played(name, (given.keep or Path(folder)) / name)
    return 0 if good else 1


def _played(name: str, folder: Path) -> bool:
    """Play one scene and print its rows; False if a round was lost, sent twice, or the scene itself failed."""
    started, good = time.monotonic(), True
    try:
        for outcome in SCENES[name](folder):
            print(outcome.row, flush=True)
            good &= outcome.is_saved
    except Exception:
        # The others are still worth playing.
        traceback.print_exc()
        good = False
    left = processes_of(folder)
    print(f"{name}: {'good' if good and not left else 'NOT GOOD'}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    for process, command in left.items():
        print(f"  left behind: {process} {command}", file=sys.stderr)
    return good and not left


if __name__ == "__main__":
    sys.exit(main())
