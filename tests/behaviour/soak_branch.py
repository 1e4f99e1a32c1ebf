"""What a branch of the campaign of faults begins with, what is noted while it is played, and what it came to.

Both slots send predictions of their own, so that one's in the other's place would be seen: `CONFIGURATION` names a
recipe for each. Nothing is played here (`soak`, `soak_prefect`) nor judged (`soak_checks`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eraflow.rehearsal import LocalTournament, MarketConfig
from eraflow.request import Request, make_request
from tests.behaviour.troubles import World
from tests.behaviour.week import SLOTS, Week

MARKET = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=30)
# One epoch; models date from this machine's clock, of which the tournament's is weeks ahead, and no fresh one is so bad
# that an older one stands in for it, so that each branch of a week sends the same.
ASSIGNMENTS = {"training.epochs": "1", "training.device": "cpu", "data.feature_set": "all"}
CONFIGURATION = f"""
[slots]
{SLOTS[0]} = "simple-mlp"
{SLOTS[1]} = "another"
[variants.another]
recipe = "simple-mlp"
training.seed = 1
[submission]
readback_s = 1
[fallback]
max_age_weeks = 1000
min_spearman = -1
[alarm]
urls = ["$BELL"]
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One harmed run, and what came of it."""

    troubles: tuple[str, ...]
    met: tuple[str, ...]
    """Those of the troubles that it really met."""
    harm: str
    exit_code: int
    codes: tuple[str, ...] = ()
    """Error codes of its slots."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a branch came to."""

    branch: str
    steps: tuple[Step, ...]
    kills: int
    saved: bool
    """Each slot has exactly one on-time submission."""
    could_be_saved: bool
    tries: int
    """Runs in peace that it took."""
    seconds: float
    wrong: tuple[str, ...]
    """Everything that must not be; empty."""
    through_prefect: bool = False

    @property
    def is_lost(self) -> bool:
        return self.could_be_saved and not self.saved

    def as_table(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(kw_only=True)
class Begun:
    """Where a week's branches begin."""

    folder: Path
    """With `tournament` and `home` inside."""
    duration_s: float
    """From the beginning of a round without trouble to its end [s]."""
    points: int
    sha256: Mapping[str, str]
    """Slot -> that of what a round without trouble submits for it."""
    untrusted: str


@dataclass
class Branch:
    """A branch that is being played."""

    name: str
    begun: Begun
    folder: Path
    local: LocalTournament
    draw: random.Random = field(default_factory=random.Random)
    wrong: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    kills: int = 0
    runs: int = 0
    other_bytes: bool = False
    other_ids: bool = False
    may_be_late: bool = False
    before: frozenset[str] = frozenset()
    """Ids of the submissions of earlier weeks."""
    ledger_was_harmed: bool = False
    in_peace: bool = False
    """The round was played to its end without trouble."""

    @property
    def week(self) -> Week:
        return Week(self.local, self.folder / "home")

    def logs(self) -> Path:
        self.runs += 1
        return self.folder / "logs" / str(self.runs)

    def world(self) -> World:
        # What a killed run has done the next one need not do, so that its end comes sooner.
        begun, left = self.begun, 0.9 / (1 + self.kills)
        return World(
            local=self.local, home=self.folder / "home", untrusted=begun.untrusted,
            duration_s=left * begun.duration_s, points=max(1, int(left * begun.points)),
        )  # fmt: skip


def configuration_of(week: Week) -> Path:
    """The campaign's configuration in a file beside the home, where no trouble reaches it."""
    path = week.home.parent / "weekly.toml"
    if not path.exists():
        path.write_text(CONFIGURATION)
    return path


def request_of(week: Week) -> Request:
    """Both slots, each with its recipe."""
    return make_request(home=week.home, config_file=configuration_of(week), assignments=ASSIGNMENTS)


def sent_by_slot(local: LocalTournament) -> dict[str, str]:
    """Slot -> sha256 of what the tournament has accepted of it for the latest round."""
    latest = local._core.latest().number
    return {one.slot: str(one.sha256) for one in local.accepted(latest) if not one.carried_over}
