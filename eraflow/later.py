"""A call in a thread of its own, waited for no longer than one likes, and a block that is ended from outside."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from eraflow.errors import TransientError

T = TypeVar("T")


def start(call: Callable[[], object]) -> None:
    """Start `call` in a thread that does not keep the process alive. Raises `RuntimeError` if there can be none.

    `threading.Thread.start` waits for the new thread without an end, and for want of memory that may die before it has
    said that it runs.
    """
    _thread.start_new_thread(call, ())


class Later(Generic[T]):
    """`call` at work since this was made. Left alone it goes on, but does not keep the process alive."""

    def __init__(self, call: Callable[[], T], what: str) -> None:
        self._what, self._call = what, call
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._over = threading.Event()
        start(self._run)

    def result(self, limit_s: float) -> T:
        """What the call returned. Raises what it raised, and `TransientError` if it takes longer than `limit_s` [s]."""
        self._over.wait(max(0.0, limit_s))
        if self._error is not None:
            raise self._error
        if not self._found:
            raise TransientError(
                f"{self._what} did not answer within {limit_s:.1f} s; try again later", code="no-answer"
            )
        return self._found[0]

    def _run(self) -> None:
        try:
            self._found.append(self._call())
        except BaseException as error:  # a thread that ends by SystemExit must not look like one that hangs
            self._error = error
        finally:
            self._over.set()


@contextmanager
def cut_off(end: Callable[[], object], after_s: float) -> Iterator[threading.Event]:
    """Calls `end` if the block is not over after `after_s` [s], and sets the event then; never once it is over."""
    is_cut, is_over, either = threading.Event(), threading.Event(), threading.Lock()

    def cut() -> None:
        is_over.wait(after_s)
        with either:
            if not is_over.is_set():
                is_cut.set()
                end()

    start(cut)
    try:
        yield is_cut
    finally:
        with either:
            is_over.set()
