"""Whose program is at the other end of a connection on this machine's loopback; what Linux's kernel says of it.

A port of 127.0.0.1 is open to every account of the machine, and TCP itself says nothing of who connects. Read
`account_of`. On systems without the kernel's tables (`can_tell`) nobody knows.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path

Address = tuple[str, int]

TABLE = Path("/proc/net/tcp")
# A program may ask an IPv4 address through a socket of IPv6, whose row stands in the other table.
MAPPED_TABLE = Path("/proc/net/tcp6")
LOCAL, REMOTE, ACCOUNT, INODE = 1, 2, 7, 9


def can_tell() -> bool:
    """Whether this system says whose a connection is."""
    return TABLE.is_file()


def account_of(client: Address, server: Address) -> int | None:
    """The user id that holds the end `client` of a connection to `server`, both IPv4; None if nobody does any more.

    An end that its program has closed is listed as root's, without an inode: it counts as nobody's.
    """
    try:
        ours, theirs = _written(client), _written(server)
    except OSError:  # no IPv4 address
        return None
    for table, prefix in ((TABLE, ""), (MAPPED_TABLE, _mapped_prefix())):
        with suppress(OSError), table.open() as rows:
            for row in rows:
                fields = row.split()
                if fields[LOCAL : REMOTE + 1] == [prefix + ours, prefix + theirs]:
                    return int(fields[ACCOUNT]) if fields[INODE] != "0" else None
    return None


def _written(address: Address) -> str:
    """As the kernel writes it: the word of the host in this machine's byte order, then the port."""
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def _mapped_prefix() -> str:
    """What stands before an IPv4 address in the table of IPv6: ten bytes of nothing and two of ones, in words."""
    words = (bytes(4), bytes(4), b"\0\0\xff\xff")
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
