"""How long a request's head may take, and how large it may become while it has not ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lb.errors import BalancerError, ClientTooSlow
from lb.guards import HeadLimits


class HeadWatch:
    """Watches the heads of one connection, one after the other.

    A head's time counts from its first byte, on a new connection from the accept, so that nobody can hold a connection
    by sending one byte at a time.  `given_up` is told what is wrong; None: nothing has come, so nothing is to be said.
    """

    __slots__ = ("_began", "_bytes", "_given_up", "_limits", "_loop", "_timeout_s", "_timer")

    def __init__(self, limits: HeadLimits, timeout_s: float, given_up: Callable[[BalancerError | None], None]) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        self._given_up = given_up
        self._loop = asyncio.get_running_loop()
        self._began = False
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_on(self) -> bool:
        """Whether a head is awaited within a time."""
        return self._timer is not None

    def start(self) -> None:
        """Let the time begin."""
        self._timer = self._loop.call_later(self._timeout_s, self._expired)

    def came(self, size: int) -> None:
        """Count so many bytes of a head that has not ended with them."""
        self._began = True
        self._bytes += size
        if self._timer is None:
            self.start()
        if self._bytes > self._limits.bytes:
            self._give_up(self._limits.too_large())

    def ended(self) -> None:
        """The head is whole, or is not awaited any more."""
        self._began = False
        self._bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expire(self) -> None:
        """Let the time be over now: it was counted elsewhere before."""
        if self._timer is not None:
            self._timer.cancel()
        self._expired()

    def cancel(self) -> None:
        """Watch no more, and keep nobody alive."""
        self.ended()
        self._given_up = _nobody

    def _expired(self) -> None:
        self._timer = None
        late = f"no whole head within {self._timeout_s:g} s"
        self._give_up(ClientTooSlow(late) if self._began else None)

    def _give_up(self, problem: BalancerError | None) -> None:
        self.ended()
        self._given_up(problem)


def _nobody(_: BalancerError | None) -> None:
    """Who is told after a `cancel`."""
