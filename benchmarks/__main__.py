"""All claims about speed and memory, one script after the other, and a table of them at the end.

    make bench                        the small form of each, under ten minutes on two cores
    make bench-full                   the large form of each
    python -m benchmarks [--full] [--only NAME ...] [--table FILE]

Nothing else should run beside it. A figure that misses its aim is told, and is no failure; a script that breaks is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.claims import COLLECT, Claim

SCRIPTS = {
    "first_load": "a parquet file becomes the stored matrix",
    "later_load": "the stored matrix is mapped",
    "training_speed": "rows a second of the loop",
    "training_members": "several members in one pass",
    "training_exam": "what the hold-out's exams cost",
    "larger_than_memory": "training from the disk",
    "shuffling": "the order of rows and the score",
    "spearman": "era Spearman",
    "five_blocks": "what Spearman a perfect ranking of five blocks reaches",
    "neutralisation": "neutralising an era",
    "metrics": "the tournament's scores of many columns",
    "coverage": "whether a 95 % interval covers what it should",
    "false_alarms": "how often a whole study is wrong",
    "market": "the synthetic market beside published figures",
    "live_file": "from the live file to the submission file",
    "whole_validation": "predicting the whole validation file",
    "safety_cost": "what safety costs a round",
    "gpu_epoch": "an epoch on a GPU",
}
# Minutes that say nothing of speed: with --full, or by name.
FULL_ONLY = ("shuffling", "market", "false_alarms", "safety_cost")
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "scipy", "fastai", "numerai-tools")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the large form of each")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, metavar="NAME", help=f"some of: {', '.join(SCRIPTS)}")
    parser.add_argument("--table", type=Path, help="write the table there too, as Markdown")
    given = parser.parse_args()
    claims: list[Claim] = []
    broken: list[str] = []
    began = time.perf_counter()
    for name in given.only or [name for name in SCRIPTS if given.full or name not in FULL_ONLY]:
        print(f"\n== {name}: {SCRIPTS[name]}", flush=True)
        started = time.perf_counter()
        found, ok = run(name, full=given.full)
        print(f"   {time.perf_counter() - started:.0f} s", flush=True)
        claims += found
        broken += [] if ok else [name]
    minutes = (time.perf_counter() - began) / 60
    text = "\n".join([*machine(), f"{minutes:.1f} minutes in all", "", *table(claims)])
    print(f"\n{text}")
    if given.table:
        given.table.write_text(text + "\n", encoding="utf-8")
    if broken:
        print(f"\nthese scripts broke: {', '.join(broken)}")
    return 1 if broken else 0


def run(name: str, *, full: bool) -> tuple[list[Claim], bool]:
    """The claims of one script and whether it ran to its end."""
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "claims"
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--full"] if full else [])]
        ended = subprocess.run(command, env=os.environ | {COLLECT: str(collected)}, check=False)  # noqa: S603 - ours
        lines = collected.read_text(encoding="utf-8").splitlines() if collected.exists() else []
    return [Claim(**json.loads(line)) for line in lines], ended.returncode == 0


def table(claims: list[Claim]) -> list[str]:
    """Markdown."""
    rows = [f"| {c.name} | {c.aim} | {c.found} | {c.verdict} | {c.note} |" for c in claims]
    return ["| claim | aim | found (range over the rounds) | | |", "|---|---|---|---|---|", *rows]


def machine() -> list[str]:
    """Processor, memory, versions, commit, for above the table."""
    cpu = _first("/proc/cpuinfo", "model name") or platform.processor()
    memory = int((_first("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, commit {_commit()}",
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    ]


def _first(path: str, name: str) -> str | None:
    if not Path(path).exists():
        return None
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - git alone
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
