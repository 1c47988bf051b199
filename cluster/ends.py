"""How a WebSocket that was handed over ended, and how its node says so in a packet to the balancer.  Pure.

A report is a row of 64-bit words.  A word without the top bit is the number of a connection that has ended; words with
it, behind that, are facts about this end: seven bits say which fact, 56 bits are its value.  Numbers count up from 1,
so a balancer that knows nothing of facts takes them for connections that it never had, and a node that tells none is
understood as well: the two need not be of the same version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
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
_KIND = 56
_VALUE = (1 << _KIND) - 1
_HOW, _RECEIVED, _SENT = 0x81, 0x82, 0x83
"""The first byte of a fact: the top bit, and which it is."""


def packed(ends: Iterable[End]) -> bytes:
    """Return the report of `ends`."""
    words: list[int] = []
    for number, code, by, received, sent in ends:
        words.append(number)
        if code or by:
            words.append(_HOW << _KIND | code << 8 | by)
        if received is not None:
            words.append(_RECEIVED << _KIND | received)
        if sent is not None:
            words.append(_SENT << _KIND | sent)
    return struct.pack(f"!{len(words)}Q", *words)


def ends_in(report: bytes) -> tuple[End, ...]:
    """Return the ends of a report; facts that are not known here are left out.

    Raises ValueError: the report is cut off, or begins with a fact.
    """
    if len(report) % 8:
        raise ValueError(f"{len(report)} bytes are no whole words")
    words = struct.unpack(f"!{len(report) // 8}Q", report)
    ends: list[End] = []
    facts: dict[int, int] = {}
    # From the last to the first, so that the facts about an end are there when it comes.
    for word in reversed(words):
        if word & _FACT:
            facts.setdefault(word >> _KIND, word & _VALUE)
        elif facts:
            ends.append(_end(word, facts))
            facts = {}
        else:
            ends.append(End(word))
    if facts:
        raise ValueError("a fact about no connection")
    ends.reverse()
    return tuple(ends)


def _end(number: int, facts: dict[int, int]) -> End:
    how = facts.get(_HOW, 0)
    by = _KNOWN.get(how & 0xFF, By.UNKNOWN)
    return End(number, how >> 8 & 0xFFFF, by, facts.get(_RECEIVED), facts.get(_SENT))


_KNOWN = {int(by): by for by in By}
