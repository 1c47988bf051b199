"""The body of a plain request that comes behind its head: what of it goes on to the node, and how long we wait.  Pure.

What is wrong with a body, or takes too long, is for the long way to say: it can take over after any byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lb.chunks import LAST_CHUNK, BadChunk, Chunks, Stand
from lb.guards import BodyLimits

_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding):[^\r]*", re.IGNORECASE)
"""In a plain head, where a line can be nothing but one whole field."""

_NO_CHUNKS = Stand(lead=b"", invented=0, owed=b"", lacks=0, end=LAST_CHUNK)


@dataclass(frozen=True, slots=True)
class Remainder:
    """What has not come of a body, for the long way to bring to the node."""

    request: bytes
    """What a parser reads in place of the head and of what came of the body."""
    received: int
    """Bytes of content that came."""
    waited_s: float
    """How long we have waited for the client, in all."""
    is_over: bool
    """Nothing remains: the whole body is on its way to the node."""
    stand: Stand
    """How others go on, if the body is chunked and not over; else there is nothing to it."""


class Luggage:
    """One body.  `head` is that of its request; without a `length` it comes in chunks."""

    __slots__ = ("_chunks", "_head", "_left", "_limits", "_waited_s", "_waits_since", "ended", "received", "rest")

    def __init__(self, head: bytes, length: int | None, limits: BodyLimits) -> None:
        self._head = head
        self._chunks = Chunks(narrow=True) if length is None else None
        self._left = length or 0
        self._limits = limits
        self._waited_s = 0.0
        self._waits_since: float | None = None
        self.received = 0
        """Bytes of content that came."""
        self.ended = False
        self.rest = b""
        """What came behind the body's end."""

    def take(self, data: bytes) -> bytes | None:
        """Return of `data` what goes on to the node.  None: it is not plain, and nothing of it was taken."""
        if self._chunks is not None:
            return self._take_chunks(self._chunks, data)
        if len(data) > self._left:
            data, self.rest = data[: self._left], data[self._left :]
        self._left -= len(data)
        self.received += len(data)
        self.ended = not self._left
        return data

    def _take_chunks(self, chunks: Chunks, data: bytes) -> bytes | None:
        try:
            passes = chunks.feed(data)
        except BadChunk:
            chunks.undo()
            return None
        if self._limits.most_bytes and chunks.received > self._limits.most_bytes:
            chunks.undo()
            return None
        self.received, self.ended, self.rest = chunks.received, chunks.ended, chunks.rest
        return passes

    def wait(self, now: float) -> float:
        """Wait for the client from `now` on, in monotonic seconds; return how many seconds it has."""
        self.hold(now)
        self._waits_since = now
        return self._limits.patience_s(self.received, self._waited_s)

    def hold(self, now: float) -> None:
        """Count no time for the client's from `now` on: the node takes no more, or nobody waits here any longer."""
        if self._waits_since is not None:
            self._waited_s += now - self._waits_since
            self._waits_since = None

    def remainder(self, now: float) -> Remainder:
        """Give up at `now`, and say how to go on."""
        self.hold(now)
        stand, framing = _NO_CHUNKS, b""
        if not self.ended and self._chunks is not None:
            stand, framing = self._chunks.stand(), b"\r\nTransfer-Encoding: chunked"
        elif not self.ended:
            framing = b"\r\nContent-Length: %d" % self._left
        request = b"%b%b\r\n\r\n%b" % (_FRAMING.sub(b"", self._head[:-4]), framing, stand.lead)
        return Remainder(request, self.received, self._waited_s, self.ended, stand)


def divide(
    data: bytes, begin: int, length: int | None, *, chunked: bool, limits: BodyLimits
) -> tuple[bytes, int | None, Luggage | None, bytes] | None:
    """Divide `data`, a request whose body begins at `begin`, and what came with it.

    Returns four things: what goes on of the body at once; how many bytes of content came, or None if there is no body;
    the luggage that takes the rest of it, or None if it has a length and is all here; and what came behind the body.
    None in place of them: it is not plain.
    """
    if not chunked and begin + (length or 0) <= len(data):
        end = begin + (length or 0)
        return data[begin:end], length or None, None, data[end:]
    luggage = Luggage(data[:begin], length, limits)
    passes = luggage.take(data[begin:])
    return None if passes is None else (passes, luggage.received, luggage, luggage.rest)
