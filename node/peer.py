"""The Socket.IO side of one Engine.IO session: a client in each namespace, and what has come in but not been done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.codec import Packet, Partial
from node.message import Message
from node.rooms import Client
from node.session import SLOW_CONSUMER

if TYPE_CHECKING:
    from node.session import Session

MOST_HELD_BYTES = 2**20
"""Of messages to a client whose connect handler has not decided yet."""


MOST_KEPT = 200
"""Packets."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last that comes from a session."""

    reason: str


class Kept(deque[Packet | Ended]):
    """What has come for a session that is about to move, and is done where it goes on.

    A client that sends much waits, so that this stays short.
    """

    __slots__ = ("_is_full", "_session", "acknowledged", "is_held")

    def __init__(self, session: Session, packets: Iterable[Packet | Ended] = ()) -> None:
        super().__init__(packets)
        self._session = session
        self._is_full = False
        self.is_held = True
        """Nobody does anything of it yet."""
        self.acknowledged = asyncio.Event()
        """Set when its client has acknowledged something."""

    def append(self, packet: Packet | Ended) -> None:
        super().append(packet)
        if len(self) >= MOST_KEPT and self._session.channel is not None:
            self._is_full = True
            self._session.channel.pause_reading()

    def done(self) -> None:
        """All of it is done: its client need not wait any more."""
        if self._is_full and self._session.channel is not None:
            self._session.channel.resume_reading()


class Peer:
    """All of one session.  Most have one client, so that a dictionary would be the largest part of them."""

    __slots__ = ("_first", "_more", "greeted", "partial", "session", "waiting")

    def __init__(self, session: Session) -> None:
        self.session = session
        self._first: Client | None = None
        self._more: dict[str, Client] | None = None
        self.greeted = False
        """A CONNECT packet has come."""
        self.partial: Partial | None = None
        self.waiting: deque[Packet | Ended] | None = None
        """What has come while something else must end first; None: nothing must."""

    def __len__(self) -> int:
        return (self._first is not None) + len(self._more or ())

    def find(self, namespace: str) -> Client | None:
        first = self._first
        if first is not None and first.space.name == namespace:
            return first
        return None if self._more is None else self._more.get(namespace)

    def add(self, client: Client) -> None:
        if self._first is None:
            self._first = client
        else:
            if self._more is None:
                self._more = {}
            self._more[client.namespace] = client

    def remove(self, client: Client) -> None:
        if self._first is client:
            self._first = None
        elif self._more is not None:
            self._more.pop(client.namespace, None)

    def clients(self) -> list[Client]:
        """Return them in the order in which they connected, as good as."""
        first = [] if self._first is None else [self._first]
        return first + list(self._more.values()) if self._more else first


class Held:
    """Stands in for the session of a client that is not accepted yet: what it is sent waits here.

    So it sees nothing before it is let in (what is for everybody might not be for it), and nothing before the packet
    that says so.
    """

    __slots__ = ("_messages", "_session", "_size")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._messages: list[Message] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def sid(self) -> str:
        return self._session.sid

    @property
    def client(self) -> Peer:
        peer: Peer = self._session.client
        return peer

    def send(self, message: Message, *, volatile: bool = False) -> bool:
        if self._messages and self._size + message.size > MOST_HELD_BYTES:
            if not volatile:
                self._session.abort(SLOW_CONSUMER)
            return False
        self._size += message.size
        self._messages.append(message)
        return True

    def release(self, client: Client) -> None:
        """Let `client` talk to its session from now on, and send what waited."""
        client.session = self._session
        for message in self._messages:
            self._session.send(message)
