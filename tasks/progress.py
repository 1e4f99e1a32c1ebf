"""Progress of long stages in the dashboard, about once a second, and on the terminal as always."""

from __future__ import annotations

import time
from contextlib import suppress
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from eraflow.progress import Progress, for_this_terminal
from tasks.artifacts import show

EVERY_S = 1.0
# A server that hangs costs a second each time it is asked.
AFTER_FAILURE_S = 60.0


class ShownProgress:
    """A progress that the terminal and the dashboard follow; a stage shorter than `EVERY_S` only the terminal."""

    def __init__(self, terminal: Progress | None = None) -> None:
        self._terminal = terminal or for_this_terminal()
        self._artifacts: dict[str, UUID] = {}
        self._next_s: dict[str, float] = {}

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
        with suppress(OSError):  # a terminal that went away
            self._terminal(stage, done, total, text)
        now = time.monotonic()
        ended = bool(total) and done >= total
        if now < self._next_s.setdefault(stage, now + EVERY_S) and not (ended and stage in self._artifacts):
            return
        shown = show(f"progress of {stage}", lambda: self._move(stage, 100.0 * done / total if total else 0.0, text))
        self._next_s[stage] = time.monotonic() + (EVERY_S if shown else AFTER_FAILURE_S)

    def _move(self, stage: str, percent: float, text: str) -> bool:
        description = f"{stage}: {text}" if text else stage
        if stage in self._artifacts:
            update_progress_artifact(self._artifacts[stage], progress=percent, description=description)
        else:
            found = create_progress_artifact(progress=percent, description=description)
            self._artifacts[stage] = found if isinstance(found, UUID) else UUID(str(found))
        return True
