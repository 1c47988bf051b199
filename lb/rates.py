"""How many requests a second each address may send.  Pure: time is an argument, in monotonic seconds."""

from __future__ import annotations

MOST_ADDRESSES = 65_536
"""Buckets in each of two generations, some 15 MB.  When there are more, those not used for longest are forgotten.

Whoever has that many addresses gains nothing by it: each of them has a full burst to begin with.
"""


class Rates:
    """A token bucket for each address: `burst` requests at once, and `per_s` more each second.

    Each is the generic cell rate algorithm (ITU-T I.371, annex A): all its state is when the bucket will be full again.
    A full bucket is like one that never was.  So there are two generations, each as long as it takes to fill one: what
    was not used for all of the younger's time is full, and goes with the older.
    """

    __slots__ = ("_began", "_every_s", "_fill_s", "_old", "_tolerance_s", "_young")

    def __init__(self, per_s: float, burst: int) -> None:
        self._every_s = 1 / per_s
        self._fill_s = burst * self._every_s
        # Half a token more, so that the last of a burst does not depend on how sums are rounded.
        self._tolerance_s = (burst - 0.5) * self._every_s
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}
        self._began = float("-inf")

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._young) + len(self._old)

    def take(self, address: str, now: float) -> float:
        """Take a token of `address` and return 0; or return in how many seconds there will be one, and take none."""
        if now - self._began >= self._fill_s or len(self._young) >= MOST_ADDRESSES:
            self._old = self._young if now - self._began < 2 * self._fill_s else {}
            self._young, self._began = {}, now
        full_at = self._young.get(address)
        if full_at is None:
            full_at = self._old.pop(address, now)
        full_at = max(full_at, now)
        wait_s = full_at - now - self._tolerance_s
        if wait_s > 0:
            self._young[address] = full_at
            return wait_s
        self._young[address] = full_at + self._every_s
        return 0.0
