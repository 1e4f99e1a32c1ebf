"""No text from outside means anything in Markdown, and a picture that fails costs only itself."""

from __future__ import annotations

import base64
import re

from eraflow.markdown import MAX_PICTURE_BYTES, code, escaped, picture, table


def test_a_text_from_outside_stays_text_on_one_line() -> None:
    assert escaped("a|b\n<img src=x> [l](u) ![p](u) `c` *d* _e_ ~f~ \\g &amp; # h").count("\n") == 0
    assert escaped("x | y") == r"x \| y"
    assert escaped("![p](u)") == r"\!\[p\](u)"
    assert escaped("<b>") == r"\<b\>"


def test_code_cannot_be_ended_early() -> None:
    assert code("ab`|` c\n") == "`abc`"
    assert code("") == ""


def test_a_table_keeps_its_columns_whatever_its_cells_hold() -> None:
    lines = table(["slot", "error"], [["a|b", "one\ntwo"], ["c", code("1|2")]]).splitlines()
    assert lines == ["| slot | error |", "|---|---|", r"| a\|b | one two |", "| c | `12` |"]


def test_a_picture_of_300_kb_is_shown_and_a_larger_one_is_not() -> None:
    shown = picture("the week", lambda: bytes(MAX_PICTURE_BYTES))
    (encoded,) = re.findall(r"!\[the week\]\(data:image/png;base64,([^)]*)\)", shown)
    assert len(base64.b64decode(encoded)) == 300_000
    assert "base64" not in picture("the week", lambda: bytes(MAX_PICTURE_BYTES + 1))
    assert "too large for the dashboard" in picture("the week", lambda: bytes(MAX_PICTURE_BYTES + 1))


def test_a_picture_that_cannot_be_drawn_is_said() -> None:
    def fails() -> bytes:
        raise ZeroDivisionError("no picture")

    assert picture("the week", fails) == "The picture of the week could not be drawn."
