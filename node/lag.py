"""How long things take, as a histogram: counts in buckets, percentiles as well as the buckets allow.  Pure."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS_MS = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)
"""Upper bounds of the buckets; one more holds what took longer."""


class Histogram:
    """Counts durations in milliseconds since it was made."""

    __slots__ = ("count", "counts", "sum_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        self.count = 0
        self.sum_ms = 0.0

    def add(self, ms: float) -> None:
        """Count one.  Clocks of two hosts differ: less than nothing counts as nothing."""
        ms = max(ms, 0.0)
        self.counts[bisect_left(BOUNDS_MS, ms)] += 1
        self.count += 1
        self.sum_ms += ms

    def percentile(self, share: float) -> float:
        """Return an upper bound, in milliseconds, for that `share` (0 to 1) of all; 0.0 if there are none."""
        wanted, seen = share * self.count, 0
        for bound, count in zip(BOUNDS_MS, self.counts, strict=False):
            seen += count
            if seen and seen >= wanted:
                return float(bound)
        return float("inf") if self.count else 0.0
