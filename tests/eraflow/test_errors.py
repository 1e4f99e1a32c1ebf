"""The error tree: codes, exit codes, and what survives a process boundary."""

from __future__ import annotations

import itertools
import pickle

import pytest

from eraflow import errors
from eraflow.errors import (
    ClosedError,
    CredentialsError,
    DataError,
    EraflowError,
    InputError,
    RefusedError,
    StorageError,
    TrainingError,
    TransientError,
    UnknownOutcomeError,
    worst_exit_code,
)
from eraflow.transport import NotSentError

ALL = (
    EraflowError, InputError, TransientError, RefusedError, ClosedError, CredentialsError, UnknownOutcomeError,
    DataError, StorageError, TrainingError, NotSentError,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (InputError, 2), (RefusedError, 3), (ClosedError, 3), (CredentialsError, 4), (DataError, 5),
        (TransientError, 1), (UnknownOutcomeError, 1), (StorageError, 1), (TrainingError, 1), (NotSentError, 1),
    ],
)  # fmt: skip
def test_each_kind_has_the_exit_code_of_the_contract(kind: type[EraflowError], exit_code: int) -> None:
    assert kind("what happened").exit_code == exit_code


def test_no_two_kinds_share_a_code_by_accident() -> None:
    codes = [kind.code for kind in ALL if kind is not NotSentError]
    assert len(set(codes)) == len(codes)


def test_a_code_given_to_one_error_leaves_its_class_alone() -> None:
    assert ClosedError("between rounds", code="no-round").code == "no-round"
    assert ClosedError("too late").code == "round-closed"


@pytest.mark.parametrize("kind", ALL)
def test_an_error_is_the_same_after_pickling(kind: type[EraflowError]) -> None:
    found = pickle.loads(pickle.dumps(kind("the text", code="special")))  # noqa: S301 - our own bytes
    assert type(found) is kind
    assert (str(found), found.message, found.code, found.exit_code) == (
        "the text", "the text", "special", kind.exit_code
    )  # fmt: skip


def test_the_wait_that_a_server_asked_for_survives_pickling() -> None:
    error = TransientError("answered 429", retry_after_s=7.0)
    assert pickle.loads(pickle.dumps(error)).retry_after_s == 7.0  # noqa: S301 - our own bytes


def test_the_worst_exit_code_follows_the_order_4_5_3_1() -> None:
    order = [4, 5, 3, 1, 0]
    for codes in itertools.combinations(order, 2):
        assert worst_exit_code(codes) == worst_exit_code(reversed(codes)) == codes[0]
    assert worst_exit_code([]) == errors.EXIT_DONE


def test_an_exit_code_that_nobody_knows_is_never_success() -> None:
    assert worst_exit_code([0, 17]) == 1


def test_the_drawing_names_every_class_with_its_exit_code() -> None:
    drawn = {
        words[1]: words[2:]
        for line in (errors.__doc__ or "").splitlines()
        if len(words := line.replace("│", " ").split()) > 1 and words[0] in ("├──", "└──")
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EraflowError)]
    assert set(drawn) == {kind.__name__ for kind in kinds} - {"EraflowError"}
    for kind in kinds:
        if kind is not EraflowError:
            assert drawn[kind.__name__][0] == str(kind.exit_code), kind
