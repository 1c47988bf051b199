"""Nodes as far as rooms and the bus go: a real fanout over a real Redis, and clients that only keep what they get."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cluster.tag import new_sid, slot_of, tag_of
from node import Server
from node.bus import BusLimits, channels_of
from node.fanout import Fanout
from node.message import Message
from node.peer import Peer
from node.post import Post

SECRET = b"secret"


class Ear:
    """Stands in for the session of one client."""

    def __init__(self) -> None:
        self.sid = "ear"
        self.client: Peer | None = None
        self.heard: list[Any] = []

    def send(self, message: Message, *, volatile: bool = False) -> bool:
        assert message.text is not None
        self.heard.append([json.loads(message.text[message.text.index(b"[") :]), *message.binaries])
        return True

    @property
    def firsts(self) -> list[Any]:
        """The first argument of each event."""
        return [event[1] if len(event) > 1 else None for event, *_ in self.heard]


class RoomsNode:
    """The rooms and the post of a node, with as many clients as a test wants."""

    def __init__(self, url: str, name: str, limits: BusLimits) -> None:
        self.name = name
        self.peers: list[str] = []
        channels = channels_of("test", url)
        self.post = Post(url, channels, name, secrets.token_hex(8), limits, peers=lambda: self.peers)
        self.fanout = Fanout(self.post, lambda sid: slot_of(sid, SECRET), self)
        self.sio = Server(client_manager=self.fanout)
        self._task: asyncio.Task[None] | None = None

    def expected(self) -> list[str]:
        return self.peers

    async def refresh(self) -> bool:
        return True

    def start(self) -> None:
        self._task = asyncio.ensure_future(self.fanout.run())

    async def stop(self) -> None:
        """End at once, with whatever was on its way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def client(self, *rooms: Any, namespace: str = "/") -> tuple[str, Ear]:
        """Connect a client, in these rooms."""
        ear = Ear()
        sid = new_sid(tag_of(self.name, SECRET))
        self.fanout.directory.add(ear, sid, namespace)
        await self.fanout.connect(sid, namespace)
        await self.post.bus.subscribe(self.post.channels.everybody(namespace))
        for room in rooms:
            await self.fanout.enter_room(sid, namespace, room)
        return sid, ear

    def lose(self, sid: str, namespace: str = "/") -> None:
        """The client is gone."""
        self.fanout.directory.remove(self.fanout.directory.get(sid, namespace))


@asynccontextmanager
async def rooms_nodes(*urls: str, limits: BusLimits | None = None) -> AsyncIterator[list[RoomsNode]]:
    """Run a node at each URL; they know each other and work when the block begins."""
    nodes = [RoomsNode(url, f"n{number}", limits or BusLimits(lease_s=2)) for number, url in enumerate(urls)]
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            assert await node.post.bus.up(10), node.post.bus.reason
            node.peers += [other.name for other in nodes]
        yield nodes
    finally:
        for node in nodes:
            await node.stop()
