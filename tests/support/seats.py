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
from node.presence import Directory, Presence
from node.roster import Change, Seat

KEYS = Keys("test")


@dataclass
class Chair:
    """One node as far as presence goes; `told` are the changes that its application heard."""

    presence: Presence
    registry: Registry | None = None
    record: NodeRecord | None = None
    told: list[Change] = field(default_factory=list)

    async def hear(self, change: Change) -> None:
        self.told.append(change)

    def joined(self) -> list[str]:
        return [user.user_id for change in self.told for user in change.joined]

    def left(self) -> list[str]:
        return [user.user_id for change in self.told for user in change.left]

    def sees(self, *users: str) -> bool:
        return set(self.presence.users()) == set(users)

    def has_devices(self, user_id: str, count: int) -> bool:
        return len(self.presence.sessions(user_id)) == count

    def has_lost(self, user_id: str) -> bool:
        return self.left() == [user_id]

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


def presence_with(directory: Directory | None, seat: Seat, trust_s: float = 0.5, grace_s: float = 0.0) -> Presence:
    return Presence(directory, seat, refresh_s=0.1, trust_s=trust_s, grace_s=grace_s, now=lambda: 100.0)


@asynccontextmanager
async def running(chair: Chair) -> AsyncIterator[Chair]:
    chair.presence.listen(chair.hear)
    task = asyncio.ensure_future(chair.presence.run())
    try:
        yield chair
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def alone(grace_s: float = 0.0) -> AsyncIterator[Chair]:
    async with running(Chair(presence_with(None, Seat("n1", "i1", 3001), grace_s=grace_s))) as chair:
        yield chair


@asynccontextmanager
async def sharing(
    url: str, name: str = "n1", port: int = 3001, incarnation: str = "i1", trust_s: float = 0.5, grace_s: float = 0.0
) -> AsyncIterator[Chair]:
    async with connection(url) as link:
        registry, seat = Registry(link, KEYS), Seat(name, incarnation, port)
        directory = RedisDirectory(link, registry, KEYS, seat)
        record = NodeRecord(name=name, host="127.0.0.1", port=port, incarnation=incarnation)
        chair = Chair(presence_with(directory, seat, trust_s, grace_s), registry, record)
        await chair.announce()
        async with running(chair):
            yield chair
