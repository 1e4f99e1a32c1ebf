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

from eraflow.rehearsal import LocalTournament, MarketConfig, Submission
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

# What a process takes for the places of its user; the folder of a branch in which they are.
WRITABLE = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
OWN = "user"
# Beside a home whose ledger a trouble has harmed, until it is moved away.
LEDGER_HARMED = "ledger-was-harmed"


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
    peace: tuple[str, ...] = ()
    """What those of them said that did not end with 0."""
    seconds: float
    wrong: tuple[str, ...]
    """Everything that must not be; empty."""
    through_prefect: bool = False
    ledger_is_harmed: bool = False
    """The home's ledger is one that a trouble has harmed, in this week or before."""

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
    """Slot -> that of what a round without trouble submits for it from an empty home."""
    untrusted: str
    round: int = 0
    wrong: tuple[str, ...] = ()
    """What the home is found to do otherwise than an empty one."""
    ledger_is_harmed: bool = False
    """Its ledger is one that a trouble has harmed in an earlier week."""


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
    other_bytes: set[str] = field(default_factory=set)
    """Ids of the submissions that were made while a trouble was met that leaves no right bytes."""
    notes: dict[str, str] = field(default_factory=dict)
    """sha256 -> why not a fresh model of this round has predicted, as a receipt says."""
    other_ids: bool = False
    altered: set[str] = field(default_factory=set)
    """sha256 of uploads that were altered on their way."""
    resubmits: bool = False
    """A submission is not what was sent, so that the user asks for another one in its place."""
    may_be_late: int = 0
    """So many submissions were on their way when the deadline passed."""
    before: frozenset[str] = frozenset()
    """Ids of the submissions of earlier weeks."""
    peace: list[str] = field(default_factory=list)
    """What runs in peace said that did not end with 0."""
    ledger_was_harmed: bool = False
    ledger_was_moved: bool = False
    in_peace: bool = False
    """The round was played to its end without trouble."""

    @property
    def week(self) -> Week:
        return Week(self.local, self.folder / "home")

    @property
    def environment(self) -> dict[str, str]:
        """What points a run at the tournament, with all that it may write below the branch's folder."""
        return {**self.week.environment, **folders_in(self.folder / OWN)}

    def made(self) -> list[Submission]:
        """The submissions of this week, valid or not."""
        return [one for one in self.local.submissions() if not one.carried_over and one.id not in self.before]

    def came_to(
        self, *, saved: bool, tries: int, seconds: float, could_be_saved: bool = True, **given: bool
    ) -> Outcome:
        """What it is in the journal; `given` are further fields of it."""
        is_harmed = (self.ledger_was_harmed or self.begun.ledger_is_harmed) and not self.ledger_was_moved
        return Outcome(
            branch=self.name, steps=tuple(self.steps), kills=self.kills, saved=saved, could_be_saved=could_be_saved,
            tries=tries, peace=tuple(self.peace), seconds=round(seconds, 1), ledger_is_harmed=is_harmed,
            wrong=tuple(dict.fromkeys([*self.begun.wrong, *self.wrong])), **given,
        )  # fmt: skip

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


def folders_in(folder: Path) -> dict[str, str]:
    """The variables that say where a process may write, each with a folder of its own in there."""
    found = {name: folder / name.lower() for name in WRITABLE}
    for path in found.values():
        path.mkdir(parents=True, exist_ok=True)
    return {name: str(path) for name, path in found.items()}


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
