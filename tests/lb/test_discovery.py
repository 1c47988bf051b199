"""lb/discovery.py: following the registry in a real Valkey that is killed, emptied and made read-only."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis

import lb.discovery
from cluster.config import Config
from cluster.host import host_id
from cluster.keys import Keys
from cluster.member import NodeRecord, Signal, State
from cluster.redis_link import REDIS_AWAY, connection
from cluster.registry import Registry
from lb.discovery import Discovery
from lb.pool import Node, Pool
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly

KEYS = Keys("flotilla")


def config(valkey: Valkey, **nodes: object) -> Config:
    """No local nodes; heartbeats of 50 ms, leases of a second."""
    values = {"local": 0, "heartbeat_s": 0.05, "lease_s": 1.0} | nodes
    return Config.model_validate({"redis": valkey.url, "nodes": values})


def record(name: str, **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "127.0.0.1", "port": 3000, "incarnation": "a", "host_id": host_id()} | facts
    return NodeRecord(name=name, **values)  # type: ignore[arg-type]


@asynccontextmanager
async def following(settings: Config) -> AsyncIterator[tuple[Pool, Discovery]]:
    pool = Pool(time.monotonic)
    discovery = Discovery(pool, settings)
    task = asyncio.create_task(discovery.run())
    try:
        yield pool, discovery
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def registry(valkey: Valkey) -> AsyncIterator[Registry]:
    async with connection(valkey.url) as link:
        yield Registry(link, KEYS)


@asynccontextmanager
async def beating(valkey: Valkey, *records: NodeRecord) -> AsyncIterator[None]:
    """Announce nodes each 50 ms, as they do themselves, also through an outage."""

    async def beat() -> None:
        number = 0
        async with registry(valkey) as it:
            while True:
                number += 1
                for each in records:
                    with contextlib.suppress(*REDIS_AWAY):
                        await it.announce(dataclasses.replace(each, uptime_s=float(number)), 1.0, changed=False)
                await asyncio.sleep(0.05)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def in_pool(pool: Pool, *names: str) -> None:
    await eventually(lambda: sorted(pool.nodes) == sorted(names), what=f"{names}, are {list(pool.nodes)}")


def ready(pool: Pool, name: str) -> Node:
    pool.signal(pool.nodes[name], Signal.RISE, "answers its probes")
    return pool.nodes[name]


async def calls(link: redis.Redis, command: str) -> int:
    """Return how often Valkey was asked to do `command`."""
    stats = await link.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


async def called(link: redis.Redis, command: str, times: int) -> bool:
    return await calls(link, command) >= times


async def is_heard(link: redis.Redis) -> bool:
    """Return whether anybody subscribes to changes."""
    [(_, count)] = await link.pubsub_numsub(KEYS.nodes_changed)
    return bool(count)


async def is_missing(link: redis.Redis, key: str) -> bool:
    return not await link.exists(key)


def test_configured_nodes_are_there_before_anything_was_read() -> None:
    """A balancer whose Redis is away from the start still has those to send clients to."""
    pool = Pool(time.monotonic)
    settings = Config.model_validate(
        {"redis": f"redis://127.0.0.1:{free_port()}/0", "nodes": {"local": 1, "static": ["http://10.0.0.5:80"]}}
    )
    discovery = Discovery(pool, settings)
    assert [node.static for node in pool] == [True, True]
    assert discovery.redis == "away"


def test_without_redis_only_configured_nodes_exist() -> None:
    """`redis: none`: there is nothing to follow."""

    async def main() -> None:
        pool = Pool(time.monotonic)
        discovery = Discovery(pool, Config.model_validate({"redis": "none", "nodes": {"local": 1}}))
        await asyncio.wait_for(discovery.run(), 30)
        assert list(pool.nodes) == ["n3000"]
        assert discovery.redis == "none"

    asyncio.run(main())


def test_nodes_come_and_go_with_their_records(valkey: Valkey) -> None:
    """Announced, signed off, and a lease that ended."""

    async def main() -> None:
        async with following(config(valkey)) as (pool, discovery), registry(valkey) as it:
            async with beating(valkey, record("n1", port=1), record("n2", port=2)):
                await in_pool(pool, "n1", "n2")
                assert discovery.redis == "ok"
            await it.announce(record("n3", port=3, uptime_s=9.0), 30.0, changed=True)
            await in_pool(pool, "n1", "n2", "n3")
            await in_pool(pool, "n3")
            assert await it.withdraw("n3", "a")
            await in_pool(pool)

    asyncio.run(main())


def test_a_change_is_heard_at_once(valkey: Valkey) -> None:
    """With a heartbeat of a minute a node that joins, drains and signs off is still seen within a moment."""

    async def main() -> None:
        slow = config(valkey, heartbeat_s=60.0, lease_s=300.0)
        async with following(slow) as (pool, discovery), registry(valkey) as it:
            await eventually(lambda: discovery.redis == "ok")
            async with connection(valkey.url) as link:
                await eventually(lambda: is_heard(link))
            await it.announce(record("n1"), 300.0, changed=True)
            await in_pool(pool, "n1")
            await it.announce(record("n1", state=State.DRAINING), 300.0, changed=True)
            await eventually(lambda: pool.nodes["n1"].state is State.DRAINING)
            await it.withdraw("n1", "a")
            await in_pool(pool)

    asyncio.run(main())


def test_a_hundred_notices_cost_few_readings(valkey: Valkey) -> None:
    """A rolling restart of many nodes must not make each balancer read the registry for each of them."""

    async def main() -> None:
        slow = config(valkey, heartbeat_s=60.0, lease_s=300.0)
        async with following(slow) as (pool, discovery), connection(valkey.url) as link:
            await eventually(lambda: discovery.redis == "ok")
            it = Registry(link, KEYS)
            await link.config_resetstat()
            for number in range(100):
                await it.announce(record(f"n{number}", port=1 + number), 300.0, changed=True)
            await eventually(lambda: len(pool.nodes) == 100)
            assert await calls(link, "smembers") < 50

    asyncio.run(main())


def test_while_redis_is_away_the_last_picture_stays(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Killed, and back with an empty memory: nobody is thrown out, and the log has one line for each way."""

    async def main() -> None:
        async with following(config(valkey)) as (pool, discovery):
            async with beating(valkey, record("n1", port=1), record("n2", port=2)):
                await in_pool(pool, "n1", "n2")
                nodes = [ready(pool, "n1"), ready(pool, "n2")]
                left: list[Node] = []
                pool.watchers.append(left.append)
                valkey.kill()
                await eventually(lambda: discovery.redis == "away")
                # Longer than a lease, both times.
                await lastingly(lambda: all(node.takes_new for node in nodes), 1.2)
                valkey.start()
                await eventually(lambda: discovery.redis == "ok")
                await lastingly(lambda: all(node.takes_new for node in nodes), 1.2)
                assert left == []
            await in_pool(pool, *pool.nodes)

    with caplog.at_level(logging.INFO, logger="lb"):
        asyncio.run(main())
    phrases = [entry.getMessage() for entry in caplog.records if entry.getMessage().startswith("redis")]
    assert phrases == ["redis away, keeping the last picture", "redis back"]
    assert not any(entry.exc_info for entry in caplog.records)


def test_a_node_that_does_not_return_with_redis_is_gone_after_a_lease(valkey: Valkey) -> None:
    """It died during the outage; the others announce themselves again."""

    async def main() -> None:
        async with following(config(valkey)) as (pool, discovery):
            async with beating(valkey, record("n1", port=1), record("n2", port=2)):
                await in_pool(pool, "n1", "n2")
                valkey.kill()
                await eventually(lambda: discovery.redis == "away")
            valkey.start()
            async with beating(valkey, record("n1", port=1)):
                await in_pool(pool, "n1")

    asyncio.run(main())


def test_a_redis_that_starts_later_than_the_balancer_is_found(valkey: Valkey) -> None:
    """Away from the start: one line, and then the nodes."""

    async def main() -> None:
        valkey.kill()
        async with following(config(valkey)) as (pool, discovery):
            await eventually(lambda: discovery._away_since is not None)
            valkey.start()
            async with beating(valkey, record("n1")):
                await in_pool(pool, "n1")
            assert discovery.redis == "ok"

    asyncio.run(main())


def test_an_emptied_redis_throws_nobody_out(valkey: Valkey) -> None:
    """FLUSHALL while all is well: the connection stays, the memory is gone."""

    async def main() -> None:
        async with following(config(valkey)) as (pool, _), beating(valkey, record("n1", port=1), record("n2", port=2)):
            await in_pool(pool, "n1", "n2")
            left: list[Node] = []
            pool.watchers.append(left.append)
            async with connection(valkey.url) as link:
                for _ in range(5):
                    await link.flushall()
                    await lastingly(lambda: not left, 0.15)

    asyncio.run(main())


def test_a_redis_that_takes_no_writes_throws_nobody_out(valkey: Valkey) -> None:
    """A replica after a failover, a full disk: all leases end, and yet the nodes serve."""

    async def main() -> None:
        nodes_beat = beating(valkey, record("n1", port=1), record("n2", port=2))
        async with following(config(valkey)) as (pool, _), connection(valkey.url) as link, nodes_beat:
            await in_pool(pool, "n1", "n2")
            nodes = [ready(pool, "n1"), ready(pool, "n2")]
            await link.config_set("min-replicas-to-write", 1)
            await eventually(lambda: is_missing(link, KEYS.node("n1")))
            await lastingly(lambda: all(node.takes_new for node in nodes), 0.5)
            await link.config_set("min-replicas-to-write", 0)
            await in_pool(pool, "n1", "n2")

    asyncio.run(main())


def test_nodes_that_cannot_reach_redis_stay_while_they_answer_their_probes(valkey: Valkey) -> None:
    """All their leases end at once, ours is the only connection to Redis that works."""

    async def main() -> None:
        async with following(config(valkey)) as (pool, _), connection(valkey.url) as link:
            async with beating(valkey, record("n1", port=1), record("n2", port=2)):
                await in_pool(pool, "n1", "n2")
                ready(pool, "n1")
            await eventually(lambda: is_missing(link, KEYS.nodes))
            await in_pool(pool, "n1")
            pool.signal(pool.nodes["n1"], Signal.FALL, "connection refused")
            await in_pool(pool)

    asyncio.run(main())


def test_one_bad_record_hides_no_other(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """It is ignored, with one line and not one for each heartbeat."""

    async def main() -> None:
        async with following(config(valkey)) as (pool, _), connection(valkey.url) as link:
            await link.set(KEYS.node("bad"), b'{"name":"bad"}')
            await link.set(KEYS.node("worse"), b"\xff\xfe")
            await link.sadd(KEYS.nodes, "bad", "worse")
            async with beating(valkey, record("n1")):
                await in_pool(pool, "n1")
                before = await calls(link, "smembers")
                await eventually(lambda: called(link, "smembers", before + 3))

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [(entry.getMessage(), vars(entry)["node"]) for entry in caplog.records] == [
        ("record ignored", "bad"),
        ("record ignored", "worse"),
    ]


def test_without_discover_strangers_stay_out(valkey: Valkey) -> None:
    """Only what the configuration names; what it says of itself is taken."""

    async def main() -> None:
        settings = config(valkey, discover=False, static=["http://127.0.0.1:3000"])
        async with following(settings) as (pool, _), registry(valkey) as it:
            await it.announce(record("stranger", port=3001), 30.0, changed=False)
            await it.announce(record("n3000-xyz", port=3000, connections=7), 30.0, changed=True)
            await in_pool(pool, "n3000-xyz")
            assert pool.nodes["n3000-xyz"].connections == 7

    asyncio.run(main())


def test_a_subscription_that_lost_its_connection_is_made_again(valkey: Valkey) -> None:
    """The server ends it; notices are heard again soon."""

    async def main() -> None:
        slow = config(valkey, heartbeat_s=60.0, lease_s=300.0)
        async with following(slow) as (pool, _), connection(valkey.url) as link:
            it = Registry(link, KEYS)
            for number in range(3):
                await eventually(lambda: is_heard(link))
                await it.announce(record(f"n{number}", port=1 + number), 300.0, changed=True)
                await in_pool(pool, *(f"n{before}" for before in range(number + 1)))
                await link.client_kill_filter(_type="pubsub")

    asyncio.run(main())


def test_a_quiet_subscription_is_asked_and_kept(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a ping shows that it hears: it is not made again."""
    monkeypatch.setattr(lb.discovery, "LISTEN_S", 0.05)

    async def main() -> None:
        async with following(config(valkey)), connection(valkey.url) as link:
            await eventually(lambda: called(link, "ping", 5))
            assert await calls(link, "subscribe") == 1

    asyncio.run(main())


def test_a_deaf_subscription_is_made_again(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis hangs without closing anything (SIGSTOP): after two silent spans the connection counts as dead."""
    monkeypatch.setattr(lb.discovery, "LISTEN_S", 0.1)

    async def main() -> None:
        assert valkey.process is not None
        async with following(config(valkey)) as (_, discovery), connection(valkey.url) as link:
            await eventually(lambda: called(link, "subscribe", 1))
            valkey.process.send_signal(19)
            try:
                await lastingly(lambda: True, 0.5)
            finally:
                valkey.process.send_signal(18)
            await eventually(lambda: called(link, "subscribe", 2))
            await eventually(lambda: discovery.redis == "ok")

    asyncio.run(main())
