"""How fast a training goes, against what the machine could do, and what is said of one that is too slow.

`Pace` counts rows and the seconds of the steps alone: exams and checkpoints between them are left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Fewer seconds in steps say little, and are kept for a later epoch to tell.
TELLING_S = 0.5
# Below these something may be wrong. A GPU is so fast that batches of a few thousand rows are small for it.
LOW_SHARE_OF_PRODUCTS, LOW_SHARE_ON_A_GPU, LOW_SHARE_OF_CORES = 0.4, 0.1, 0.7

Speed = dict[str, float | None]
"""`rows_a_second`, `share_of_products` (of the rows that the machine's matrix products alone would do), and of an epoch
`share_of_cores` (of the time in which a thread wanted a core, that in which it had one); None where not known."""

_THREADS = Path("/proc/self/task")


class Pace:
    """The speed of the steps so far."""

    def __init__(self, full_speed: float | None) -> None:
        """`full_speed` is that of the machine's matrix products alone [rows/s]; None where it was not measured."""
        self.full_speed = full_speed
        self._rows, self._seconds, self._unfinished = 0, 0.0, 0
        self._shown_at = self._told_at = (0, 0.0)
        self._since, self._cores = time.perf_counter(), _core_times()

    def add(self, rows: int, *, finished: bool) -> None:
        """A step was begun; `finished` says that it and all before it are done, which is not so on a GPU."""
        self._unfinished += rows
        if finished:
            now = time.perf_counter()
            self._rows, self._seconds = self._rows + self._unfinished, self._seconds + now - self._since
            self._since, self._unfinished = now, 0

    def go_on(self) -> None:
        """Steps follow now; what was done since the last one that was finished does not count."""
        self._since, self._unfinished, self._shown_at = time.perf_counter(), 0, (self._rows, self._seconds)

    def shown(self) -> Speed:
        """Since it was last shown, or since `go_on`."""
        found, self._shown_at = self._of(self._shown_at), (self._rows, self._seconds)
        return found

    def told(self) -> Speed:
        """For an epoch's entry, since the last one that told it; all None where that is too short ago."""
        found: Speed = dict.fromkeys(("rows_a_second", "share_of_products", "share_of_cores"))
        if self._seconds - self._told_at[1] < TELLING_S:
            return found
        found |= self._of(self._told_at)
        self._told_at, before, self._cores = (self._rows, self._seconds), self._cores, _core_times()
        if before and self._cores:
            had, waited = self._cores[0] - before[0], self._cores[1] - before[1]
            # A thread that ended takes its times away.
            found["share_of_cores"] = had / (had + waited) if had > 0 and waited >= 0 else None
        return found

    def _of(self, since: tuple[int, float]) -> Speed:
        rate = (self._rows - since[0]) / max(self._seconds - since[1], 1e-9)
        if self.full_speed is not None:  # which was measured on a busy machine if it is exceeded
            self.full_speed = max(rate, self.full_speed)
        return {"rows_a_second": rate, "share_of_products": rate / self.full_speed if self.full_speed else None}


def speed_text(speed: Mapping[str, Any]) -> str:
    """What is known of it.

    >>> speed_text({"rows_a_second": 21000.0, "share_of_products": 0.84})
    "21,000 rows/s, 84% of this machine's matrix products"
    """
    rate, share = speed["rows_a_second"], speed["share_of_products"]
    if rate is None:
        return ""
    return f"{rate:,.0f} rows/s" + ("" if share is None else f", {share:.0%} of this machine's matrix products")


def slow_text(share_of_products: float | None, share_of_cores: float | None, device: str) -> str | None:
    """What to tell of a training that was slower than it should be, with the likely reasons; None if all is well."""
    if share_of_cores is not None and share_of_cores < LOW_SHARE_OF_CORES:
        return (
            f"other work on the machine held the training up: its threads had a core for {share_of_cores:.0%} of the"
            " time in which they wanted one"
        )
    low = LOW_SHARE_OF_PRODUCTS if device == "cpu" else LOW_SHARE_ON_A_GPU
    if share_of_products is not None and share_of_products < low:
        return (
            f"the training reached {share_of_products:.0%} of this machine's matrix products, where {low:.0%} and more"
            " are usual; likely reasons: other work on the machine, data from a slow disk, small batches, a small"
            " network"
        )
    return None


def _core_times() -> tuple[int, int] | None:
    """How long all threads of this process had a core, and how long they waited for one [ns]; None if not told."""
    try:
        told = [path.read_text().split() for path in _THREADS.glob("*/schedstat")]
    except OSError:
        return None  # of a thread that ended just now
    return (sum(int(t[0]) for t in told), sum(int(t[1]) for t in told)) if told else None
