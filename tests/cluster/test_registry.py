"""cluster/registry.py: who is a member, kept in a real Valkey under leases."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis

from cluster.keys import Keys
from cluster.member import NodeRecord, State
from cluster.redis_link import REDIS_AWAY, connection
from cluster.registry import Registry
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

KEYS = Keys("flotilla")


def record(name: str = "n1", **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "127.0.0.1", "port": 3000, "incarnation": "a"} | facts
    return NodeRecord(name=name, **values)  # type: ignore[arg-type]


Check = Callable[[Registry, redis.Redis], Awaitable[None]]


def with_registry(valkey: Valkey, check: Check) -> None:
    async def main() -> None:
        async with connection(valkey.url) as link:
            await check(Registry(link, KEYS), link)

    asyncio.run(main())


@asynccontextmanager
async def hearing(valkey: Valkey) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Subscribe to changes; give a function that waits for the next name."""
    async with connection(valkey.url, blocking=True) as link, Registry(link, KEYS).changes() as subscription:
        assert await subscription.get_message(timeout=30) is None

        async def next_name() -> bytes:
            message = await subscription.get_message(timeout=30)
            assert message is not None
            name: bytes = message["data"]
            return name

        yield next_name


def test_what_was_announced_is_read_back_by_name(valkey: Valkey) -> None:
    """Whole records, in an order that does not jump."""

    async def check(it: Registry, _: redis.Redis) -> None:
        records = [record(f"n{number}", port=number + 1, users=number) for number in range(12)]
        for each in reversed(records):
            await it.announce(each, 30.0, changed=False)
        assert await it.members() == sorted(records, key=lambda each: each.name)

    with_registry(valkey, check)


def test_an_empty_registry_has_no_members(valkey: Valkey) -> None:
    """A new cluster, or a Redis that forgot."""

    async def check(it: Registry, _: redis.Redis) -> None:
        assert await it.members() == []

    with_registry(valkey, check)


def test_a_lease_that_is_not_renewed_ends_and_leaves_nothing(valkey: Valkey) -> None:
    """Whoever finds the name without a record takes it out; a node that renews stays."""

    async def check(it: Registry, link: redis.Redis) -> None:
        await it.announce(record("n1"), 0.1, changed=False)
        await it.announce(record("n2", port=2), 0.1, changed=False)
        await it.announce(record("n3", port=3), 30.0, changed=False)
        await eventually(lambda: _names(it, ["n3"]))
        assert await link.smembers(KEYS.nodes) == {b"n3"}
        assert sorted(await link.keys()) == [KEYS.node("n3").encode(), KEYS.nodes.encode()]
        await it.announce(record("n1", users=1), 30.0, changed=False)
        assert [each.name for each in await it.members()] == ["n1", "n3"]

    async def _names(it: Registry, names: list[str]) -> bool:
        return [each.name for each in await it.members()] == names

    with_registry(valkey, check)


def test_announcing_tells_who_stood_there_before(valkey: Valkey) -> None:
    """None: Redis had forgotten us; another incarnation: somebody else has our name."""

    async def check(it: Registry, _: redis.Redis) -> None:
        first, second = record(incarnation="a"), record(incarnation="b")
        assert await it.announce(first, 30.0, changed=False) is None
        assert await it.announce(first, 30.0, changed=False) == first
        assert await it.announce(second, 30.0, changed=False) == first

    with_registry(valkey, check)


def test_only_news_are_told_to_everybody(valkey: Valkey) -> None:
    """A heartbeat is none."""

    async def main() -> None:
        async with connection(valkey.url) as link, hearing(valkey) as next_name:
            it = Registry(link, KEYS)
            await it.announce(record("n1"), 30.0, changed=True)
            await it.announce(record("n1"), 30.0, changed=False)
            await it.announce(record("n2", state=State.DRAINING), 30.0, changed=True)
            await it.withdraw("n1", "a")
            assert [await next_name() for _ in range(3)] == [b"n1", b"n2", b"n1"]

    asyncio.run(main())


def test_a_node_signs_off_itself_and_nobody_else(valkey: Valkey) -> None:
    """One that was replaced under its name must not take its successor away."""

    async def check(it: Registry, _: redis.Redis) -> None:
        await it.announce(record(incarnation="old"), 30.0, changed=False)
        await it.announce(record(incarnation="new"), 30.0, changed=False)
        assert await it.withdraw("n1", "old") is False
        assert await it.members() == [record(incarnation="new")]
        assert await it.withdraw("n1", "new") is True
        assert await it.members() == []
        assert await it.withdraw("n1", "new") is False

    with_registry(valkey, check)


def test_one_unreadable_record_hides_no_other_and_is_told_once(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Not with each heartbeat; again if its fault changes, or if it was well between."""

    async def check(it: Registry, link: redis.Redis) -> None:
        async def put(raw: bytes) -> None:
            await link.set(KEYS.node("bad"), raw)
            await link.sadd(KEYS.nodes, "bad")

        await it.announce(record("good"), 30.0, changed=False)
        for raw in (b"{}", b"{}", b"[]", record("other").to_json().encode()):
            await put(raw)
            assert await it.members() == [record("good")]
        await put(record("bad").to_json().encode())
        assert len(await it.members()) == 2
        await put(b"{}")
        assert len(await it.members()) == 1
        await link.delete(KEYS.node("bad"))
        assert len(await it.members()) == 1
        await put(b"{}")
        assert len(await it.members()) == 1

    with caplog.at_level(logging.WARNING):
        with_registry(valkey, check)
    assert [(entry.getMessage(), vars(entry)["reason"]) for entry in caplog.records] == [
        ("record ignored", "name is missing"),
        ("record ignored", "a JSON object was expected, not list"),
        ("record ignored", "it is called other"),
        ("record ignored", "name is missing"),
    ]


def test_a_bad_record_before_us_is_none(valkey: Valkey) -> None:
    """A node takes its place all the same."""

    async def check(it: Registry, link: redis.Redis) -> None:
        await link.set(KEYS.node("n1"), b"\xff")
        assert await it.announce(record("n1"), 30.0, changed=False) is None
        assert await it.members() == [record("n1")]

    with_registry(valkey, check)


def test_two_clusters_do_not_see_each_other(valkey: Valkey) -> None:
    """They may share a Redis."""

    async def check(it: Registry, link: redis.Redis) -> None:
        other = Registry(link, Keys("other"))
        await it.announce(record("n1"), 30.0, changed=False)
        assert await other.members() == []
        assert await other.withdraw("n1", "a") is False

    with_registry(valkey, check)


def test_a_heartbeat_is_all_or_nothing(valkey: Valkey) -> None:
    """Record, name and notice in one transaction: nobody hears of a node that is not there yet."""

    async def main() -> None:
        async with connection(valkey.url) as link, connection(valkey.url) as reader, hearing(valkey) as next_name:
            writing, reading = Registry(link, KEYS), Registry(reader, KEYS)
            for number in range(50):
                each = dataclasses.replace(record(f"n{number}"), port=1 + number)
                await writing.announce(each, 30.0, changed=True)
                name = (await next_name()).decode()
                assert name in {member.name for member in await reading.members()}

    asyncio.run(main())


def test_while_redis_is_away_every_method_says_so(valkey: Valkey) -> None:
    """With one of the errors that callers expect."""

    async def check(it: Registry, _: redis.Redis) -> None:
        valkey.kill()
        with pytest.raises(REDIS_AWAY):
            await it.members()
        with pytest.raises(REDIS_AWAY):
            await it.announce(record(), 1.0, changed=True)
        with pytest.raises(REDIS_AWAY):
            await it.withdraw("n1", "a")
        with pytest.raises(REDIS_AWAY):
            async with it.changes():
                pytest.fail("subscribed to nobody")

    with_registry(valkey, check)


def test_an_agreed_secret_is_there_again_with_the_next_heartbeat(valkey: Valkey) -> None:
    """A Redis that came back empty must not make newcomers agree on another; one that has a secret keeps it."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            member = Registry(link, KEYS, b"agreed")
            await member.announce(record(), 5.0, changed=False)
            assert await link.get(KEYS.secret) == b"agreed"
            await link.set(KEYS.secret, b"older")
            await member.announce(record(), 5.0, changed=False)
            assert await link.get(KEYS.secret) == b"older"
            await link.flushall()
            assert await member.announce(record(), 5.0, changed=True) is None
            assert await link.get(KEYS.secret) == b"agreed"
            await link.flushall()
            await Registry(link, KEYS).announce(record(), 5.0, changed=False)
            assert await link.get(KEYS.secret) is None, "a configured secret is no business of Redis"

    asyncio.run(main())
