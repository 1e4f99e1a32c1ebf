"""How long each stage of a run took, and how much memory the process held at its peak, in each stage and in all.

Read `Meter.stage`. Linux tells memory in /proc, which is read 20 times a second while a stage runs: 0.2 % of a core.
What comes and goes in between shows all the same where it is the most so far, by the kernel's own counter of the
peak. That counter is not reset for each stage, as any user may: whoever asks for the peak from outside would be told
nonsense (`time -v`: 26 MB of a process that had held 435 MB).
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eraflow.errors import TransientError
from eraflow.later import Later
from eraflow.progress import Progress

SAMPLE_EVERY_S = 0.05
SAMPLER_ENDS_S = 5.0
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage took; None where the system does not tell."""

    seconds: float = 0.0
    peak_rss_bytes: int | None = None
    """The most memory that the process held meanwhile, maps of files included."""
    peak_anonymous_bytes: int | None = None
    """The same without maps of files."""

    def and_then(self, later: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(
            seconds=self.seconds + later.seconds,
            peak_rss_bytes=_larger(self.peak_rss_bytes, later.peak_rss_bytes),
            peak_anonymous_bytes=_larger(self.peak_anonymous_bytes, later.peak_anonymous_bytes),
        )


class Meter:
    """What each stage took, summed over repetitions; one stage at a time."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self._began = self._marked = time.perf_counter()
        self._stage = ""
        self._memory = _Memory()

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Cost]]:
        """Add what the block takes to stage `name`.

        What the block was told of stages inside of it goes into the yielded table, and is added to those instead.
        """
        inside: dict[str, Cost] = {}
        done = threading.Event()
        self._stage, self._marked = name, time.perf_counter()
        self._memory.take()
        sampler = Later(lambda: self._sample(done), "the memory")
        try:
            yield inside
        finally:
            done.set()
            with suppress(TransientError, MemoryError):  # of no use where there is no memory to measure
                sampler.result(SAMPLER_ENDS_S)
            self._mark(self._stage, inside)

    def following(self, progress: Progress, stages: Mapping[str, str]) -> Progress:
        """`progress`, except that all since it was last told is added to what `stages` names the stage it tells.

        `stages` is asked for the first word; where it has none, nothing changes.
        """

        def followed(stage: str, done: float, total: float, text: str = "") -> None:
            if name := stages.get(stage.split(" ", 1)[0]):
                self._stage = name
                self._mark(name, {})
            progress(stage, done, total, text)

        return followed

    @property
    def wall_s(self) -> float:
        """Since this meter was made [s], between the stages too."""
        return time.perf_counter() - self._began

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory this process ever held, maps of files included [bytes]."""
        if "VmHWM" in (told := _told()):
            # The kernel brings its counter up to date now and then, so that a stage may have been told some kB more.
            return max(told["VmHWM"], *(cost.peak_rss_bytes or 0 for cost in self.costs.values()), 0)
        # Not on Linux, where it begins with what the process held that started this one.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    @property
    def peak_anonymous_bytes(self) -> int | None:
        """The most memory this process held in any stage, or when this was made, without maps of files [bytes]."""
        return self._memory.most_anonymous

    def _mark(self, name: str, inside: Mapping[str, Cost]) -> None:
        """End what began when the last stage did."""
        now = time.perf_counter()
        rss, anonymous = self._memory.take()
        seconds = now - self._marked - sum(cost.seconds for cost in inside.values())
        self._marked = now
        if name not in inside:
            self._add(name, Cost(seconds=seconds, peak_rss_bytes=rss, peak_anonymous_bytes=anonymous))
        else:  # which has the peaks of this stage alone
            self._add(name, Cost(seconds=seconds))
        for part, cost in inside.items():
            self._add(part, cost)

    def _add(self, name: str, cost: Cost) -> None:
        self.costs[name] = self.costs.get(name, Cost()).and_then(cost)

    def _sample(self, done: threading.Event) -> None:
        while not done.wait(SAMPLE_EVERY_S):
            self._memory.look()


class _Memory:
    """The peaks of this process's memory since they were last taken."""

    def __init__(self) -> None:
        told = _told()
        self._highest = told.get("VmHWM", 0)
        self._rss: int | None = None
        self._anonymous: int | None = None
        self.most_anonymous = told.get("RssAnon")

    def look(self) -> dict[str, int]:
        told = _told()
        highest = told.get("VmHWM", 0)
        self._rss = _larger(self._rss, highest if highest > self._highest else told.get("VmRSS"))
        self._highest = highest
        self._anonymous = _larger(self._anonymous, told.get("RssAnon"))
        self.most_anonymous = _larger(self.most_anonymous, self._anonymous)
        return told

    def take(self) -> tuple[int | None, int | None]:
        """The most of all memory and of anonymous memory [bytes]; what is held now counts to what comes next too."""
        told = self.look()
        found, self._rss, self._anonymous = (self._rss, self._anonymous), told.get("VmRSS"), told.get("RssAnon")
        return found


def _larger(one: int | None, other: int | None) -> int | None:
    return max(one, other) if one is not None and other is not None else other if one is None else one


def _told() -> dict[str, int]:
    """What Linux tells of this process's memory [bytes]; nothing elsewhere."""
    try:
        with _STATUS.open("rb", buffering=0) as file:
            text = file.read().decode("ascii", "replace")
    except OSError:
        return {}
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in text.splitlines())
        if name in ("VmHWM", "VmRSS", "RssAnon")
    }
