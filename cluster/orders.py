"""Operators' orders to drain nodes, in Redis: one hash of the cluster, a node's name to its order."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import cast

import redis.asyncio as redis

from cluster.keys import Keys
from cluster.member import BadRecord, Drain

log = logging.getLogger(__name__)

_MARK = b""
"""A field that is always there, so that a hash without orders can be told from one that Redis has forgotten."""


class Orders:
    """The orders of the cluster named by `keys`, through the Redis client `link`.

    Every method raises one of `redis_link.REDIS_AWAY` while Redis is away.
    """

    def __init__(self, link: redis.Redis, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def give(self, node: str, drain: Drain) -> None:
        """Order `node` to drain, and tell everybody."""
        async with self._link.pipeline(transaction=True) as pipe:
            pipe.hset(self._keys.drains, mapping={_MARK: b"1", node: drain.to_json()})
            pipe.publish(self._keys.nodes_changed, node)
            await pipe.execute()

    async def lift(self, node: str) -> None:
        """Take the order back, and tell everybody."""
        async with self._link.pipeline(transaction=True) as pipe:
            pipe.hset(self._keys.drains, mapping={_MARK: b"1"})
            pipe.hdel(self._keys.drains, node)
            pipe.publish(self._keys.nodes_changed, node)
            await pipe.execute()

    async def all(self) -> dict[str, Drain] | None:
        """Return all orders; None if there was never one, or Redis has forgotten."""
        found = cast(dict[bytes, bytes], await self._link.hgetall(self._keys.drains))
        if not found:
            return None
        read = ((name.decode(errors="replace"), raw) for name, raw in found.items() if name != _MARK)
        return {name: drain for name, raw in read if (drain := _read(name, raw)) is not None}

    async def of(self, node: str, before: Drain | None = None) -> Drain | None:
        """Return the order to `node`, None if there is none: what a node asks with each heartbeat.

        Where Redis has forgotten all orders, the one `before` stands: balancers will write it again.
        """
        reading = cast(Awaitable[list[bytes | None]], self._link.hmget(self._keys.drains, [_MARK, node]))
        mark, raw = await reading
        if raw is None:
            return before if mark is None else None
        return _read(node, raw)

    async def restore(self, drains: Mapping[str, Drain]) -> None:
        """Write orders again that Redis has forgotten; one that was given meanwhile stands."""
        async with self._link.pipeline(transaction=True) as pipe:
            pipe.hset(self._keys.drains, mapping={_MARK: b"1"})
            for node, drain in drains.items():
                pipe.hsetnx(self._keys.drains, node, drain.to_json())
            await pipe.execute()


def _read(node: str, raw: bytes) -> Drain | None:
    try:
        return Drain.from_json(raw)
    except BadRecord as exc:
        log.warning("order ignored", extra={"node": node, "reason": str(exc)})
        return None
