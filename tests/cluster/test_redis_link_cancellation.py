"""A task that talks to Redis ends when it is cancelled, whatever it was doing at that moment."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from cluster.redis_link import REDIS_AWAY, connection
from tests.support.valkey import Valkey


def test_a_cancellation_in_the_middle_of_a_command_is_never_lost(valkey: Valkey) -> None:
    """Tried at every step of the event loop through connect, write and read; the connection stays usable after it."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            for steps in range(40):
                task = asyncio.ensure_future(link.echo(f"{steps}"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                already = task.done()
                task.cancel()
                await asyncio.wait([task], timeout=5)
                assert already or task.cancelled(), f"cancelled after {steps} steps"
                assert await link.echo("next") == b"next"

    asyncio.run(main())


def test_a_subscriber_that_is_cancelled_while_it_subscribes_ends(valkey: Valkey) -> None:
    """It would otherwise wait for its next message for ever, and its process with it."""

    async def subscribe() -> None:
        async with connection(valkey.url) as link, link.pubsub() as subscription:
            await subscription.subscribe("channel")
            while True:
                await subscription.get_message(timeout=60)

    async def main() -> None:
        for steps in range(40):
            task = asyncio.ensure_future(subscribe())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=5)
            assert done, f"cancelled after {steps} steps"

    asyncio.run(main())


def test_a_connection_that_was_closed_under_us_is_a_lost_redis(valkey: Valkey) -> None:
    """uvloop says RuntimeError when a command is written to it, which would end the whole process."""

    async def main() -> None:
        async with connection(valkey.url) as client:
            link = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
            link._writer.transport.abort()
            with pytest.raises(REDIS_AWAY):
                await link.send_command("PING", check_health=False)
            await client.connection_pool.release(link)

    uvloop.run(main())
