"""How many new clients a second.  Pure: time is an argument, in monotonic seconds."""

from __future__ import annotations

BURST_S = 0.1
"""Turns that were not taken add up for so long: clients come in small crowds, and an event loop wakes up late."""


class Pace:
    """At most `per_s` turns a second, spaced evenly but for a burst of BURST_S; 0: any number.

    The virtual scheduling form of the generic cell rate algorithm (ITU-T I.371, annex A): one number is all its state.
    `opens_at` is when the next turn may be taken.
    """

    __slots__ = ("_every_s", "opens_at")

    def __init__(self, per_s: float = 0.0) -> None:
        self._every_s = 1 / per_s if per_s else 0.0
        self.opens_at = float("-inf")

    def take(self, now: float) -> None:
        """Take a turn, also one that is not due yet: later ones wait for it."""
        self.opens_at = max(self.opens_at, now - BURST_S) + self._every_s
