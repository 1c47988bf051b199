"""A time limit that is put off all the time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Calls `expired` when the time is over that was given last.

    The timer under it is late as a rule and looks whether it is time: to set it anew with each request would cost more
    than the rest of a request's bookkeeping.
    """

    __slots__ = ("_due", "_expired", "_loop", "_rings_at", "_timer")

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._due = self._rings_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> None:
        """Let it be so many seconds from now; 0: never."""
        self._due = due = self._loop.time() + seconds if seconds else math.inf
        if due < self._rings_at:
            self._set()

    def cancel(self) -> None:
        """Let nothing be called any more, and keep nobody alive."""
        self._due, self._expired = math.inf, _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._due
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, math.inf
        if self._loop.time() >= self._due:
            self._due = math.inf
            self._expired()
        elif self._due < math.inf:
            self._set()


def _nothing() -> None:
    """What is left to be called after a `cancel`."""
