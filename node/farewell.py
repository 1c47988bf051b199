"""How a channel ends, once it has begun to: what its receiver will be told, and the deadline for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Farewell:
    """Said by whoever closed first.  `code` and `reason` are as in node.receiver.Receiver.closed."""

    __slots__ = ("_timer", "code", "reason")

    def __init__(self, code: int, reason: str, within_s: float, too_late: Callable[[], None]) -> None:
        self.code = code
        self.reason = reason
        self._timer = asyncio.get_running_loop().call_later(within_s, too_late)

    def over(self) -> None:
        """The connection is gone."""
        self._timer.cancel()
