"""Do most clients seem to be one?  Then hashing their address does not spread them.  Pure.

A proxy in front of us that `lb.trusted_proxies` does not name shows us its own address for everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ENOUGH = 100
"""Clients that must have come before a share says anything."""

REMEMBERED = 512
"""At so many all counts are halved: what was long ago fades, and there are never more addresses to keep."""

MOST = 0.8
"""The share of all clients from which on one address holds `most` of them."""


@dataclass
class Crowd:
    """The addresses of the clients that came lately."""

    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0

    def saw(self, address: str) -> None:
        self.counts[address] = self.counts.get(address, 0) + 1
        self.total += 1
        if self.total >= REMEMBERED:
            self.counts = {key: count // 2 for key, count in self.counts.items() if count > 1}
            self.total = sum(self.counts.values())

    def largest(self) -> tuple[str, float]:
        """Return the address that most came from and its share of them; no address and 0 as long as few have come."""
        if self.total < ENOUGH:
            return "", 0.0
        address = max(self.counts, key=self.counts.__getitem__)
        return address, self.counts[address] / self.total
