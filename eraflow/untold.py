"""What is not told: keys and addresses, in texts from outside, in errors and in what libraries log."""

from __future__ import annotations

import logging
import os
import re
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from eraflow.environment import secrets_in
from eraflow.errors import EraflowError


class _Silence(logging.Filter):
    """Drops what the present thread says while it handles an address."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the name is theirs
        return not getattr(self.here, "silent", False)


_silence = _Silence()
# They write whole addresses: apprise its own, urllib3 the path, in which some services have their token.
TALKATIVE = ("apprise", "urllib3.connectionpool", "urllib3.util.retry")
# What libraries raise in place of MemoryError says.
NO_MEMORY = ("can't start new thread", "allocate memory", "out of memory")


@contextmanager
def untold() -> Iterator[None]:
    """Whatever the log's level: in this block, and in this thread, nobody writes an address to it."""
    for name in TALKATIVE:
        logging.getLogger(name).addFilter(_silence)  # the second time does nothing
    before = getattr(_silence.here, "silent", False)
    _silence.here.silent = True
    try:
        yield
    finally:
        _silence.here.silent = before


def without_secrets(text: str, secrets: tuple[str, ...] = ()) -> str:
    """One line of at most 300 characters of a foreign text, without keys and addresses."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = re.sub(r"https?://\S+", "(address)", text, flags=re.IGNORECASE)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def unexpected(error: Exception) -> EraflowError:
    """The error of ours for one that nobody expected."""
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in NO_MEMORY):
        return EraflowError(
            f"there must be more memory for this, however it has run out ({type(error).__name__}); end other programs,"
            " or choose a smaller feature set or recipe, then run the same again",
            code="no-memory",
        )
    # A library's error may hold whatever it was given.
    kind, text = type(error).__name__, without_secrets(str(error), secrets_in(os.environ))[:200]
    return EraflowError(f"unexpected {kind}: {text}; run again with --debug and report it", code="unexpected")


def way_to(error: BaseException) -> str:
    """The way to an error and to those it came of, without their texts."""
    told, seen = "", list[BaseException]()
    found: BaseException | None = error
    while found is not None and found not in seen:
        told += "".join([f"traceback of {type(found).__name__}:\n", *traceback.format_tb(found.__traceback__)])
        seen.append(found)
        found = found.__cause__ or found.__context__
    return told
