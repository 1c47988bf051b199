"""A Redis Cluster for those who keep everything in one slot, as cluster/keys.py does: a connection to its owner.

Everything that redis-py's plain client can do works there: transactions, scripts, subscriptions.  We begin at any
server, and the first MOVED says where the slot is (Redis Cluster specification, "MOVED Redirection").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cluster.redis_address import Server

MOST_KNOWN = 64


class Moved(RedisConnectionError):
    """The slot is another server's, which the next connection goes to."""


class Owner:
    """Where the slot is, as far as we know: the first of `servers`."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)

    def found(self, server: Server) -> None:
        """Try `server` first from now on."""
        self.servers = [server, *(each for each in self.servers if each != server)][:MOST_KNOWN]


class SlotConnection(Connection):
    """A connection to the owner of the slot that its commands are for."""

    def __init__(self, *, owner: Owner, **options: Any) -> None:
        super().__init__(**options)
        self._owner = owner

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect to the first server that takes us: the library calls this for each new connection."""
        *others, last = self._owner.servers
        for server in others:
            try:
                await self._connect_to(server, *args, **options)
            except (RedisConnectionError, RedisTimeoutError):
                # Whoever answers knows whether that one has been replaced.
                continue
            return
        await self._connect_to(last, *args, **options)

    async def _connect_to(self, server: Server, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            self.host, self.port = server.host, server.port
        await super().connect_check_health(*args, **options)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except MovedError as exc:
            self._owner.found(Server(exc.host or self.host, exc.port))
            await self.disconnect(nowait=True)
            raise Moved(f"the slot is at {self._owner.servers[0]}") from None


def client_of(servers: Sequence[Server], **options: Any) -> redis.Redis:
    """Return a client for a cluster of which `servers` are some; it sends a command again that was MOVED."""
    options["retry"] = Retry(NoBackoff(), 1, supported_errors=(Moved,))
    return redis.Redis.from_pool(ConnectionPool(SlotConnection, owner=Owner(servers), **options))
