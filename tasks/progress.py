"""Progress of long stages in the dashboard, at most once a second, and on the terminal as always."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from eraflow.progress import Progress, for_this_terminal
from tasks.artifacts import harmless

EVERY_S = 1.0


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A progress that the terminal and the dashboard follow."""
    yield _Both(for_this_terminal())


class _Both:
    def __init__(self, terminal: Progress) -> None:
        self._terminal = terminal
        self._artifacts: dict[str, UUID] = {}
        self._last_s = 0.0

    def __call__(self, stage: str, done: float, total: float, text: str = "") -> None:
        self._terminal(stage, done, total, text)
        now = time.monotonic()
        if now - self._last_s >= EVERY_S or done >= total:
            self._last_s = now
            with harmless(f"progress of {stage}"):
                self._move(stage, 100.0 * done / total if total else 0.0)

    def _move(self, stage: str, percent: float) -> None:
        if stage in self._artifacts:
            update_progress_artifact(self._artifacts[stage], progress=percent)
        else:
            found = create_progress_artifact(progress=percent, description=stage)
            self._artifacts[stage] = found if isinstance(found, UUID) else UUID(str(found))
