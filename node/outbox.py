"""What is on its way to Redis: it waits until it is sent, and is kept until Redis has confirmed it.  Pure.

What was sent and not confirmed when a connection is lost is sent again: whoever has it already knows by its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class Entry(NamedTuple):
    """A message: as it is sent, and since when it is here; `is_known`: Redis has confirmed it once.

    `counted` is to be told how many have got it.
    """

    command: bytes
    at: float
    is_known: bool = False
    counted: Callable[[int], None] | None = None


TAIL_S = 1.0
TAIL_BYTES = 1 << 20
"""What was confirmed so lately, and is not more than that, is sent again on a new connection: a Redis that died may
have confirmed a message to us and not have given it to everybody."""


class Outbox:
    """Holds at most `most_bytes`, each message for at most `most_age_s` until it is sent; `now` is monotonic."""

    __slots__ = (
        "_in_flight",
        "_tail",
        "_tail_size",
        "_waiting",
        "dropped_full",
        "dropped_old",
        "most_age_s",
        "most_bytes",
        "size",
    )

    def __init__(self, most_bytes: int, most_age_s: float) -> None:
        self.most_bytes, self.most_age_s = most_bytes, most_age_s
        self.size = self._tail_size = 0
        """Bytes of all that is not confirmed."""
        self.dropped_full = self.dropped_old = 0
        """Messages that did not fit, and that waited for too long."""
        self._waiting: deque[Entry] = deque()
        self._in_flight: deque[Entry] = deque()
        self._tail: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def in_flight(self) -> int:
        """Messages that were sent, and that Redis has not confirmed."""
        return len(self._in_flight)

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._waiting)

    def add(self, command: bytes, now: float, counted: Callable[[int], None] | None = None) -> bool:
        """Take a message; return False if there is no room.

        The newest is refused, the oldest not taken out for it: whoever sends it can be told.
        """
        size = len(command)
        if self.size + size > self.most_bytes and not self._make_room(size, now):
            self.dropped_full += 1
            return False
        self.size += size
        self._waiting.append(Entry(command, now, counted=counted))
        return True

    def _make_room(self, size: int, now: float) -> bool:
        self.expire(now)
        # One message alone may be as large as it likes.
        return self.size + size <= self.most_bytes or not self.size

    def take(self, about_bytes: int) -> bytes:
        """Return what is to be sent next, in order, about so many bytes."""
        waiting = self._waiting
        if len(waiting) == 1:
            entry = waiting.popleft()
            self._in_flight.append(entry)
            return entry.command
        commands, size = [], 0
        while waiting and size < about_bytes:
            entry = waiting.popleft()
            self._in_flight.append(entry)
            commands.append(entry.command)
            size += len(entry.command)
        return b"".join(commands)

    def confirmed(self, now: float) -> Entry:
        """Redis has the oldest of those in flight, which is returned."""
        tail, entry = self._tail, self._in_flight.popleft()
        size = len(entry.command)
        self.size -= size
        self._tail_size += size
        tail.append(entry)
        while tail and (tail[0].at < now - TAIL_S or self._tail_size > TAIL_BYTES):
            self._tail_size -= len(tail.popleft().command)
        return entry

    def refused(self) -> None:
        """Redis will never take the oldest of those in flight."""
        self.size -= len(self._in_flight.popleft().command)

    def rewind(self) -> int:
        """The connection is lost: all that Redis may not have given to everybody is sent again; return how many."""
        again = [*(entry._replace(is_known=True) for entry in self._tail), *self._in_flight]
        self.size += self._tail_size
        self._tail_size = 0
        self._tail.clear()
        self._in_flight.clear()
        self._waiting.extendleft(reversed(again))
        return len(again)

    def expire(self, now: float) -> int:
        """Drop what has waited for too long; return how many messages that were."""
        waiting, oldest = self._waiting, now - self.most_age_s
        dropped = 0
        while waiting and waiting[0].at < oldest:
            entry = waiting.popleft()
            self.size -= len(entry.command)
            dropped += not entry.is_known
        self.dropped_old += dropped
        return dropped
