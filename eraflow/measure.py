"""How long each stage of a run took and how much memory the process held at its peak."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLE_EVERY_S = 0.05
_STATUS = Path("/proc/self/status")


class Meter:
    """Seconds by stage, summed over repetitions, and the memory peaks of this process.

    Anonymous memory (what is not a map of a file) has no peak counter, so it is sampled 20 times a second while a
    stage runs; None where the system does not tell.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_anonymous_bytes: int | None = _anonymous_bytes()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time until the block ends to stage `name`."""
        done = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(done,), daemon=True, name="eraflow-memory")
        sampler.start()
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            done.set()
            sampler.join()

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory this process ever held, maps of files included [bytes]."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _sample(self, done: threading.Event) -> None:
        while True:
            now = _anonymous_bytes()
            if now is not None:
                self.peak_anonymous_bytes = max(now, self.peak_anonymous_bytes or 0)
            if done.wait(SAMPLE_EVERY_S):
                return


def _anonymous_bytes() -> int | None:
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("RssAnon:")), None)
    return int(line.split()[1]) * 1024 if line else None
