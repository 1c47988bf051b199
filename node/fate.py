"""What became of a message for other nodes.  Pure."""

from __future__ import annotations

from enum import Enum


class Fate(Enum):
    """`await sio.emit(…)` returns it."""

    SENT = "sent"
    """It goes to Redis with this turn of the event loop, and again if the connection is lost before Redis has it."""
    WAITING = "waiting"
    """Redis is away: it is in the outbox, and goes out in its turn."""
    DROPPED = "dropped"
    """Other nodes will not get it: the outbox is full, or it is volatile and Redis is away."""
    LOCAL = "local"
    """There was nothing to send: it is for clients of this node alone."""

    @property
    def delivered_to_bus(self) -> bool:
        """Whether everything is on its way that other nodes should get."""
        return self is Fate.SENT or self is Fate.LOCAL
