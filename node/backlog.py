"""What waits for one client that takes less than it is sent.  Pure; a channel has one only while it is behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

AT_ONCE = 65536
"""Bytes that are joined for one write."""


class Backlog:
    """Frames in order, in pieces that clients share; and who wants to know when they are gone."""

    __slots__ = ("_pieces", "drained", "is_held", "is_paused", "pong", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.pong = b""
        """The answer to the most recent ping; earlier ones need none (RFC 6455 5.5.3), so that they do not pile up."""
        self.size = 0
        """In bytes, without the pong."""
        self.is_paused = False
        """The transport takes no more now."""
        self.is_held = False
        """We give it no more."""
        self.drained: list[Callable[[], None]] = []

    def add(self, frames: bytes) -> None:
        self._pieces.append(frames)
        self.size += len(frames)

    def take(self) -> bytes:
        """Return what goes out next; empty if nothing waits."""
        taken, size = [self.pong] if self.pong else [], 0
        self.pong = b""
        while self._pieces and (not size or size + len(self._pieces[0]) <= AT_ONCE):
            piece = self._pieces.popleft()
            taken.append(piece)
            size += len(piece)
        self.size -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def all(self) -> bytes:
        """Return everything that waits, without taking it."""
        return b"".join((self.pong, *self._pieces))

    def clear(self) -> None:
        """Forget everything that waits."""
        self._pieces.clear()
        self.pong = b""
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._pieces or self.pong)
