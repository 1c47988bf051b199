"""How many clients at once.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DESCRIPTORS_OF_OUR_OWN = 64
"""Listening sockets, Redis, probes, the admin page, log files."""

MOST_LINGERING = DESCRIPTORS_OF_OUR_OWN // 2

DESCRIPTORS_PER_CLIENT = 2
"""Its own, and one to the node."""


def connection_limit(configured: int, descriptors: int) -> int:
    """Return how many clients may be connected, of `configured` (0: no wish) and the descriptor limit."""
    room = max(1, (descriptors - DESCRIPTORS_OF_OUR_OWN) // DESCRIPTORS_PER_CLIENT)
    return min(configured, room) if configured else room


@dataclass
class Admission:
    """Counts the clients that are here; `on_empty` is called when the last one leaves."""

    limit: int
    on_empty: Callable[[], None] = lambda: None
    count: int = 0
    lingering: int = 0
    """Clients that were refused and may still read why."""

    def admit(self) -> bool:
        """Take one place, unless all are taken."""
        if self.count >= self.limit:
            return False
        self.count += 1
        return True

    def leave(self) -> None:
        """Give one place back."""
        self.count -= 1
        if not self.count:
            self.on_empty()

    def linger(self) -> bool:
        """Let a refused client stay for a moment, unless many do: they take descriptors, too."""
        if self.lingering >= MOST_LINGERING:
            return False
        self.lingering += 1
        return True

    def gone(self) -> None:
        """Strike a refused client that stayed off the account."""
        self.lingering -= 1
