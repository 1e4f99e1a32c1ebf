"""What the local tournament remembers: keys, clock, slots and submissions. All of it lies in its home.

home/
├── keys.json          the account's key pair, what signs addresses, and the control token (mode 600)
├── tournament.env     address and keys as environment variables, written at each start (mode 600)
├── tournament.json    everything else that a restart goes on with
├── uploads/           the bytes of each upload and of each submission
└── files/             the data files, made when they are first asked for
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eraflow.errors import InputError, StorageError
from eraflow.store import replacing, write_json

TOURNAMENT = 8
# What a key is for, and all that it needs here.
GRANTED_SCOPES = ("read_submission_info", "read_user_info", "upload_submission", "download_submission")
# What a key may do besides at the real tournament. `stake` is named in the client's documentation; nothing public
# names the scope of a withdrawal, so that one is a stand-in.
SCOPES = (*GRANTED_SCOPES, "stake", "withdraw")


@dataclass(frozen=True)
class Keys:
    """The secrets of one local tournament; made at random once, good for nothing else."""

    public_id: str = field(repr=False)
    secret_key: str = field(repr=False)
    signing_key: str = field(repr=False)
    control_token: str = field(repr=False)


@dataclass
class Submission:
    """One submission to one slot, valid or not. Times are UTC, ISO 8601 with whole seconds."""

    id: str
    model_id: str
    slot: str
    round: int
    filename: str
    """As the tournament named the upload."""
    sha256: str | None
    inserted_at_utc: str
    late: bool = False
    valid: bool = True
    error: str | None = None
    selected: bool = False
    carried_over: bool = False
    """Late in the round before; its ids are those of this round."""

    @property
    def status(self) -> str:
        """As the API tells it."""
        return "failed" if not self.valid else "late" if self.late else "on-time"


@dataclass
class Slot:
    """One of the account's models."""

    name: str
    id: str
    hosted: bool = False
    """A pickle upload submits for it."""
    tournament: int = TOURNAMENT


@dataclass
class State:
    """Everything but the secrets."""

    begins_utc: str
    offset_s: float = 0.0
    """Tournament's time minus the system's [s]."""
    port: int = 0
    """The last one used, so that a restart keeps its address."""
    scopes: list[str] = field(default_factory=lambda: list(GRANTED_SCOPES))
    delay_s_of: dict[str, float] = field(default_factory=dict)
    early_s_of: dict[str, float] = field(default_factory=dict)
    """Round -> how much earlier than the timetable's its on-time deadline is [s]."""
    paces: list[dict[str, Any]] = field(default_factory=list)
    """Stretches of fast rounds, as the fields of `timetable.Pace`."""
    carried_into: int = 0
    """The round that late submissions were last carried into."""
    slots: list[Slot] = field(default_factory=list)
    removed_slots: list[str] = field(default_factory=list)
    """Names of models that are no longer in the account; a restart that lists them does not bring them back."""
    submissions: list[Submission] = field(default_factory=list)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Granted file name -> model id, and the sha256 of the bytes once they are there."""
    files: dict[str, str] = field(default_factory=dict)
    """Data file -> path of the bytes that are served in its place."""
    data_versions: list[str] = field(default_factory=list)
    """Versions of the data that are listed beside the usual one, with the same bytes."""
    withdrawn_versions: list[str] = field(default_factory=list)
    """Those of them, and perhaps the usual one, that are not there for now."""

    def slot(self, model_id: str) -> Slot | None:
        return next((slot for slot in self.slots if slot.id == model_id), None)

    def add_slot(self, name: str, *, hosted: bool = False, tournament: int = TOURNAMENT) -> Slot:
        """The slot of this name, added if it is new."""
        found = next((slot for slot in self.slots if slot.name == name and slot.tournament == tournament), None)
        if found is None:
            found = Slot(name=name, id=str(uuid.uuid4()), tournament=tournament)
            self.slots.append(found)
            if tournament == TOURNAMENT and name in self.removed_slots:
                self.removed_slots.remove(name)
        found.hosted = hosted
        return found

    def remove_slot(self, name: str) -> None:
        """Take the slot of this name out of the account. Raises `InputError` if there is none."""
        names = [slot.name for slot in self.slots if slot.tournament == TOURNAMENT]
        if name not in names:
            raise InputError(
                f"a slot to remove must be one of {', '.join(names) or '(none)'}, however {name!r} was given"
            )
        self.slots = [slot for slot in self.slots if (slot.name, slot.tournament) != (name, TOURNAMENT)]
        self.removed_slots.append(name)


def load_state(home: Path, begins_utc: datetime, slots: Sequence[str]) -> State:
    """The state in `home`, or a new one. Raises `StorageError` if it cannot be read."""
    path = home / "tournament.json"
    if not path.exists():
        state = State(begins_utc=begins_utc.isoformat())
        for name in slots:
            state.add_slot(name)
        state.add_slot("rehearsal_signals", tournament=11)
        return state
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        table["slots"] = [Slot(**entry) for entry in table["slots"]]
        table["submissions"] = [Submission(**entry) for entry in table["submissions"]]
        state = State(**table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} must hold a local tournament, however it cannot be read; remove {home} to begin a new one"
        ) from error
    for name in slots:
        if name not in state.removed_slots and not any(slot.name == name for slot in state.slots):
            state.add_slot(name)
    return state


def save_state(home: Path, state: State) -> None:
    """Write the state, whole or not at all."""
    write_json(home / "tournament.json", dataclasses.asdict(state))


def load_keys(home: Path) -> Keys:
    """The keys in `home`, made at random if there are none."""
    path = home / "keys.json"
    if not path.exists():
        letters = string.ascii_uppercase + string.digits
        made = Keys(
            public_id="".join(secrets.choice(letters) for _ in range(32)),
            secret_key="".join(secrets.choice(letters) for _ in range(64)),
            signing_key=secrets.token_hex(32),
            control_token=secrets.token_hex(32),
        )
        write_private(path, json.dumps(dataclasses.asdict(made)))
    return Keys(**json.loads(path.read_text(encoding="utf-8")))


def write_private(path: Path, text: str) -> None:
    """`text` in a file that only its owner can read, from its first byte on."""
    with replacing(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)


def stamp(moment: datetime) -> str:
    """The API's text of a time: UTC, whole seconds.

    >>> stamp(datetime(2026, 11, 21, 12, 4, 8, 999, tzinfo=UTC))
    '2026-11-21T12:04:08Z'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
