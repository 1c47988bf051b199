"""How many clients at once.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lb.affinity import masked

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
    """Counts the clients that are here, in all and by address; `on_empty` is called when the last one leaves.

    A client's address counts for as long as its connection lasts, be it here or at a node that it was handed to.
    Addresses are masked (lb/affinity.py): whoever has an IPv6 network has one address.  Those that `brings_others`
    says are proxies, whose connections are everybody's, count for `limit` alone.
    """

    limit: int
    per_address: int = 0
    """Connections of one address; 0: no limit, and none is counted."""
    brings_others: Callable[[str], bool] = lambda address: False
    on_empty: Callable[[], None] = lambda: None
    count: int = 0
    lingering: int = 0
    """Clients that were refused and may still read why."""
    _by_address: dict[str, int] = field(default_factory=dict)

    def admit(self) -> bool:
        """Take one place, unless all are taken."""
        if self.count >= self.limit:
            return False
        self.count += 1
        return True

    def enter(self, address: str) -> bool:
        """Count one more connection of `address`, unless it has as many as it may."""
        if not self.per_address or self.brings_others(address):
            return True
        key = masked(address)
        count = self._by_address.get(key, 0)
        if count >= self.per_address:
            return False
        self._by_address[key] = count + 1
        return True

    def leave(self, address: str) -> None:
        """Give one place back, of a client that had entered."""
        self.ended(address)
        self.hand_over()

    def hand_over(self) -> None:
        """Give one place back, of a client whose connection goes on elsewhere, or that had not entered."""
        self.count -= 1
        if not self.count:
            self.on_empty()

    def ended(self, address: str) -> None:
        """Count one connection of `address` less."""
        if not self.per_address or self.brings_others(address):
            return
        key = masked(address)
        left = self._by_address[key] - 1
        if left:
            self._by_address[key] = left
        else:
            del self._by_address[key]

    def linger(self) -> bool:
        """Let a refused client stay for a moment, unless many do: they take descriptors, too."""
        if self.lingering >= MOST_LINGERING:
            return False
        self.lingering += 1
        return True

    def gone(self) -> None:
        """Strike a refused client that stayed off the account."""
        self.lingering -= 1
