"""Markdown that any text can stand in: tables, and pictures inside the text. Nothing is known of rounds here."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterable, Sequence

logger = logging.getLogger("eraflow")

# The dashboard's list of artifacts carries all of their data.
MAX_PICTURE_BYTES = 300_000


class Markup(str):
    """Text that is Markdown already; everything else is escaped."""

    __slots__ = ()


def escaped(text: object) -> str:
    r"""`text` on one line, without a meaning of its own in Markdown.

    >>> print(escaped("my_slot | <b>"))
    my\_slot \| \<b\>
    """
    return (
        str(text) if isinstance(text, Markup) else re.sub(r"([\\`*_\[\]<>|~&#!])", r"\\\1", " ".join(f"{text}".split()))
    )


def code(text: str) -> Markup:
    """`text` in fixed width; what would end it early is left out."""
    kept = re.sub(r"[`|\s]", "", text)
    return Markup(f"`{kept}`" if kept else "")


def table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; its cells may be of any kind."""
    lines = [headings, *rows]
    told = ["| " + " | ".join(map(escaped, line)) + " |" for line in lines]
    return "\n".join([told[0], "|" + "---|" * len(headings), *told[1:]])


def picture(text: str, draw: Callable[[], bytes]) -> str:
    """The PNG that `draw` makes, inside the text; where there is none, words in its place."""
    try:
        png = draw()
    except Exception as error:
        # Whatever a drawing library does, it costs the picture alone.
        logger.warning("the picture of %s could not be drawn (%s: %s)", text, type(error).__name__, error)
        return f"The picture of {escaped(text)} could not be drawn."
    if len(png) > MAX_PICTURE_BYTES:
        return f"The picture of {escaped(text)} ({len(png):,} bytes) is too large for the dashboard; see the report."
    return f"![{escaped(text)}](data:image/png;base64,{base64.b64encode(png).decode()})"
