"""What `benchmarks/http.py` finds out, as values."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import Window


@dataclass(frozen=True)
class RequestResult(Window):
    """What came of a measuring window full of requests."""

    requests: int
    failed: int
    """Answered with something else than was expected, or not at all."""
    cpu_us: float
    """CPU time of the proxy's processes per request."""

    @property
    def count(self) -> int:
        return self.requests


@dataclass(frozen=True)
class StreamResult:
    """What it took to carry one long body."""

    mib: int
    fault: str
    """What came instead of it; empty: every byte arrived."""
    seconds: float
    cpu_us_per_mib: float
    rss_kib_before: int
    rss_kib_peak: int

    @property
    def growth_mib(self) -> float:
        return (self.rss_kib_peak - self.rss_kib_before) / 1024

    @property
    def mib_per_s(self) -> float:
        return self.mib / self.seconds
