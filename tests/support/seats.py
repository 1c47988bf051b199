"""Nodes as far as presence goes: each a Presence that runs, and a registry that knows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import redis.asyncio as redis

from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import REDIS_AWAY, connection
from cluster.registry import Registry
from node.directory import RedisDirectory
from node.presence import Alone, Directory, Presence
from node.roster import Change

KEYS = Keys("test")


@dataclass
class Seat:
    """One node as far as presence goes; `told` are the changes that its application heard."""

    presence: Presence
    registry: Registry | None = None
    record: NodeRecord | None = None
    told: list[Change] = field(default_factory=list)

    async def hear(self, change: Change) -> None:
        self.told.append(change)

    def joined(self) -> list[str]:
        return [user.username for change in self.told for user in change.joined]

    def left(self) -> list[str]:
        return [user.username for change in self.told for user in change.left]

    def sees(self, *usernames: str) -> bool:
        return set(self.presence.users()) == set(usernames)

    def has_devices(self, username: str, count: int) -> bool:
        return self.presence.users()[username].devices == count

    def has_lost(self, username: str) -> bool:
        return self.left() == [username]

    async def announce(self) -> bool:
        """A heartbeat; False if Redis was away, which a node meets with its next one."""
        assert self.registry is not None
        assert self.record is not None
        try:
            before = await self.registry.announce(self.record, 60, changed=True)
        except REDIS_AWAY:
            return False
        if before is None:
            self.presence.forgotten()
        return True

    async def die_by(self, link: redis.Redis) -> None:
        """What a supervisor does for a child that was killed."""
        assert self.record is not None
        assert await Registry(link, KEYS).withdraw(self.record.name, self.record.incarnation)


def presence_with(directory: Directory, name: str, incarnation: str, port: int, trust_s: float = 0.5) -> Presence:
    return Presence(
        directory, node=name, incarnation=incarnation, port=port, refresh_s=0.1, trust_s=trust_s, now=lambda: 100.0
    )


@asynccontextmanager
async def running(seat: Seat) -> AsyncIterator[Seat]:
    seat.presence.listen(seat.hear)
    task = asyncio.ensure_future(seat.presence.run())
    try:
        yield seat
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def alone() -> AsyncIterator[Seat]:
    async with running(Seat(presence_with(Alone(), "n1", "i1", 3001))) as seat:
        yield seat


@asynccontextmanager
async def sharing(
    url: str, name: str = "n1", port: int = 3001, incarnation: str = "i1", trust_s: float = 0.5
) -> AsyncIterator[Seat]:
    async with connection(url) as link:
        registry = Registry(link, KEYS)
        directory = RedisDirectory(link, registry, KEYS, node=name, incarnation=incarnation, reread_s=0.5)
        record = NodeRecord(name=name, host="127.0.0.1", port=port, incarnation=incarnation)
        seat = Seat(presence_with(directory, name, incarnation, port, trust_s), registry, record)
        await seat.announce()
        async with running(seat):
            yield seat
