"""What the command prints: to a reader that may have gone away, which changes nothing about the round."""

from __future__ import annotations

import contextlib
import os
import sys

from eraflow.errors import TransientError


def show(text: str) -> None:
    """Print to standard output."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def elsewhere(code: str | None) -> str:
    """What to add to the text of the error `code`: it may come from an address that the user has set and forgotten."""
    return " (ERAFLOW_API_URL is set)" if code == TransientError.code and os.environ.get("ERAFLOW_API_URL") else ""


def complain(message: str) -> None:
    """Print to standard error, with the command's name in front."""
    if sys.stderr is None:  # closed by the caller; print would fall back to standard output
        return
    with contextlib.suppress(OSError):
        # A name from outside must not steer the terminal.
        plain = "".join(c if c.isprintable() or c == "\n" else " " for c in message)
        print("eraflow:", plain, file=sys.stderr, flush=True)
