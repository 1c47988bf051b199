"""One write per client and turn of the event loop, whatever is sent to it; and one callback for all clients.

Writing is what costs: each write is a system call.  What goes to many clients in one turn is also joined once, not once
for each: they share the pieces, so they share what these make together.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol
from weakref import WeakKeyDictionary

log = logging.getLogger(__name__)

CORK_BYTES = 16384
"""More than that is written at once: longer writes cost no less per byte, and joining again and again costs more."""


class Corked(Protocol):
    """Who writes at the end of the turn."""

    def uncork(self) -> None:
        """Write what is there."""

    def abort(self) -> None:
        """End at once: writing failed."""


class Cork:
    """The clients of one event loop for which something was written in this turn, in `dirty`."""

    __slots__ = ("dirty", "joined", "left", "right")

    def __init__(self) -> None:
        self.dirty: list[Corked] = []
        self.left = self.right = self.joined = b""
        """What was joined last, of what."""

    def add(self, corked: Corked) -> None:
        """Let `corked` write at the end of the turn."""
        if not self.dirty:
            asyncio.get_running_loop().call_soon(self._uncork)
        self.dirty.append(corked)

    def join(self, left: bytes, right: bytes) -> bytes:
        """Return `left` + `right`, and keep it: the next client has the same objects, most likely."""
        self.left, self.right = left, right
        self.joined = joined = left + right
        return joined

    def _uncork(self) -> None:
        dirty, self.dirty = self.dirty, []
        self.left = self.right = self.joined = b""
        for corked in dirty:
            try:
                corked.uncork()
            except Exception:
                # One broken transport must not keep everybody else's messages.
                log.exception("write failed")
                corked.abort()


_corks: WeakKeyDictionary[asyncio.AbstractEventLoop, Cork] = WeakKeyDictionary()


def running_cork() -> Cork:
    """Return the cork of the event loop that runs now."""
    loop = asyncio.get_running_loop()
    cork = _corks.get(loop)
    if cork is None:
        cork = _corks[loop] = Cork()
    return cork
