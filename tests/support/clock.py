"""Time that passes when the test says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """A clock in seconds, for whatever takes one: it stands still until somebody adds to `now`."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now
