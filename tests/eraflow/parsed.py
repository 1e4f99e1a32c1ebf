"""A page as a browser would find it, for tests of what is on it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br"}
LOADING = {"script", "link", "iframe", "object", "embed", "base", "form", "use", "image", "foreignobject", "animate"}


class Parsed(HTMLParser):
    """A page's elements, attributes and text; fails if its elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def assert_needs_no_network(text: str) -> None:
    """Nothing on the page is fetched, run or followed, whatever a browser allows."""
    parsed = Parsed(text)
    sources = [value for name, value in parsed.attributes if name in ("src", "href", "srcset", "action", "xlink:href")]
    assert sources == []
    assert [name for name, _ in parsed.attributes if name.startswith("on")] == []
    assert not LOADING & set(parsed.tags)
    assert not re.search(r"https?:|//\w|@import|url\(|javascript:", text)
    assert "default-src 'none'" in text
