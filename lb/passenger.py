"""Who takes a trip (lb/trip.py): the client's side of a plain exchange, as the node's side sees it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from lb.begun import Begun
from lb.yard import Yard


class Passenger(Protocol):
    """What lb/shuttle.py is to a trip."""

    yard: Yard
    number: int
    transport: asyncio.Transport

    def waits(self) -> None:
        """The node was asked, and nothing else is to come."""

    def brings(self, within_s: float) -> None:
        """The node was asked, and takes more of the body; that has to come so soon."""

    def holds(self) -> None:
        """The node takes no more of the body for now."""

    def streams(self) -> None:
        """More of the answer is to come, whenever it does."""

    def arrived(self, *, close: bool) -> None:
        """The whole answer was written."""

    def cut(self) -> None:
        """The rest of the answer will not come."""

    def long_way(self, begun: Begun | None, request: bytes = b"") -> None:
        """The exchange goes on, or begins again, on the long way.

        There `request` is read if it is not the same any more.
        """
