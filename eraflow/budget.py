"""How long a run may take: what is left before the on-time deadline, and what has to fit into it.

What each stage usually takes is learnt from earlier rounds, which the ledger keeps. A fresh model must be there early
enough for prediction, submission and read-back; a stage that runs out of time is stopped there, so that something
else can be sent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from eraflow.errors import OutOfTimeError
from eraflow.ledger import Ledger
from eraflow.progress import Progress
from eraflow.rounds import Round, duration_text

# Taken where nothing has been learnt yet [s]; a read-back alone may take a minute.
UNLEARNT_S = {"prediction": 30.0, "submission": 90.0}
# The slowest of the last rounds, and half as much again: these machines are shared.
MARGIN = 1.5


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Until when a fresh model must be there."""

    round: Round | None
    """As the tournament knew it when it was asked; its deadline may have moved."""
    stop_at_s: float = math.inf
    """By `now_s` of this machine."""

    @property
    def left_s(self) -> float:
        """Time for a fresh model [s]; negative when it is over."""
        return self.stop_at_s - now_s()

    def is_over(self) -> bool:
        return self.left_s <= 0

    def guarding(self, progress: Progress) -> Progress:
        """`progress`, except that it raises `OutOfTimeError` once the time is over."""

        def guarded(stage: str, done: float, total: float, text: str = "") -> None:
            if self.is_over():
                raise OutOfTimeError(f"{stage} could not be finished in the time that is left before the deadline")
            progress(stage, done, total, text)

        return guarded


def now_s() -> float:
    """Seconds on a clock that nobody sets: a training outlasts corrections of the machine's own by hours.

    On Linux it goes on while the machine sleeps.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def unlimited(opened: Round | None) -> Budget:
    """For a run that no deadline stops."""
    return Budget(round=opened)


def budget_for(opened: Round, left_s: float, ledger: Ledger, recipes: Sequence[str], reserve_s: float) -> Budget:
    """The budget when `left_s` [s] are left and each slot in `recipes` (its recipe, once a slot) is to be sent."""
    after_s = reserve_s + sum(usual_s(ledger, stage, recipe) for recipe in recipes for stage in UNLEARNT_S)
    return Budget(round=opened, stop_at_s=now_s() + left_s - after_s)


def usual_s(ledger: Ledger, stage: str, recipe: str) -> float:
    """What to allow for a stage of this recipe [s]."""
    learnt = ledger.durations(stage, recipe)
    return MARGIN * max(learnt) if learnt else UNLEARNT_S.get(stage, 0.0)


def budget_text(budget: Budget) -> str:
    """For people: until when a fresh model must be there.

    >>> budget_text(unlimited(None))
    'no deadline'
    """
    if math.isinf(budget.stop_at_s):
        return "no deadline"
    return f"{duration_text(budget.left_s)} for a fresh model" if not budget.is_over() else "no time for a fresh model"
