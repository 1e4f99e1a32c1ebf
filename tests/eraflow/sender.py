"""A machine that submits to the local tournament."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from eraflow.ledger import Attempt, Ledger
from eraflow.predictions import canonical_csv
from eraflow.receipt import Receipt
from eraflow.rehearsal.server import LocalTournament
from eraflow.rounds import Round
from eraflow.store import Store, utc_text
from eraflow.submission import Order, SubmissionConfig, submit
from eraflow.tournament import Tournament
from tests.eraflow.talking import asked

SLOT = "rehearsal_one"
LATE = SubmissionConfig(late="submit")
NO_DOWNLOAD = ["read_user_info", "read_submission_info", "upload_submission"]


@dataclass
class Waiting:
    """Stands in for the `time` module of `submission`: waits at once, and adds up how long."""

    slept_s: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return sum(self.slept_s)

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


class Sender:
    """One machine of the account: a home with its ledger, a door, and predictions for the round."""

    def __init__(self, local: LocalTournament, door: Tournament, home: Path, ids: Sequence[str]) -> None:
        self.local, self.door, self.ids = local, door, ids
        self.store = Store.open(home)
        self.ledger = Ledger(self.store.ledger_path, door.url)

    def order(self, *, seed: int = 0, opened: Round | None = None, **changes: Any) -> Order:
        prediction_N = (np.random.default_rng(seed).permutation(len(self.ids)) + 0.5) / len(self.ids)
        order = Order(
            opened=opened or self.door.latest_round(),
            slot=self.door.slots()[SLOT],
            recipe="small",
            source="fresh",
            data=canonical_csv(self.ids, prediction_N),
            live_ids=self.ids,
        )
        return replace(order, **changes)

    def send(
        self, order: Order | None = None, *, settings: SubmissionConfig | None = None, resubmit: bool = False
    ) -> Receipt:
        settings = settings or SubmissionConfig()
        since = utc_text(datetime.now(UTC), "microseconds") if resubmit else None
        return submit(self.door, self.ledger, self.store, order or self.order(), settings, resubmit_since=since)

    def attempts(self, number: int = 1401) -> list[Attempt]:
        return self.ledger.attempts(number, SLOT)

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the tournament and for this machine alike."""
        self.local.move_clock(seconds)
        self.door.clock.skew_s += seconds


def nothing_sent(local: LocalTournament) -> bool:
    return asked(local, "PUT") == asked(local, "createSubmission") == 0 and not local.submissions()
