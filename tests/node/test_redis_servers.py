"""node/redis_servers.py: when nobody knows the way, the reason names whom we asked."""

from __future__ import annotations

import asyncio

import pytest

from cluster.channels import Channels
from cluster.redis_address import Server, parse
from node.redis_servers import Servers, servers_of
from node.redis_socket import RedisLost
from tests.support.ports import free_port
from tests.support.redises import asked, redis_cluster, watched_by_sentinels
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


def way(url: str) -> Servers:
    return servers_of(parse(url), Channels("test", is_sharded=True).slot)


async def reason(url: str) -> str:
    with pytest.raises(RedisLost) as caught:
        await way(url).link(0)
    return str(caught.value)


def test_nobody_there() -> None:
    """Each that was asked is named."""
    port = free_port()
    for scheme in ("redis+sentinel", "redis+cluster", "redis"):
        assert f"127.0.0.1:{port}" in asyncio.run(reason(f"{scheme}://127.0.0.1:{port}"))


def test_a_server_that_is_no_sentinel_and_in_no_cluster(valkey: Valkey) -> None:
    """The wrong scheme in the configuration."""
    assert "unknown command" in asyncio.run(reason(f"redis+sentinel://127.0.0.1:{valkey.port}"))
    assert "cluster support disabled" in asyncio.run(reason(f"redis+cluster://127.0.0.1:{valkey.port}"))


def test_sentinels_are_believed_after_a_look_at_the_master() -> None:
    """A service that they do not know; a first sentinel that is gone; a master that is a replica by now."""

    async def main() -> None:
        async with watched_by_sentinels(1) as watched:
            gone, [port] = free_port(), watched.sentinels
            assert f"127.0.0.1:{port} knows no other" in await reason(f"redis+sentinel://127.0.0.1:{port}/0/other")
            servers = way(f"redis+sentinel://127.0.0.1:{gone},127.0.0.1:{port}/0/chat")
            for _ in range(2):
                link = await servers.link(0)
                link.abort("seen")
            assert link.server == Server("127.0.0.1", watched.master.port)
            assert await servers.is_at(0, link.server)
            assert not await servers.is_at(0, Server("127.0.0.1", watched.replica.port))
            await asked(watched.master.port, "REPLICAOF", "127.0.0.1", watched.replica.port)
            assert "is no master" in await reason(watched.url)

    asyncio.run(main())


def test_a_slot_that_nobody_has_is_a_reason() -> None:
    """A cluster that is half built, or was resharded badly."""

    async def main() -> None:
        async with redis_cluster() as cluster:
            for server in cluster.masters:
                await asked(server.port, "CLUSTER", "FLUSHSLOTS")

            async def told() -> bool:
                return "no server has slot" in await reason(cluster.url)

            await eventually(told)

    asyncio.run(main())
