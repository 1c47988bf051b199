"""The users' directory in Redis: parts that only their node writes, read in pieces; and a Redis that lost some."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis

from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import REDIS_AWAY, connection
from cluster.registry import Registry
from node import directory as directory_module
from node import listening
from node.directory import AT_ONCE, RedisDirectory
from node.parts import Delta, Position
from node.roster import Device, Seat
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly

KEYS = Keys("test")


def seat_of(node: str, incarnation: str = "i1") -> Seat:
    return Seat(node, incarnation, 3000)


def devices(seat: Seat, count: int, first: int = 0) -> list[Device]:
    return [Device(f"s{number}", f"user-{number}", seat, 1.0) for number in range(first, first + count)]


async def announce(link: redis.Redis, name: str, incarnation: str = "i1") -> None:
    record = NodeRecord(name=name, host="127.0.0.1", port=3000, incarnation=incarnation)
    await Registry(link, KEYS).announce(record, 60, changed=True)


@asynccontextmanager
async def directory_of(url: str, seat: Seat) -> AsyncIterator[tuple[RedisDirectory, redis.Redis]]:
    async with connection(url) as link:
        yield RedisDirectory(link, Registry(link, KEYS), KEYS, seat), link


async def read(directory: RedisDirectory, seat: Seat) -> dict[str, str]:
    """Everything in the part of `seat`: sid -> user."""
    at = await directory.position(seat)
    assert at is not None
    return {sid: entry["user"] async for piece in directory.entries(seat, at.base) for sid, entry in piece}


def test_a_part_is_written_changed_and_read_in_pieces(valkey: Valkey) -> None:
    """Thousands of entries, and no command that takes them all."""
    seat, count = seat_of("n1"), 3 * AT_ONCE + 7

    async def main() -> None:
        async with directory_of(valkey.url, seat) as (one, link):
            assert await one.rewrite(devices(seat, count))
            assert await one.write(devices(seat, count, first=count), [f"s{number}" for number in range(count)])
            assert await read(one, seat) == {f"s{n}": f"user-{n}" for n in range(count, 2 * count)}
            assert await one.positions() == {("n1", "i1"): Position(1, 1 + 4)}
            pieces = [len(piece) async for piece in one.entries(seat, 1)]
            assert len(pieces) > 1
            assert max(pieces) < 3 * AT_ONCE
            assert await one.renew(count)
            [part] = await link.keys("*users:online:*")
            assert 0 < await link.pttl(part) <= directory_module.PART_TTL_S * 1000

    asyncio.run(main())


def test_a_part_that_is_written_anew_takes_the_place_of_the_former_in_one_step(valkey: Valkey) -> None:
    """Nothing of the former is left."""
    seat = seat_of("n1")

    async def main() -> None:
        async with directory_of(valkey.url, seat) as (one, link):
            assert await one.rewrite(devices(seat, 2))
            assert await one.rewrite(devices(seat, 1, first=5))
            assert await read(one, seat) == {"s5": "user-5"}
            assert await link.keys("*users:online:*") == [KEYS.users_part("n1", "i1", 2).encode()]

    asyncio.run(main())


def test_a_part_that_is_not_as_it_was_left_is_not_changed(valkey: Valkey) -> None:
    """Redis came back empty, or as an older replica: its writer must write it anew, under a higher number."""
    seat = seat_of("n1")

    async def main() -> None:
        async with directory_of(valkey.url, seat) as (one, link):
            await one.rewrite(devices(seat, 1))
            await link.flushall()
            assert not await one.write(devices(seat, 1), [])
            assert not await one.renew(1)
            assert await link.keys("*users*") == []
            assert await one.rewrite(devices(seat, 1))
            assert await one.position(seat) == Position(3, 3)
            await link.hset(KEYS.users_online, "n1 i1", "3 1")
            assert not await one.write(devices(seat, 1), [])
            assert await one.rewrite(devices(seat, 1))
            await link.delete(KEYS.users_part("n1", "i1", 5))
            assert not await one.renew(1), "the part was evicted"
            assert await one.renew(0)

    asyncio.run(main())


def test_a_command_that_comes_after_its_successor_changes_nothing(valkey: Valkey) -> None:
    """It was stuck on a connection that its writer had given up."""
    seat = seat_of("n1")

    async def main() -> None:
        async with directory_of(valkey.url, seat) as (late, _), directory_of(valkey.url, seat) as (one, _):
            for _ in range(3):
                assert await one.rewrite(devices(seat, 1))
            assert not await late.rewrite([])
            assert await read(one, seat) == {"s0": "user-0"}

    asyncio.run(main())


def test_a_node_that_leaves_takes_its_part_along(valkey: Valkey) -> None:
    """Nothing of it is in Redis any more."""
    seat = seat_of("n1")

    async def main() -> None:
        async with directory_of(valkey.url, seat) as (one, link):
            await one.rewrite(devices(seat, 3))
            await one.withdraw()
            assert await link.keys("*") == []
            assert await one.position(seat) is None

    asyncio.run(main())


def test_a_part_of_a_node_that_came_back_meanwhile_is_not_swept(valkey: Valkey) -> None:
    """Its lease had ended when somebody looked, and it is here again: Redis checks in the same breath."""
    two = seat_of("n2")

    async def main() -> None:
        async with directory_of(valkey.url, seat_of("n1")) as (one, link):
            async with directory_of(valkey.url, two) as (other, _):
                await other.rewrite(devices(two, 3))
            await announce(link, "n2")
            await one.sweep(("n2", "i1"), 1)
            assert len(await read(one, two)) == 3
            await announce(link, "n2", "its successor")
            await one.sweep(("n2", "i1"), 1)
            assert await link.keys("*users*") == []

    asyncio.run(main())


def test_what_cannot_be_read_hides_nothing_else(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Entries are passed on as None, positions are named in the log, and neither is removed."""
    two = seat_of("n2")

    async def main() -> None:
        async with directory_of(valkey.url, two) as (one, link):
            await one.rewrite(devices(two, 1))
            await link.hset(KEYS.users_part("n2", "i1", 1), "bad", "{")
            await link.hset(KEYS.users_online, "n3 i1", "nonsense")
            entries = {sid: entry async for piece in one.entries(two, 1) for sid, entry in piece}
            assert entries["bad"] is None
            assert entries["s0"]["user"] == "user-0"
            assert set(await one.positions()) == {("n2", "i1")}
            assert await one.position(seat_of("n3")) is None
            assert await link.hexists(KEYS.users_online, "n3 i1")

    asyncio.run(main())
    assert "nonsense" in str(caplog.records[0].__dict__["reason"])


def test_changes_of_others_are_heard_across_an_outage_and_our_own_are_not(valkey: Valkey) -> None:
    """The subscription comes back by itself, and that is told: something may have been missed."""
    one_seat, two_seat = seat_of("n1"), seat_of("n2")

    async def main() -> None:
        async with directory_of(valkey.url, one_seat) as (one, link), directory_of(valkey.url, two_seat) as (two, _):
            heard: list[Delta] = []
            stirred: list[int] = []
            watching = asyncio.ensure_future(one.watch(heard.append, lambda: stirred.append(1)))
            await eventually(lambda: stirred, what="subscribed")
            await one.rewrite(devices(one_seat, 1))
            await two.rewrite(devices(two_seat, 1))
            await two.write([], ["s0"])
            await eventually(lambda: len(heard) == 2)
            assert [(each.node, each.at, each.drop) for each in heard] == [
                ("n2", Position(1, 1), ()),
                ("n2", Position(1, 2), ("s0",)),
            ]
            before = len(stirred)
            await announce(link, "n2")
            await eventually(lambda: len(stirred) == before + 1, what="a node came")
            await link.publish(KEYS.users_changed, b"nonsense")
            await eventually(lambda: len(stirred) == before + 2, what="what cannot be read may have told something")
            assert one.unreadable == 1
            valkey.kill()
            valkey.start()
            await eventually(lambda: len(stirred) == before + 3, what="heard again")
            await eventually(lambda: _rewrites(two))
            await eventually(lambda: len(heard) == 3)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(main())


async def _rewrites(directory: RedisDirectory) -> bool:
    try:
        return await directory.rewrite([])
    except REDIS_AWAY:
        return False  # the pool had connections to the one that was killed


def test_a_subscription_without_a_sign_of_life_is_given_up(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to a host that vanished looks like a quiet one."""
    monkeypatch.setattr(listening, "QUIET_S", 0.1)

    async def main() -> None:
        async with directory_of(valkey.url, seat_of("n1")) as (one, link):
            stirred: list[int] = []
            watching = asyncio.ensure_future(one.watch(lambda _: None, lambda: stirred.append(1)))
            await eventually(lambda: stirred)
            (before,) = await _subscribers(link)
            await lastingly(lambda: stirred == [1], 0.5, what="its pings are answered")
            assert await _subscribers(link) == [before]
            with valkey.hanging():
                await lastingly(lambda: stirred == [1], 0.5, what="its pings are not")
            await eventually(lambda: len(stirred) == 2)
            assert await _subscribers(link) != [before]
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(main())


async def _subscribers(link: redis.Redis) -> list[str]:
    return [client["id"] for client in await link.client_list() if int(client["sub"])]
