"""What was done for a connection's first request before it came to the long way (lb/downstream.py)."""

from __future__ import annotations

import time

from lb.arrived import Arrived
from lb.begun import Begun
from lb.errors import BalancerError
from lb.route import Choice


class Prepared:
    """What `arrived` brings along.  Each thing is told once: what comes behind the first request is not prepared."""

    __slots__ = ("_arrived_at", "_begun", "_choice", "_passed")

    def __init__(self, arrived: Arrived) -> None:
        self._arrived_at = arrived.at
        self._choice = arrived.choice
        self._passed = arrived.passed
        self._begun = arrived.begun

    def comes_later(self) -> None:
        """The first request has not come with the connection."""
        self._arrived_at = 0.0

    def began(self) -> float:
        """Return when the request that was just read came, in monotonic seconds: with the connection, or now.  Once."""
        came_at, self._arrived_at = self.came_at, 0.0
        return came_at

    @property
    def came_at(self) -> float:
        """What `began` will return."""
        return self._arrived_at or time.monotonic()

    def passed(self) -> bool:
        """Return whether the request that was just read has passed the guards before it got here.  Once."""
        passed, self._passed = self._passed, False
        return passed

    def chosen(self) -> Choice | None:
        """Return the node that was chosen for the first request before it got here, once.

        Raises BalancerError: none was found for it.
        """
        choice, self._choice = self._choice, None
        if isinstance(choice, BalancerError):
            raise choice
        return choice

    def begun(self) -> Begun | None:
        """Return what became of the first request before it got here, once."""
        begun, self._begun = self._begun, None
        return begun

    @property
    def brought(self) -> int:
        """Bytes of the first request's body that its node got before it got here, until `begun` is asked."""
        return 0 if self._begun is None else self._begun.brought

    def give_up(self) -> None:
        """Let go of what nobody came for: the connection has ended, or its parser refused the request."""
        if self._begun is not None:
            self._begun.link.close()
