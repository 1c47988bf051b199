"""Which server to talk to: the only one, the master that the sentinels name, or the owner of a Redis Cluster's slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from cluster.redis_address import RedisAddress, Server, Topology
from node.redis_socket import RedisLost, RedisSocket, Refused, dialled

FRESH_S = 0.5
"""How long a map of a cluster is good for: all partitions ask for it at once when a server is lost."""


class Servers(Protocol):
    """Where the partitions of the bus are."""

    async def link(self, partition: int) -> RedisSocket:
        """Connect to the server of a partition.  Raises RedisLost."""

    async def is_at(self, partition: int, server: Server) -> bool:
        """Return whether that is still its server.  Raises RedisLost if nobody knows."""


def servers_of(address: RedisAddress, slot: Callable[[int], int]) -> Servers:
    """`slot` tells the slot of a partition, for a Redis Cluster."""
    if address.topology is Topology.SENTINEL:
        return Sentinels(address)
    if address.topology is Topology.CLUSTER:
        return Slots(address, slot)
    return Single(address)


class Single:
    def __init__(self, address: RedisAddress) -> None:
        self._address = address

    async def link(self, partition: int) -> RedisSocket:
        return await dialled(self._address.servers[0], self._address)

    async def is_at(self, partition: int, server: Server) -> bool:
        return True


class Sentinels:
    """As the guidelines for Sentinel clients say: ask one after the other, and ask the master whether it is one."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._sentinels = list(address.servers)

    async def link(self, partition: int) -> RedisSocket:
        master = await self._master()
        link = await dialled(master, self._address)
        try:
            await _check_master(link)
        except BaseException:
            link.abort("not the master")
            raise
        return link

    async def is_at(self, partition: int, server: Server) -> bool:
        return await self._master() == server

    async def _master(self) -> Server:
        reasons = []
        for sentinel in tuple(self._sentinels):
            try:
                async with _asking(sentinel, self._address) as link:
                    found = await link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            except RedisLost as exc:
                reasons.append(str(exc))
                continue
            if found is None:
                reasons.append(f"{sentinel} knows no {self._address.service}")
                continue
            # Whoever answered is asked first next time.
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return Server(found[0].decode(), int(found[1]))
        raise RedisLost("; ".join(reasons))


async def _check_master(link: RedisSocket) -> None:
    try:
        role = (await link.ask("ROLE"))[0]
    except Refused:
        # An ACL without it: the sentinels' word has to do.
        return
    if role != b"master":
        raise RedisLost(f"{link.server} is no master (yet), although a sentinel says so")


class Slots:
    def __init__(self, address: RedisAddress, slot: Callable[[int], int]) -> None:
        self._address = address
        self._slot = slot
        self._known: list[Server] = list(address.servers)
        self._ranges: list[tuple[int, int, Server]] = []
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def link(self, partition: int) -> RedisSocket:
        server = await self._owner(partition)
        try:
            return await dialled(server, self._address)
        except RedisLost:
            self._read_at = float("-inf")
            raise

    async def is_at(self, partition: int, server: Server) -> bool:
        return await self._owner(partition) == server

    async def _owner(self, partition: int) -> Server:
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now - self._read_at > FRESH_S:
                await self._read()
                self._read_at = asyncio.get_running_loop().time()
        slot = self._slot(partition)
        for first, last, server in self._ranges:
            if first <= slot <= last:
                return server
        raise RedisLost(f"no server has slot {slot} of the Redis Cluster")

    async def _read(self) -> None:
        reasons = []
        for server in self._known:
            try:
                async with _asking(server, self._address, greet=True) as link:
                    # Deprecated by CLUSTER SHARDS in 7.0, and understood by every version.
                    raw = await link.ask("CLUSTER", "SLOTS")
            except RedisLost as exc:
                reasons.append(str(exc))
                continue
            self._ranges = [_range(each, server) for each in raw]
            others = dict.fromkeys((*(owner for *_, owner in self._ranges), *self._known))
            self._known = [server, *(each for each in others if each != server)]
            return
        raise RedisLost("; ".join(reasons))


def _range(raw: list[Any], asked: Server) -> tuple[int, int, Server]:
    first, last, (host, port, *_) = raw[:3]
    # Empty, or ?: the server does not know its own address, which is the one under which we reached it.
    name = host.decode() if host and host != b"?" else asked.host
    return first, last, Server(name, port)


@asynccontextmanager
async def _asking(server: Server, address: RedisAddress, *, greet: bool = False) -> AsyncIterator[RedisSocket]:
    link = await dialled(server, address, greet=greet)
    try:
        yield link
    finally:
        link.abort("asked")
