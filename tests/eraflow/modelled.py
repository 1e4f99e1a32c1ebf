"""A model of the tournament in memory, with the part of `Tournament`'s interface that `submission` uses.

It keeps rounds, a clock, and the submissions of one slot and of those that had its name before, and does what the local
tournament's `core` does with them: the newest valid one of a round's window is selected, a late one is not and is
carried into the next round. What goes wrong is planned by `trouble` (operation -> what happens at its next calls);
`step` is called before and after each thing that is done, so that a test can end the run there, or let something else
happen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from eraflow.errors import ClosedError, CredentialsError, RefusedError, TransientError, UnknownOutcomeError
from eraflow.rounds import Round
from eraflow.tournament import Listed, Slot
from eraflow.transport import NotSentError

URL = "http://127.0.0.1:9"
SLOT = Slot(name="one", model_id="model-1", hosted=False)
FIRST, FIRST_OPENS = 1401, datetime(2026, 8, 22, 12, tzinfo=UTC)
HAND = "by hand"
# An effect that is not seen at once is seen before a lost answer is given up (`SubmissionConfig.readback_s`).
UNSEEN_FOR = timedelta(seconds=50)
# A request that takes long to leave, and an answer that is waited for in vain.
LEAVING_S, WAITING = 45.0, timedelta(seconds=30)

TROUBLES: dict[str, tuple[str, ...]] = {
    "current round": ("unreachable",),
    "selected": ("unreachable", "forbidden"),
    "listed": ("unreachable", "forbidden", "refused"),
    "submitted bytes": ("unreachable", "forbidden", "refused", "differ", "differ"),
    "upload": ("refused", "lost", "unreachable"),
    "create": ("not sent", "refused", "lost", "lost", "lost, unseen", "no effect", "no effect", "found wrong"),
}
"""Operation -> what may happen to it instead of the usual."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """One submission that the tournament holds."""

    id: str
    round: int
    filename: str
    data: bytes
    at_utc: datetime
    seen_at_utc: datetime
    late: bool
    by: str
    slot_id: str
    selected: bool = False
    complaint: str | None = None
    carried_over: bool = False


@dataclass
class ModelledTournament:
    """The tournament as one slot sees it."""

    step: Callable[[str], None]
    now: datetime = FIRST_OPENS + timedelta(minutes=5)
    made: list[Made] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    trouble: dict[str, list[str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    """What was asked for, and what was done, since this was last emptied."""
    slot: Slot = SLOT
    """The one that has the name now."""

    # The clock and the rounds

    def now_utc(self) -> datetime:
        return self.now

    @property
    def latest(self) -> Round:
        number = FIRST + (self.now - FIRST_OPENS) // timedelta(days=7)
        opens = FIRST_OPENS + timedelta(days=7) * (number - FIRST)
        return Round(
            number=number,
            opens_at_utc=opens,
            closes_at_utc=opens + timedelta(hours=26),
            ends_at_utc=opens + timedelta(days=5),
        )

    def pass_time(self, time: timedelta) -> None:
        """Let time pass, and late submissions be carried into a round that opens meanwhile."""
        before = self.latest.number
        self.now += time
        for number in range(before + 1, self.latest.number + 1):
            late = [one for one in self.held() if one.round == number - 1 and one.late and not one.complaint]
            for one in late[-1:]:
                data = one.data.replace(b"n1,", b"m1,")  # under the ids of that round
                self._add(replace(one, id=f"{one.id}+", round=number, data=data, late=False, carried_over=True))

    def make_the_slot_again(self) -> None:
        """Remove the slot with all that was submitted to it, and give its name to a new one."""
        number = int(self.slot.model_id.rpartition("-")[2])
        self.slot = replace(self.slot, model_id=f"model-{number + 1}")

    def held(self) -> list[Made]:
        """What the tournament holds of the slot, oldest first; what a removed one had is in `made` alone."""
        return [one for one in self.made if one.slot_id == self.slot.model_id]

    def current_round(self) -> Round:
        self._asked("current round")
        if self.latest.ends_at_utc is not None and self.now >= self.latest.ends_at_utc:
            raise ClosedError("no round is open", code="no-round")
        return self.latest

    # What is there

    def selected(self, model_id: str, round_number: int) -> list[Listed]:
        self._asked("selected")
        return [_listed(one) for one in self._seen(model_id) if one.round == round_number and one.selected]

    def listed(self, model_id: str) -> list[Listed]:
        self._asked("listed")
        return [_listed(one) for one in reversed(self._seen(model_id))]

    def submitted_bytes(self, submission_id: str) -> bytes:
        what = self._asked("submitted bytes")
        found = next((one.data for one in self.held() if one.id == submission_id), None)
        if found is None:
            raise RefusedError("the tournament says: Submission not found")
        if what == "differ":  # from now on
            found += b"\n"
            self.made = [replace(one, data=found) if one.id == submission_id else one for one in self.made]
        return found

    def complaint(self, model_id: str, stored_as: str) -> str | None:
        self._asked("complaint")
        return next((one.complaint for one in self._seen(model_id) if one.filename == stored_as), None)

    # What is sent

    def upload(self, filename: str, data: bytes, model_id: str, before: Callable[[], None]) -> str:
        before()
        what = self._asked("upload")
        stored_as = f"{filename.removesuffix('.csv')}-{len(self.uploads)}.csv"
        if what != "refused":
            self.uploads[stored_as] = data
        self.step("uploaded")
        if what:
            raise RefusedError("the predictions could not be uploaded, nothing was submitted", code="upload-refused")
        return stored_as

    def create(self, stored_as: str, model_id: str, before: Callable[[], float | None]) -> str:
        leaves_within_s = before()
        what = self._asked("create")
        if what.startswith("lost"):
            self.pass_time(timedelta(seconds=min(LEAVING_S, leaves_within_s or LEAVING_S)))
        if what == "not sent" or (leaves_within_s is not None and self.now >= self.latest.closes_at_utc):
            raise NotSentError("the tournament cannot be reached")
        if what == "refused":
            raise RefusedError("the tournament says: no")
        if f"-r{self.latest.number}-" not in stored_as:
            what = "found wrong"  # the live ids are those of another round
        made = None
        if what != "no effect":
            made = self.add(stored_as, self.uploads[stored_as], "us", what or "")
        self.step("created")
        if made is None or what.startswith("lost"):
            self.pass_time(WAITING)
            raise UnknownOutcomeError("the submission was sent, but it is not known whether it took effect")
        return made.id

    def add(self, filename: str, data: bytes, by: str, what: str = "") -> Made:
        """A new submission for the round that opened last."""
        made = Made(
            id=f"s{len(self.made)}",
            round=self.latest.number,
            filename=filename,
            data=data,
            at_utc=self.now,
            seen_at_utc=self.now + (UNSEEN_FOR if what.endswith("unseen") else timedelta()),
            late=self.now >= self.latest.closes_at_utc,
            by=by,
            slot_id=self.slot.model_id,
            complaint="invalid_submission_ids" if what == "found wrong" else None,
        )
        self.calls.append(f"made {made.id}")
        return self._add(made)

    # Helpers

    def _add(self, made: Made) -> Made:
        if not made.late and not made.complaint:
            replaced = [one.id for one in self.held() if one.round == made.round]
            self.made = [replace(one, selected=one.selected and one.id not in replaced) for one in self.made]
            made = replace(made, selected=True)
        self.made.append(made)
        return made

    def _seen(self, slot_id: str) -> Sequence[Made]:
        return [one for one in self.made if one.slot_id == slot_id and one.seen_at_utc <= self.now]

    def _asked(self, operation: str) -> str:
        """What happens to this call, where that is no error of its own."""
        self.step(operation)
        self.calls.append(operation)
        planned = self.trouble.get(operation, [])
        what = planned.pop(0) if planned else ""
        if what == "unreachable" and operation != "upload":
            raise TransientError("the tournament did not answer within 30 s; try again later")
        if what == "forbidden":
            raise CredentialsError("the tournament does not accept the keys for this: not authorized")
        if what == "refused" and operation not in ("upload", "create"):
            raise RefusedError("the tournament says: no")
        return what


@dataclass
class ModelledTime:
    """Stands in for the `time` module of `submission`: sleeping lets the tournament's time pass."""

    tournament: ModelledTournament

    def monotonic(self) -> float:
        return (self.tournament.now - FIRST_OPENS).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.tournament.pass_time(timedelta(seconds=seconds))


def _listed(made: Made) -> Listed:
    # The API tells whole seconds.
    return Listed(filename=made.filename, id=made.id, inserted_at_utc=made.at_utc.replace(microsecond=0))


def as_tournament(modelled: ModelledTournament) -> Any:
    """For a function that wants a `Tournament`; it uses no more than what is modelled."""
    return modelled
