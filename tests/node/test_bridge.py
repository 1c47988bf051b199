"""node/bridge.py: outages of the bridge's own connection.  What it carries is in test_fanout.py."""

from __future__ import annotations

import asyncio

import pytest
import socketio

from cluster.redis_link import connection
from node import bridge as bridge_module
from node.bridge import Bridge
from tests.support.ports import free_port
from tests.support.rooms_nodes import rooms_nodes
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


def test_it_hears_again_after_an_outage(valkey: Valkey) -> None:
    """It does not give up, and needs no restart."""

    async def main() -> None:
        async with rooms_nodes(valkey.url) as [one]:
            _, ear = await one.client()
            listening = asyncio.ensure_future(Bridge(valkey.url, "socketio", one.fanout).run())
            await eventually(lambda: _is_heard(valkey), what="it listens")
            valkey.kill()
            valkey.start()
            outside = socketio.AsyncRedisManager(valkey.url, write_only=True)

            async def emitted() -> bool:
                await outside.emit("x", "again")
                return "again" in ear.firsts

            await eventually(emitted)
            await outside.redis.aclose()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    asyncio.run(main())


async def _is_heard(valkey: Valkey) -> bool:
    async with connection(valkey.url) as link:
        [(_, count)] = await link.pubsub_numsub("socketio")
        return bool(count)


def test_a_connection_that_went_silent_is_given_up(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that vanished sends no reset; a subscription without a sign of life is made anew."""

    async def main() -> None:
        monkeypatch.setattr(bridge_module, "QUIET_S", 0.1)
        accepted: list[asyncio.StreamWriter] = []

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)
            # Confirms whatever it is told, as Redis does, and is never heard again.
            while len(accepted) == 1 and await reader.read(65536):
                writer.write(b"+OK\r\n+OK\r\n")
                await writer.drain()

        port = free_port()
        server = await asyncio.start_server(swallow, "127.0.0.1", port)
        async with rooms_nodes(valkey.url) as [one]:
            bridge = Bridge(f"redis://127.0.0.1:{port}/0?protocol=2", "socketio", one.fanout)
            listening = asyncio.ensure_future(bridge.run())
            await eventually(lambda: len(accepted) >= 2, what="it connected again")
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        server.close()
        for writer in accepted:
            writer.close()

    asyncio.run(main())
