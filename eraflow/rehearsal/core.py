"""The rules of the local tournament: its clock, its rounds, who may do what, and what becomes of a submission.

It knows nothing of HTTP or GraphQL. Everything that changes is saved before it is answered. One lock: every public
method may be called from any thread.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import string
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from eraflow.errors import InputError
from eraflow.rehearsal.graphql import GraphQLError
from eraflow.rehearsal.judging import judge, with_ids_of
from eraflow.rehearsal.market_files import VERSION
from eraflow.rehearsal.publishing import Publisher
from eraflow.rehearsal.scoring import Scorer
from eraflow.rehearsal.state import Keys, Slot, State, Submission, load_keys, load_state, save_state, stamp
from eraflow.rehearsal.timetable import Pace, ScheduledRound, Timetable, last_saturday_noon
from eraflow.store import write_atomically

NOT_OPEN = "Current round not open for submissions"
INVALID_SESSION = "Your session is invalid or has expired."


class Core:
    """One tournament, kept in `home`."""

    def __init__(
        self, home: Path, publisher: Publisher, *, slots: Sequence[str], seed: int, weekly_only: bool,
        url_lifetime_s: float, system: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self.home, self.publisher, self.url_lifetime_s = home, publisher, url_lifetime_s
        self.scorer = Scorer(publisher, self.stored)
        self._seed, self._weekly_only, self._system = seed, weekly_only, system
        self.lock = threading.RLock()
        home.mkdir(parents=True, exist_ok=True)
        (home / "uploads").mkdir(exist_ok=True)
        self.keys: Keys = load_keys(home)
        self.state: State = load_state(home, last_saturday_noon(system()), slots)
        if not self.state.carried_into:
            self._begin()
        self.save()

    def _begin(self) -> None:
        """A new tournament begins between rounds, whatever day it is, so that its first round is opened on purpose."""
        current = self.current()
        self.state.offset_s = (current.ends_at_utc - self.now_utc()).total_seconds() if current else 0.0
        self.state.carried_into = self.latest().number

    # The clock and the rounds

    def now_utc(self) -> datetime:
        """The tournament's time."""
        return self._system() + timedelta(seconds=self.state.offset_s)

    @property
    def timetable(self) -> Timetable:
        begins = datetime.fromisoformat(self.state.begins_utc)
        delays = {int(number): delay for number, delay in self.state.delay_s_of.items()}
        paces = [
            Pace(**{**table, "begins_utc": datetime.fromisoformat(table["begins_utc"]).astimezone(UTC)})
            for table in self.state.paces
        ]
        early = {int(number): seconds for number, seconds in self.state.early_s_of.items()}
        return Timetable(begins.astimezone(UTC), self._weekly_only, self._seed, delays, paces, early)

    def set_pace(self, every_s: float, window_s: float, delay_scale: float) -> None:
        """Open fast rounds from the next one on, the first of them `every_s` from now; no change if they are so
        already. Raises `InputError` if such rounds cannot be.
        """
        with self.lock:
            asked = {"every_s": every_s, "window_s": window_s, "delay_scale": delay_scale}
            if self.state.paces and asked.items() <= self.state.paces[-1].items():
                return
            # A whole second, because the API's times have no more.
            begins = self.now_utc().replace(microsecond=0) + timedelta(seconds=every_s)
            pace = Pace(first_number=self.latest().number + 1, begins_utc=begins, **asked)
            self.state.paces.append({**asdict(pace), "begins_utc": begins.isoformat()})
            self.save()

    def set_delay(self, number: int, delay_s: float) -> None:
        """Let a round that has not opened yet open so late. Raises `InputError` if a fast one then has no room."""
        with self.lock:
            paces = [pace for pace in self.timetable.paces if pace.first_number <= number]
            if paces and not 0 <= delay_s <= paces[-1].longest_delay_s:
                raise InputError(
                    f"a fast round must open 0 to {paces[-1].longest_delay_s:g} s late, however {delay_s:g} s was"
                    f" asked for round {number}"
                )
            self.state.delay_s_of[str(number)] = delay_s
            self.save()

    def move_deadline(self, seconds: float) -> datetime:
        """Make the on-time deadline of the latest round so much earlier; returns the new one.

        Raises `InputError` if it would not lie after the opening, or lie after the timetable's own.
        """
        with self.lock:
            latest = self.latest()
            before = self.state.early_s_of.get(str(latest.number), 0.0)
            longest = (latest.closes_at_utc - latest.opens_at_utc).total_seconds()
            if not -before <= seconds < longest:
                raise InputError(
                    f"the deadline of round {latest.number} must lie after its opening and no later than usual, which"
                    f" is less than {longest:g} s earlier and at most {before:g} s later than now, however"
                    f" {seconds:g} s earlier was asked for"
                )
            self.state.early_s_of[str(latest.number)] = before + seconds
            self.save()
            return self.latest().closes_at_utc

    def latest(self) -> ScheduledRound:
        """The round that opened last."""
        return self.timetable.latest(self.now_utc())

    def current(self) -> ScheduledRound | None:
        """The round that is current, on time or just past it; None between rounds."""
        latest = self.latest()
        return latest if latest.opens_at_utc <= self.now_utc() < latest.ends_at_utc else None

    def move_to(self, moment_utc: datetime) -> None:
        """Move the clock forward to `moment_utc`; a moment that has passed changes nothing."""
        self.move_by(max(0.0, (moment_utc - self.now_utc()).total_seconds()))

    def move_by(self, seconds: float) -> None:
        """Move the clock."""
        with self.lock:
            self.state.offset_s += seconds
            self.save()
            self.carry_over()

    def save(self) -> None:
        """Keep the state for the next start."""
        with self.lock:
            save_state(self.home, self.state)

    # Who may do what

    def require_scope(self, authorization: str | None, *scopes: str) -> None:
        """Raise `GraphQLError` unless the header holds the account's keys, and they have one of the scopes."""
        expected = f"Token {self.keys.public_id}${self.keys.secret_key}"
        if not hmac.compare_digest((authorization or "").encode(), expected.encode()):
            raise GraphQLError(INVALID_SESSION)
        if scopes and not set(scopes) & set(self.state.scopes):
            raise GraphQLError(f"You are not authorized to do this: the API key lacks the scope {scopes[0]}.")

    def sign(self, method: str, path: str) -> str:
        """`path` with a signature that lets anyone do `method` there until it expires."""
        expires = int(self.now_utc().timestamp() + self.url_lifetime_s)
        return f"{path}?expires={expires}&signature={self._signature(method, path, expires)}"

    def signed(self, method: str, path: str, expires: str, signature: str) -> str | None:
        """None for a good signature, otherwise what the storage says about it."""
        if not expires.isdigit() or not hmac.compare_digest(signature, self._signature(method, path, int(expires))):
            return "SignatureDoesNotMatch"
        return "AccessDenied" if self.now_utc().timestamp() >= int(expires) else None

    def _signature(self, method: str, path: str, expires: int) -> str:
        return hmac.digest(self.keys.signing_key.encode(), f"{method} {path} {expires}".encode(), "sha256").hex()

    # Data files

    def data_files(self) -> list[str]:
        """The names of all files, of every version that is listed."""
        own = self.publisher.names()
        versions = [version for version in self._versions() if version not in self.state.withdrawn_versions]
        return [name.replace(VERSION, version, 1) for version in versions for name in own]

    def has_data_file(self, name: str) -> bool:
        """Whether this file is listed, or served in place of one, and its version is not withdrawn."""
        withdrawn = name.partition("/")[0] in self.state.withdrawn_versions
        return not withdrawn and name in {*self.data_files(), *self.state.files}

    def withdraw_data_version(self, version: str, withdrawn: bool) -> None:
        """Take a version's files away, or bring them back. Raises `InputError` for one that there never was."""
        with self.lock:
            if version not in self._versions():
                raise InputError(
                    f"a version of the data must be one of {', '.join(self._versions())}, however {version!r} was given"
                )
            others = [one for one in self.state.withdrawn_versions if one != version]
            self.state.withdrawn_versions = [*others, version] if withdrawn else others
            self.save()

    def _versions(self) -> list[str]:
        return [VERSION, *self.state.data_versions]

    def data_file(self, name: str, at: ScheduledRound) -> Path:
        """The bytes of a file as it is in that round; another version's are those of the usual one."""
        if replaced := self.state.files.get(name):
            return Path(replaced)
        version, _, own = name.partition("/")
        return self.publisher.path(f"{VERSION}/{own}" if version in self.state.data_versions else name, at)

    # Submissions

    def counting(self, model_id: str) -> dict[int, Submission]:
        """Round -> the submission of this slot that is scored: the selected one, or else the last that came late."""
        made = [one for one in self.submissions(model_id) if one.selected or (one.late and one.valid)]
        return {one.round: one for one in sorted(made, key=lambda one: one.selected)}

    def slot(self, model_id: str | None) -> Slot:
        """The slot of this id. Raises `GraphQLError` if the account has none."""
        found = self.state.slot(model_id or "")
        if found is None:
            raise GraphQLError("Model not found")
        return found

    def grant_upload(self, filename: str, model_id: str | None, tournament: int | None) -> str:
        """The name under which bytes may be put: the given one with a random part. Raises `GraphQLError`."""
        with self.lock:
            slot = self._submittable(model_id, tournament)
            stem, dot, suffix = os.path.basename(filename).rpartition(".")
            if not re.fullmatch(r"[\w. ()-]{1,120}", filename) or not stem:
                raise GraphQLError("Invalid filename")
            letters = "".join(secrets.choice(string.ascii_letters) for _ in range(12))
            granted = f"{stem}-{letters}{dot}{suffix}"
            self.state.uploads[granted] = {"model_id": slot.id, "sha256": None}
            self.save()
            return granted

    def receive(self, granted: str, data: bytes) -> bool:
        """Keep the bytes that were put under a granted name; False if the name was never granted."""
        with self.lock:
            if granted not in self.state.uploads:
                return False
            self.state.uploads[granted]["sha256"] = self._keep(data)
            self.save()
            return True

    def create(self, granted: str, model_id: str | None, tournament: int | None) -> Submission:
        """Turn what was put under a granted name into a submission, valid or not. Raises `GraphQLError`."""
        with self.lock:
            slot = self._submittable(model_id, tournament)
            upload = self.state.uploads.get(granted)
            if upload is None or upload["model_id"] != slot.id:
                raise GraphQLError("Submission file not found")
            self.carry_over()
            at, sha256 = self.latest(), upload["sha256"]
            error = "no file was uploaded"
            if sha256 is not None:
                error = judge(self.stored(sha256), self.publisher.live_ids(at)) or ""
            now = self.now_utc()
            made = Submission(
                id=str(uuid.uuid4()), model_id=slot.id, slot=slot.name, round=at.number, filename=granted,
                sha256=sha256, inserted_at_utc=stamp(now), late=now >= at.closes_at_utc, valid=not error,
                error=error or None,
            )  # fmt: skip
            self._add(made)
            return made

    def submissions(self, model_id: str | None = None) -> list[Submission]:
        """All of them, valid or not, in the order they were created; of one slot where it is named."""
        with self.lock:
            self.carry_over()
            return [replace(one) for one in self.state.submissions if model_id in (None, one.model_id)]

    def carry_over(self) -> None:
        """Enter what came late for a round into the next one, for every round that has opened since."""
        with self.lock:
            latest = self.latest().number
            if self.state.carried_into >= latest:
                return
            for number in range(self.state.carried_into + 1, latest + 1):
                self._carry_into(number)
            self.state.carried_into = latest
            self.save()

    def stored(self, sha256: str) -> bytes:
        """The bytes of an upload or a submission."""
        return (self.home / "uploads" / sha256).read_bytes()

    def _carry_into(self, number: int) -> None:
        submissions = [one for one in self.state.submissions if one.round == number - 1 and one.late and one.valid]
        # A model that was removed is not entered any more.
        late = {one.slot: one for one in submissions if self.state.slot(one.model_id) is not None}
        for one in late.values():
            ids = self.publisher.live_ids(self.timetable.round(number))
            sha256 = self._keep(with_ids_of(self.stored(str(one.sha256)), ids))
            self._add(replace(one, id=str(uuid.uuid4()), round=number, sha256=sha256, late=False, carried_over=True))

    def _add(self, made: Submission) -> None:
        # The newest valid one of the window counts; a late one never does.
        if made.valid and not made.late:
            for other in self.state.submissions:
                if other.model_id == made.model_id and other.round == made.round:
                    other.selected = False
            made.selected = True
        self.state.submissions.append(made)
        self.save()

    def _submittable(self, model_id: str | None, tournament: int | None) -> Slot:
        slot = self.slot(model_id)
        if tournament != slot.tournament:
            raise GraphQLError("Model does not belong to this tournament")
        if slot.hosted:
            raise GraphQLError("Models with a pickle upload cannot be submitted through the API")
        return slot

    def _keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.home / "uploads" / digest
        if not path.exists():
            write_atomically(path, data)
        return digest


def check_replacement(path: Path) -> str:
    """The absolute path of a file that is to be served. Raises `InputError` if there is none."""
    if not path.is_file():
        raise InputError(f"the file to serve must exist, however {path} does not")
    return str(path.resolve())
