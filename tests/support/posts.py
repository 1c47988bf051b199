"""Nodes as far as the bus knows them: each sends, takes, and keeps what it took."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from node.bus import BusLimits, channels_of
from node.post import Post
from node.wire import Emit, Envelope


class Member(Post):
    """A post that keeps the text of each emit it took, by origin."""

    def __init__(self, url: str, name: str, limits: BusLimits, cluster: str = "test") -> None:
        self.peers: list[str] = []
        super().__init__(url, channels_of(cluster, url), name, secrets.token_hex(8), limits, peers=lambda: self.peers)
        self.heard: list[str] = []
        self.by_origin: dict[bytes, list[str]] = {}
        self.take(Emit, self._keep)

    def _keep(self, envelope: Envelope) -> None:
        content = envelope.content
        assert isinstance(content, Emit)
        text = (content.text or b"").decode()
        self.heard.append(text)
        self.by_origin.setdefault(envelope.origin, []).append(text)

    def say(self, text: object, room: str = "room") -> Any:
        """Emit `text` to the others in `room`, and return its fate."""
        return self.send(self.channels.room("/", room), Emit("/", (room,), str(text).encode()))

    async def enter(self, room: str = "room") -> bool:
        return await self.bus.subscribe(self.channels.room("/", room))


@asynccontextmanager
async def members(*urls: str, limits: BusLimits | None = None, up: bool = True) -> AsyncIterator[list[Member]]:
    """Run one member at each URL; they know each other, and (with `up`) work when the block begins."""
    all_ = [Member(url, f"n{number}", limits or BusLimits(lease_s=2)) for number, url in enumerate(urls)]
    tasks = [asyncio.ensure_future(member.run()) for member in all_]
    try:
        for member in all_:
            if up:
                assert await member.bus.up(10), member.bus.reason
            member.peers += [other.name for other in all_]
        yield all_
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ended:
            if not isinstance(end, asyncio.CancelledError):
                raise AssertionError(f"a member ended: {end!r}")
