"""Which data files a round has, and where their bytes lie: made when first asked for, or those of a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections import defaultdict
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from eraflow.errors import InputError
from eraflow.rehearsal.market import Market
from eraflow.rehearsal.market_files import ROUND_FILES, TRAIN_FILES, VERSION, WEEK_FILES, write_file
from eraflow.rehearsal.timetable import ScheduledRound
from eraflow.store import replacing

# Folders of weeks and rounds that are kept; older ones are made again if someone asks.
_KEPT = 3


class Publisher:
    """The data files of each round, from a market or from a folder in v5.3 layout."""

    def __init__(self, home: Path, market: Market, data_from: Path | None) -> None:
        if data_from is not None and not data_from.is_dir():
            raise InputError(f"the data must come from a folder, however {data_from} is not one")
        self.market, self.data_from = market, data_from
        key = hashlib.sha256(json.dumps(asdict(market.config), sort_keys=True).encode()).hexdigest()[:12]
        self._folder = home / "files" / key
        self._lock = threading.Lock()
        self._making: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def names(self) -> list[str]:
        """The tournament's names of all files, as `v5.3/train.parquet`."""
        if self.data_from is not None:
            found = [path.name for path in self.data_from.iterdir() if path.is_file() and path.name[0] != "."]
        else:
            found = [*TRAIN_FILES, *WEEK_FILES, *ROUND_FILES]
        return sorted(f"{VERSION}/{name}" for name in found)

    def path(self, name: str, at: ScheduledRound) -> Path:
        """The bytes of the file `name` as it is in that round, made now if need be."""
        own = name.removeprefix(f"{VERSION}/")
        if self.data_from is not None:
            return self.data_from / own
        path = self._place(own, at)
        if path.exists():  # whole, then; and whoever reads it need not wait for another file that is made
            return path
        with self._lock:
            making = self._making[path]
        with making:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as partial:
                    write_file(self.market, own, partial, week=at.week, number=at.number)
        return path

    def prepare(self, at: ScheduledRound) -> None:
        """Make all files of a round ahead of the first request, and remove those of long past ones."""
        for name in self.names():
            self.path(name, at)
        if self.data_from is None:
            for folder in self._folder.parent.iterdir():
                if folder != self._folder:
                    shutil.rmtree(folder, ignore_errors=True)
            for kind, newest in (("week", at.week), ("round", at.number)):
                for folder in self._folder.glob(f"{kind}-*"):
                    if int(folder.name.partition("-")[2]) <= newest - _KEPT:
                        shutil.rmtree(folder, ignore_errors=True)  # two that prepare may meet here

    def live_ids(self, at: ScheduledRound) -> tuple[str, ...]:
        """The ids that a submission to this round must hold."""
        path = self.path(f"{VERSION}/live.parquet", at)
        return _ids_in(path, path.stat().st_mtime_ns)

    def _place(self, own: str, at: ScheduledRound) -> Path:
        if own in TRAIN_FILES:
            return self._folder / own
        return self._folder / (f"week-{at.week}" if own in WEEK_FILES else f"round-{at.number}") / own


@lru_cache(maxsize=8)
def _ids_in(path: Path, _changed_ns: int) -> tuple[str, ...]:
    import pyarrow.parquet as pq

    return tuple(str(one) for one in pq.read_table(path, columns=["id"])["id"].to_pylist())


@lru_cache(maxsize=64)
def etag_of(path: Path, _changed_ns: int) -> str:
    """A quoted entity tag of the file's content; `_changed_ns` only keeps the cache honest."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f'"{digest.hexdigest()}"'
