"""What is not told: keys and addresses, in texts from outside and in what libraries log."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
