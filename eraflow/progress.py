"""How long work tells where it is: one callable type, and the two ways to show it.

The pure functions call `progress(stage, done, total, text)`; they never print. A terminal gets a bar,
anything else gets a log line at most every few seconds.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Protocol

logger = logging.getLogger("eraflow")


class Progress(Protocol):
    """Told about the work of one stage: `done` of `total` units, 0 if unknown; `text` holds figures worth seeing."""

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None: ...


def silent(stage: str, done: float, total: float, text: str = "") -> None:
    """Show nothing: for tests and callers that watch in another way."""


class LogProgress:
    """A log line at the end of a stage, and before it one each `interval_s` [s]."""

    def __init__(self, interval_s: float = 5.0) -> None:
        self.interval_s = interval_s
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
        now = time.monotonic()
        last = self._last.setdefault(stage, now)
        if (done < total or not total) and now - last < self.interval_s:
            return
        self._last[stage] = now
        share = f"{done / total:4.0%}" if total else ""
        logger.info("%s %s %s", stage, share, text)


class LineHandler(logging.StreamHandler[Any]):
    """Writes log lines above a bar that is open, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class BarProgress:
    """One bar at a time on standard error, for people at a terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
        from tqdm import tqdm

        if stage != self._stage or self._bar is None:
            self.close()
            self._stage = stage
            self._bar = tqdm(
                total=total or None, desc=stage, file=sys.stderr, leave=True, unit_scale=True, dynamic_ncols=True
            )
        self._bar.total = total or None
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if total and done >= total:
            self.close()

    def close(self) -> None:
        """End the bar that is open, if any."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def for_this_terminal() -> Progress:
    """A bar when a person watches standard error, log lines otherwise."""
    return BarProgress() if sys.stderr.isatty() else LogProgress()
