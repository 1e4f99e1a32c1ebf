"""What is waited for no longer than one likes."""

from __future__ import annotations

import sys
import threading

import pytest

from eraflow import measure
from eraflow.errors import InputError, TransientError
from eraflow.later import Later
from eraflow.measure import Meter


def test_what_comes_in_time_is_returned_and_what_is_raised_is_raised() -> None:
    def refuse() -> int:
        raise InputError("wrong")

    assert Later(lambda: 3, "it").result(10) == 3
    assert Later(lambda: None, "it").result(10) is None
    with pytest.raises(InputError, match="wrong"):
        Later(refuse, "it").result(10)
    with pytest.raises(SystemExit):
        Later(lambda: sys.exit(3), "it").result(10)


def test_what_hangs_is_given_up_and_may_still_come() -> None:
    over = threading.Event()
    later = Later(over.wait, "the tournament")
    with pytest.raises(TransientError, match=r"the tournament did not answer within 0\.0 s"):
        later.result(0.02)
    over.set()
    assert later.result(10)


def test_a_thread_that_dies_before_it_runs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for want of memory."""
    for name in ("_thread.start_new_thread", "threading._start_new_thread"):
        monkeypatch.setattr(name, lambda *_: 0)
    with pytest.raises(TransientError, match="did not answer"):
        Later(lambda: 3, "it").result(0.02)
    monkeypatch.setattr(measure, "SAMPLER_ENDS_S", 0.02)
    with Meter().stage("training"):
        pass
