"""What safety costs a round: its share of hashing, decoding to verify, syncing and reading back.

    python -m benchmarks.safety_cost [--full] [--recipe era-pearson]

Whole rounds from nothing against the local tournament, each in a home of its own, with a clock around everything that a
careless pipeline would leave out: the checksums of what arrives and is there, the decoding of every row group, the
synchronisation with the disk, the ledger, and what is asked and read back around a submission. What runs beside
something else counts in full, so that the true cost is less, and of the two rounds the dearer is told. Small: 100,000
rows x 310 features, with --full 300,000. A round with `era-pearson` trains for minutes; `--recipe simple-mlp` trains
for seconds, of which safety is a larger share. Nothing is slower than this machine's own loopback here: over a real
network a round takes longer, and safety does not. Aim: under 5 % of a round.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.claims import claim
from eraflow import dataset, files, ledger, runs, steps, store, stored, submission, transport
from eraflow.rehearsal import LocalTournament, MarketConfig
from eraflow.rehearsal.market import Market
from eraflow.rehearsal.market_files import write_market
from eraflow.weekly import plain_steps, play
from tests.behaviour.week import Week

ROUNDS = 2


class Clock:
    """Adds up the seconds that calls take, by what they are for; a call inside another of its thread counts once."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = threading.local()
        self._adding = threading.Lock()

    def around(self, what: str, done: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            if getattr(self._inside, "a_call", False):
                return done(*given, **named)
            self._inside.a_call = True
            started = time.perf_counter()
            try:
                return done(*given, **named)
            finally:
                self._inside.a_call = False
                with self._adding:
                    self.seconds[what] += time.perf_counter() - started

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="300,000 rows in place of 100,000")
    parser.add_argument("--recipe", default="era-pearson")
    given = parser.parse_args()
    rows = 1500 if given.full else 500
    market = MarketConfig(features=310, train_eras=100, validation_eras=100, rows_per_era=rows)
    with tempfile.TemporaryDirectory() as temporary:
        write_market(Market(market), Path(temporary) / "files")
        shares = []
        with LocalTournament(Path(temporary) / "tournament", data_from=Path(temporary) / "files") as local:
            for number in range(ROUNDS):
                local.open_next_round(delay_s=0)
                shares.append(measured(Week(local, Path(temporary) / f"home-{number}"), given.recipe))
    note = f"the dearer of {ROUNDS} rounds from nothing, {rows * 200:,} rows x 310 features, {given.recipe}"
    claim("what safety costs a round", 100 * max(shares), unit=" %", each=[100 * one for one in shares],
          at_most=5.0, note=note)  # fmt: skip


def measured(week: Week, recipe: str) -> float:
    """The share of one round that is safety's."""
    os.environ |= week.environment
    clock = Clock()
    with timed(clock):
        result = play(week.request(recipe=recipe), plain_steps())
    if result.exit_code or result.wall_s is None:
        raise SystemExit(f"the round ended with {result.exit_code}: {result.receipts}")
    share = sum(clock.seconds.values()) / result.wall_s
    parts = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in clock.seconds.items())
    stages = ", ".join(f"{stage} {cost.seconds:.1f} s" for stage, cost in result.costs.items())
    print(f"round of {result.wall_s:.1f} s ({stages}): {parts}: {100 * share:.1f} %")
    return share


@contextmanager
def timed(clock: Clock) -> Iterator[None]:
    """Inside, the clock runs in everything that is there for safety."""
    places: list[tuple[Any, str, str]] = [
        *(
            (module, "sha256_of", "hashing")
            for module in (store, files, dataset, steps)
            if hasattr(module, "sha256_of")
        ),
        (stored, "_sum64", "hashing"),
        (runs, "_sha256", "hashing"),
        (files, "verify_parquet", "decoding to verify"),
        (os, "fsync", "syncing"),
        (ledger.Ledger, "_write", "ledger"),
        (ledger.Ledger, "_read", "ledger"),
        (submission, "standing", "asking and reading back"),
        (submission, "_read_back", "asking and reading back"),
        (submission, "_asked_again", "asking and reading back"),
    ]
    with ExitStack() as patched:
        for owner, name, what in places:
            patched.enter_context(patch.object(owner, name, clock.around(what, getattr(owner, name))))
        patched.enter_context(patch.object(transport, "hashlib", _Hashlib(clock)))
        yield


@dataclasses.dataclass
class _Hashlib:
    """`hashlib` for what is downloaded: a digest whose updates are timed."""

    clock: Clock

    def sha256(self) -> _Digest:
        return _Digest(self.clock)


class _Digest:
    def __init__(self, clock: Clock) -> None:
        digest = hashlib.sha256()
        self.update, self.hexdigest = clock.around("hashing", digest.update), digest.hexdigest


if __name__ == "__main__":
    main()
