"""A connection to a node for plain exchanges (lb/trip.py): one at a time, each answer read by who asked.

Every connection to a node begins as one and waits as one for its next use; the long way makes a Link of it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from lb.link import Link


class Rider(Protocol):
    """Who has asked the node something and waits for its answer."""

    def answered(self, data: bytes) -> None: ...

    def link_lost(self, exc: Exception | None) -> None: ...

    def link_paced(self) -> None:
        """The node takes no more of what is written, or takes more again."""


class PlainLink(asyncio.Protocol):
    """One connection to one node."""

    __slots__ = ("address", "idle_since", "is_full", "reused", "rider", "transport")

    transport: asyncio.Transport

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.rider: Rider | None = None
        self.reused = False
        self.is_full = False
        """Whether the node has yet to take much of what was written."""
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.rider is None:
            # Nobody has asked: whoever asks next must not take this for the answer.
            self.transport.abort()
        else:
            self.rider.answered(data)

    def pause_writing(self) -> None:
        self.is_full = True
        if self.rider is not None:
            self.rider.link_paced()

    def resume_writing(self) -> None:
        self.is_full = False
        if self.rider is not None:
            self.rider.link_paced()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.rider is not None:
            self.rider.link_lost(exc)

    @property
    def is_reusable(self) -> bool:
        return not self.transport.is_closing()

    def close(self) -> None:
        """Close at once; whoever waits for an answer is not told."""
        self.rider = None
        self.transport.abort()

    def to_link(self) -> Link:
        """Return the same connection as the long way uses it."""
        self.rider = None
        return Link(self.transport, self.address, reused=self.reused, is_full=self.is_full)

    @classmethod
    def of(cls, link: Link) -> PlainLink | None:
        """Return the same connection as `to_link` got it; None: it cannot be used again."""
        if not link.is_reusable:
            return None
        transport, tail = link.detach()
        if transport is None:
            return None
        plain = cls(link.address)
        plain.is_full = link.is_full
        plain.connection_made(transport)
        transport.set_protocol(plain)
        if tail:
            plain.data_received(tail)
        return plain
