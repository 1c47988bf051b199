"""How long things took, counted in buckets: an addition or two for each, cheap enough for every handshake.  Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

HANDSHAKE_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ANSWER_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""A long poll waits for up to the ping interval, 25 s."""
LIFE_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0)


@dataclass(slots=True)
class Histogram:
    """Counts of values up to each of `bounds`, in seconds, and above the last; `sum` of them all."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Yield the bound (`le`) and the count of all values up to it, as Prometheus wants them."""
        names = (*(f"{bound:g}" for bound in self.bounds), "+Inf")
        return zip(names, accumulate(self.counts), strict=True)

    def __iadd__(self, other: Histogram) -> Histogram:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"counts": self.counts, "sum": self.sum}

    @classmethod
    def from_dict(cls, bounds: Sequence[float], raw: Mapping[str, Any]) -> Histogram:
        """Read what `to_dict` wrote.  Raises KeyError, TypeError or ValueError for what another version wrote."""
        counts = [int(count) for count in raw["counts"]]
        if len(counts) != len(bounds) + 1:
            raise ValueError(f"{len(bounds) + 1} buckets were expected, not {len(counts)}")
        return cls(bounds, counts, float(raw["sum"]))
