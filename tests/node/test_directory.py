"""The users' directory in Redis: what is swept, what is not, what is unreadable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis

from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import connection
from cluster.registry import Registry
from node.directory import RedisDirectory
from node.roster import Device
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

KEYS = Keys("test")


def device(node: str, sid: str, incarnation: str = "i1") -> Device:
    return Device(sid, f"user of {sid}", node, incarnation, 3000, 1.0)


async def announce(link: redis.Redis, name: str, incarnation: str = "i1") -> None:
    record = NodeRecord(name=name, host="127.0.0.1", port=3000, incarnation=incarnation)
    await Registry(link, KEYS).announce(record, 60, changed=True)


@asynccontextmanager
async def directory_of(
    url: str, name: str, incarnation: str = "i1"
) -> AsyncIterator[tuple[RedisDirectory, redis.Redis]]:
    async with connection(url) as link:
        registry = Registry(link, KEYS)
        yield RedisDirectory(link, registry, KEYS, node=name, incarnation=incarnation, reread_s=60), link


def test_more_entries_than_one_command_takes_are_swept(valkey: Valkey) -> None:
    """A dead node may leave thousands of devices behind."""

    async def main() -> None:
        async with directory_of(valkey.url, "n1") as (one, link):
            await announce(link, "n1")
            await one.write([device("n2", f"s{number}") for number in range(2500)] + [device("n1", "own")], [])
            assert await one.others(fresh=True) == []
            assert await link.hlen(KEYS.users_online) == 1

    asyncio.run(main())


def test_entries_of_a_node_that_comes_back_meanwhile_are_not_swept(valkey: Valkey) -> None:
    """Its lease had ended when we looked, and it is here again when we delete: Redis checks in the same breath."""

    async def main() -> None:
        async with directory_of(valkey.url, "n1") as (one, link):
            await announce(link, "n1")
            await one.write([device("n2", "s2")], [])
            seats = one._seats

            async def as_it_announces_itself() -> set[tuple[str, str]]:
                before = await seats()
                await announce(link, "n2")
                return before

            one._seats = as_it_announces_itself  # type: ignore[method-assign]
            assert await one.others(fresh=True) == []
            one._seats = seats  # type: ignore[method-assign]
            assert await one.others(fresh=True) == [device("n2", "s2")]

    asyncio.run(main())


def test_a_registry_that_does_not_know_us_is_not_believed(valkey: Valkey) -> None:
    """It has just been emptied; what it says of others is as wrong."""

    async def main() -> None:
        async with directory_of(valkey.url, "n1") as (one, link):
            await announce(link, "n2")
            await one.write([device("n2", "s2")], [])
            assert await one.others(fresh=False) is None
            await announce(link, "n1", "another process of this name")
            assert await one.others(fresh=False) is None
            await announce(link, "n1")
            assert await one.others(fresh=False) == [device("n2", "s2")]

    asyncio.run(main())


def test_replace_removes_what_this_process_has_no_more_and_nothing_else(valkey: Valkey) -> None:
    """Entries of other nodes, and of a former process of this name, are not ours to replace."""

    async def main() -> None:
        async with directory_of(valkey.url, "n1", "i2") as (one, link):
            others = [device("n2", "s2"), device("n1", "old", "i1")]
            await one.write([*others, device("n1", "s1", "i2")], [])
            await one.replace([device("n1", "s3", "i2")])
            assert set(await link.hkeys(KEYS.users_online)) == {b"n2 i1 s2", b"n1 i1 old", b"n1 i2 s3"}

    asyncio.run(main())


def test_an_unreadable_entry_hides_no_other(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """It is named in the log and left where it is."""

    async def main() -> None:
        async with directory_of(valkey.url, "n1") as (one, link):
            await announce(link, "n1")
            await announce(link, "n2")
            await link.hset(KEYS.users_online, "n2 i1 bad", "{")
            await one.write([device("n2", "s2")], [])
            assert await one.others(fresh=True) == [device("n2", "s2")]
            assert await link.hexists(KEYS.users_online, "n2 i1 bad")

    asyncio.run(main())
    assert "n2 i1 bad" in str(caplog.records[0].__dict__["reason"])


def test_changes_of_others_are_heard_across_an_outage_and_our_own_are_not(valkey: Valkey) -> None:
    """The subscription comes back by itself, and having it back counts as a change: something may have been missed."""

    async def main() -> None:
        async with directory_of(valkey.url, "n1") as (one, link), directory_of(valkey.url, "n2", "i2") as (two, _):
            stirred: list[int] = []
            watching = asyncio.ensure_future(one.watch(lambda: stirred.append(1)))
            await eventually(lambda: len(stirred) == 1, what="subscribed")
            await one.write([device("n1", "s1")], [])
            await two.write([device("n2", "s2", "i2")], [])
            await eventually(lambda: len(stirred) == 2, what="the other's change, and only that")
            await announce(link, "n3")
            await eventually(lambda: len(stirred) == 3, what="a node that came")
            valkey.kill()
            valkey.start()
            await eventually(lambda: len(stirred) == 4, what="subscribed again")
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(main())
