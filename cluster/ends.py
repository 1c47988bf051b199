"""How a WebSocket that was handed over ended, and how its node says so in a packet to the balancer.  Pure.

A report is a row of 64-bit words.  A word without the top bit is the number of a connection that has ended; words with
it, behind that, are facts about this end: seven bits say which fact, 56 bits are its value.  Numbers count up from 1,
so a balancer that knows nothing of facts takes them for connections that it never had, and a node that tells none is
understood as well: the two need not be of the same version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

NO_CODE = 0
"""No close code is known.  RFC 6455 7.4.1 has no such code."""

NO_STATUS, LOST_CODE = 1005, 1006
"""RFC 6455 7.4.1: the close frame had no code; the connection ended without a close frame."""

MOST_WORDS = 4
"""What one end takes in a report."""


class By(IntEnum):
    """Who ended a WebSocket: who sent the first close frame."""

    UNKNOWN = 0
    CLIENT = 1
    NODE = 2
    LOST = 3
    """Nobody: a reset, an end without a close frame, a client that answered no heartbeat."""
    MOVED = 4
    """It has not ended: another process has it now."""


class End(NamedTuple):
    """The end of the connection `id`.  `code` is that of the first close frame, 1005 if it has none."""

    id: int
    code: int = NO_CODE
    by: By = By.UNKNOWN
    received: int | None = None
    """Bytes that ever came on its TCP connection, its requests included; None if it is not known."""
    sent: int | None = None
    """Bytes that ever left on it."""


_FACT = 1 << 63
_VALUE = (1 << 56) - 1
_HOW, _RECEIVED, _SENT = (_FACT | kind << 56 for kind in (1, 2, 3))


def packed(ends: Iterable[End]) -> bytes:
    """Return the report of `ends`."""
    words = [word for end in ends for word in _words(end)]
    return struct.pack(f"!{len(words)}Q", *words)


def _words(end: End) -> Iterator[int]:
    yield end.id
    if end.code or end.by:
        yield _HOW | end.code << 8 | end.by
    if end.received is not None:
        yield _RECEIVED | end.received
    if end.sent is not None:
        yield _SENT | end.sent


def ends_in(report: bytes) -> tuple[End, ...]:
    """Return the ends of a report; facts that are not known here are left out.

    Raises ValueError: the report is cut off, or begins with a fact.
    """
    if len(report) % 8:
        raise ValueError(f"{len(report)} bytes are no whole words")
    ends: list[End] = []
    for word in struct.unpack(f"!{len(report) // 8}Q", report):
        if not word & _FACT:
            ends.append(End(word))
        elif ends:
            ends[-1] = _with(ends[-1], word & ~_VALUE, word & _VALUE)
        else:
            raise ValueError("a fact about no connection")
    return tuple(ends)


def _with(end: End, kind: int, value: int) -> End:
    if kind == _HOW:
        by = value & 0xFF
        return end._replace(code=value >> 8 & 0xFFFF, by=By(by) if by in _KNOWN else By.UNKNOWN)
    if kind == _RECEIVED:
        return end._replace(received=value)
    if kind == _SENT:
        return end._replace(sent=value)
    return end


_KNOWN = frozenset(By)
