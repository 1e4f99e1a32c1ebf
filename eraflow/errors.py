"""Everything that eraflow refuses or fails at, as one tree: a class for each thing a caller handles differently.

    EraflowError                       exit code, stable code
    ├── InputError                     2  the user's flags, configuration or recipe are wrong
    ├── TournamentError                1  something between us and the tournament
    │   ├── TransientError             1  may go away by itself: time-out, reset, 429, 5xx; retried, then reported
    │   ├── RefusedError               3  the tournament said no, and will say no again
    │   ├── ClosedError                3  no round is open, or its deadline has passed
    │   ├── CredentialsError           4  keys missing, wrong, or not allowed to do this
    │   └── UnknownOutcomeError        1  a submission was sent and nobody can tell what became of it
    ├── DataError                      5  a file is damaged or not what the tournament documents
    ├── StorageError                   1  no room, no permission, or a file changed under us
    ├── TrainingError                  1  the model could not be trained
    └── OutOfTimeError                 1  a fresh model cannot be there before the on-time deadline

A message says what must hold and what was met, for which round, file or model, and what to do now.
No error carries a request, a response, an address with a signature, or a key.
"""

from __future__ import annotations

from collections.abc import Iterable

EXIT_DONE = 0
NO_ROUND = frozenset({"no-round", "round-closed"})
"""Codes of a `ClosedError` that say that there is nothing to be played."""


class EraflowError(Exception):
    """Base of all errors that eraflow raises on purpose.

    `code` is stable and stands in the JSON output; `exit_code` is that of the command.
    """

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message,), self.__dict__)


class InputError(EraflowError):
    """The user's flags, configuration or recipe are wrong; nothing was done."""

    code = "wrong-input"
    exit_code = 2


class TournamentError(EraflowError):
    """Something between us and the tournament."""

    code = "tournament"


class TransientError(TournamentError):
    """May go away by itself: a time-out, a broken connection, 429 or 5xx."""

    code = "tournament-unreachable"

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s
        self.given_up = False
        """Set once it has been tried as often as it should be."""


class RefusedError(TournamentError):
    """The tournament said no, and asking again would not change that."""

    code = "refused"
    exit_code = 3


class ClosedError(TournamentError):
    """No round is open, or the on-time deadline of this one has passed."""

    code = "round-closed"
    exit_code = 3


class CredentialsError(TournamentError):
    """Keys are missing, wrong, or may not do what was asked."""

    code = "credentials"
    exit_code = 4


class UnknownOutcomeError(TournamentError):
    """A submission was sent, its answer was lost, and reading back did not tell what became of it."""

    code = "outcome-unknown"


class DataError(EraflowError):
    """A file is damaged or is not what the tournament documents."""

    code = "data-refused"
    exit_code = 5


class StorageError(EraflowError):
    """No room on the disk, no permission, or a stored file changed under us."""

    code = "storage"


class TrainingError(EraflowError):
    """The model could not be trained: a loss that is not finite, no rows left, a device out of memory."""

    code = "training"


class OutOfTimeError(EraflowError):
    """What was begun cannot be finished before the on-time deadline, and was stopped so that something else can."""

    code = "out-of-time"


def worst_exit_code(codes: Iterable[int]) -> int:
    """The one exit code for several slots: the worst in the order 4, 5, 3, then 1.

    >>> worst_exit_code([0, 3, 4])
    4
    """
    found = set(codes) - {EXIT_DONE}
    return next((code for code in (2, 4, 5, 3) if code in found), 1 if found else EXIT_DONE)
