"""How a channel ends, once it has begun to: what its receiver will be told, and the deadline for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from cluster.ends import LOST_CODE, NO_CODE, By


class Fate(NamedTuple):
    """What became of a WebSocket, for who lent us its connection (see cluster.ends.End)."""

    code: int
    by: By
    was_reset: bool = False
    """Whether its connection ended with an error, so that there was no end of file."""


OnEnd = Callable[[Fate], None]

MOVED = Fate(NO_CODE, By.MOVED)


def lost(exc: BaseException | None) -> Fate:
    """Return the fate of a WebSocket whose connection ended with `exc`, as transports give it, and no close frame."""
    return Fate(LOST_CODE, By.LOST, was_reset=exc is not None)


class Farewell:
    """Said by whoever closed first, `by`.  `code` and `reason` are as in node.receiver.Receiver.closed."""

    __slots__ = ("_timer", "by", "code", "reason")

    def __init__(self, code: int, reason: str, by: By, within_s: float, too_late: Callable[[], None]) -> None:
        self.code = code
        self.reason = reason
        self.by = by
        self._timer = asyncio.get_running_loop().call_later(within_s, too_late)

    def fate(self, exc: BaseException | None) -> Fate:
        """Return what became of the channel whose connection ended with `exc`."""
        return lost(exc) if self.by is By.LOST else Fate(self.code, self.by, was_reset=exc is not None)

    def over(self) -> None:
        """The connection is gone."""
        self._timer.cancel()
