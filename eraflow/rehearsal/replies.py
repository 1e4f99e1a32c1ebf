"""What the local tournament sends back, before it is sent: bytes or a part of a file, ranges, refusals, damage.

Nothing here knows of connections or of what a request asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 16
PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser.</body></html>"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer before it is sent: its bytes, or a part of a file."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Path | None = None
    start: int = 0
    length: int | None = None
    """Of the file's part; that of `body` otherwise."""

    @property
    def size(self) -> int:
        return len(self.body) if self.length is None else self.length

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a bounded block at a time."""
        if self.file is None:
            yield from (self.body[at : at + CHUNK_BYTES] for at in range(0, len(self.body), CHUNK_BYTES))
            return
        left = self.size
        with self.file.open("rb") as file:
            file.seek(self.start)
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk


def ranged(whole: Reply, asked: str | None) -> Reply:
    """The part of a whole answer that a `Range` header asks for: one range; others are ignored, as they may be."""
    size = whole.size
    unit, _, text = (asked or "").partition("=")
    first, dash, last = text.partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).isdigit():
        return whole
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size or stop <= start:
        return Reply(status=416, headers={"Content-Range": f"bytes */{size}"})
    headers = {**whole.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    if whole.file is None:
        return Reply(status=206, headers=headers, body=whole.body[start:stop])
    return replace(whole, status=206, headers=headers, start=start, length=stop - start)


def flipped(data: bytes, bits: int) -> bytes:
    """`data` with so many bits flipped, spread evenly over its middle."""
    damaged = bytearray(data)
    for i in range(bits if damaged else 0):
        damaged[len(damaged) * (i + 1) // (bits + 2)] ^= 1 << (i % 8)
    return bytes(damaged)


def storage_error(status: int, code: str) -> Reply:
    """A refusal as the storage behind the signed addresses words it."""
    text = {"AccessDenied": "Request has expired", "NoSuchKey": "The specified key does not exist."}.get(code, code)
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{text}</Message></Error>'
    return Reply(status=status, headers={"Content-Type": "application/xml"}, body=body.encode())


def json_reply(value: Any, status: int = 200) -> Reply:
    """An answer of the API."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Reply(status=status, headers=headers, body=json.dumps(value).encode())
