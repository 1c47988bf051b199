"""lb/drains.py, cluster/orders.py and lb/operations.py: an order to drain, and who hears of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cluster.config import Config
from cluster.keys import Keys
from cluster.member import Drain, NodeRecord, Signal, State
from cluster.orders import Orders
from cluster.redis_link import REDIS_AWAY, connection
from cluster.registry import Registry
from cluster.rundir import RunDir
from cluster.written_orders import REPORT, WrittenOrders
from lb.discovery import Discovery
from lb.drains import Drains
from lb.events import Events
from lb.operations import Operations
from lb.pool import Pool
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly

ORDER = Drain(since=5.0, drain_s=60.0, close_per_s=10.0)


@dataclass
class Balancer:
    """One worker as far as orders go, with nodes n1 and n2 that are ready."""

    config: Config
    run_dir: RunDir
    pool: Pool = field(init=False)
    drains: Drains = field(init=False)
    discovery: Discovery = field(init=False)

    def __post_init__(self) -> None:
        self.pool = Pool(lambda: 100.0)
        self.drains = Drains(self.pool, self.config, self.run_dir, wall=lambda: 5.0)
        self.discovery = Discovery(self.pool, self.config, drains=self.drains)
        for name in ("n1", "n2"):
            self.pool.signal(self.pool.add_static("127.0.0.1", int(name[1]), name), Signal.RISE, "answers its probes")

    def state(self, name: str = "n1") -> State:
        return self.pool.nodes[name].state


def configured(redis: str) -> Config:
    nodes = {"local": 0, "heartbeat_s": 0.2, "drain_s": 7.0, "static": ["http://h:1"]}
    return Config.model_validate({"redis": redis, "nodes": nodes})


@asynccontextmanager
async def balancer(directory: Path, redis: str = "none") -> AsyncIterator[Balancer]:
    """Run one with `directory` for its stack."""
    os.makedirs(directory, exist_ok=True)
    it = Balancer(configured(redis), RunDir(directory))
    running = [asyncio.ensure_future(run()) for run in (it.discovery.run, it.drains.run)]
    try:
        yield it
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def test_all_balancers_obey_and_the_node_itself_can_read_it(valkey: Valkey, tmp_path: Path) -> None:
    """Two stacks with one Redis; the order is there for the node under its name."""

    async def main() -> None:
        async with balancer(tmp_path / "a", valkey.url) as one, balancer(tmp_path / "b", valkey.url) as two:
            order = await one.drains.order("n1", 60.0)
            assert one.state() is State.DRAINING
            await eventually(lambda: two.state() is State.DRAINING)
            assert two.state("n2") is State.READY
            async with connection(valkey.url) as link:
                orders = Orders(link, Keys("flotilla"))
                assert await orders.of("n1") == order == Drain(since=5.0, drain_s=60.0, close_per_s=100.0)
                assert await orders.of("n2") is None
            await two.drains.lift("n1")
            assert two.state() is State.JOINING
            await eventually(lambda: one.state() is State.JOINING)
            async with connection(valkey.url) as link:
                assert await Orders(link, Keys("flotilla")).of("n1") is None

    asyncio.run(main())


@pytest.mark.parametrize("with_redis", [True, False])
def test_an_order_survives_the_worker_and_holds_from_its_successors_first_moment(
    valkey: Valkey, tmp_path: Path, with_redis: bool
) -> None:
    """Before anything was read from Redis: from the copy in the run directory."""

    async def main() -> None:
        url = valkey.url if with_redis else "none"
        async with balancer(tmp_path / "a", url) as one:
            await one.drains.order("n1")
        again = Balancer(configured(url), RunDir(tmp_path / "a"))
        assert again.pool.nodes["n1"].drain == Drain(since=5.0, drain_s=7.0, close_per_s=100.0)
        assert again.state() is State.DRAINING

    asyncio.run(main())


def test_without_redis_the_other_workers_of_the_stack_obey(tmp_path: Path) -> None:
    """Through the run directory."""

    async def main() -> None:
        async with balancer(tmp_path / "a") as one, balancer(tmp_path / "a") as two:
            await one.drains.order("n1")
            await eventually(lambda: two.state() is State.DRAINING)
            await two.drains.lift("n1")
            await eventually(lambda: one.state() is State.JOINING)

    asyncio.run(main())


def test_a_redis_that_lost_its_memory_is_told_again(valkey: Valkey, tmp_path: Path) -> None:
    """An order holds until somebody takes it back."""

    async def main() -> None:
        async with balancer(tmp_path / "a", valkey.url) as one, connection(valkey.url) as link:
            await one.drains.order("n1")
            await link.flushall()
            orders = Orders(link, Keys("flotilla"))
            assert await eventually(lambda: orders.of("n1"))
            assert one.state() is State.DRAINING
            await one.drains.lift("n1")
            await lastingly(lambda: one.state() is State.JOINING, 0.6)

    asyncio.run(main())


def test_while_redis_is_away_nothing_is_ordered_and_what_was_holds(valkey: Valkey, tmp_path: Path) -> None:
    """Half of the cluster must not believe what the other half does not know."""

    async def main() -> None:
        async with balancer(tmp_path / "a", valkey.url) as one:
            await one.drains.order("n1")
            valkey.kill()
            with pytest.raises(REDIS_AWAY):
                await one.drains.order("n2")
            with pytest.raises(REDIS_AWAY):
                await one.drains.lift("n1")
            assert (one.state("n1"), one.state("n2")) == (State.DRAINING, State.READY)

    asyncio.run(main())


def test_orders_that_cannot_be_read_are_left_out(
    valkey: Valkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a line in the log; the others hold."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            orders = Orders(link, Keys("flotilla"))
            assert await orders.all() is None
            await orders.give("n1", ORDER)
            await link.hset("{flotilla}:drains", "n2", "nonsense")
            assert await orders.all() == {"n1": ORDER}

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["order ignored"]
    (tmp_path / f"{REPORT}.json").write_text("{", encoding="utf-8")
    assert Balancer(configured("none"), RunDir(tmp_path)).state() is State.READY
    (tmp_path / f"{REPORT}.json").write_text('{"n1": "5"}', encoding="utf-8")
    assert Balancer(configured("none"), RunDir(tmp_path)).state() is State.READY


def test_a_run_directory_that_is_full_stops_no_order_that_redis_has(valkey: Valkey, tmp_path: Path) -> None:
    """Without Redis the others would not hear of it: nothing is ordered."""

    async def main() -> None:
        async with balancer(tmp_path / "a", valkey.url) as one:
            one.drains._copy = WrittenOrders(RunDir(tmp_path / "nowhere"))
            await one.drains.order("n1")
            assert one.state() is State.DRAINING
        alone = Balancer(configured("none"), RunDir(tmp_path / "nowhere"))
        with pytest.raises(OSError, match="No such file"):
            await alone.drains.order("n1")
        assert alone.state() is State.READY

    asyncio.run(main())


def test_a_node_that_drains_is_not_thrown_out_by_its_record(valkey: Valkey, tmp_path: Path) -> None:
    """It hears of its order later, and says ready until then."""

    async def main() -> None:
        async with balancer(tmp_path / "a", valkey.url) as one, connection(valkey.url) as link:
            await one.drains.order("n1")
            registry = Registry(link, Keys("flotilla"))
            record = NodeRecord(name="n1", host="127.0.0.1", port=1, incarnation="i")
            await registry.announce(record, 60, changed=True)
            await eventually(lambda: one.pool.nodes["n1"].record == record)
            assert one.state() is State.DRAINING

    asyncio.run(main())


@asynccontextmanager
async def served(directory: Path, redis: str = "none") -> AsyncIterator[tuple[Balancer, aiohttp.ClientSession]]:
    """Serve the operations of one balancer."""
    async with balancer(directory, redis) as one:
        app = web.Application()
        Operations(one.pool, one.drains, Events(one.run_dir, 0)).add_to(app)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
                yield one, session
        finally:
            await runner.cleanup()


async def posted(session: aiohttp.ClientSession, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    async with session.post(path, data=data) as answer:
        return answer.status, await answer.json()


def test_a_node_is_drained_and_undrained_over_http(tmp_path: Path) -> None:
    """With the configured time, or one that the caller gives; again is no error."""

    async def main() -> None:
        async with served(tmp_path) as (one, session):
            status, told = await posted(session, "/api/nodes/n1/drain")
            assert (status, told["drain_s"], told["state"]) == (200, 7.0, "draining")
            assert (await posted(session, "/api/nodes/n1/drain", {"drain_s": 60}))[1]["drain_s"] == 60.0
            assert (await posted(session, "/api/nodes/n1/drain", {}))[0] == 200
            assert await posted(session, "/api/nodes/n1/undrain") == (200, {"node": "n1", "state": "joining"})
            assert (await posted(session, "/api/nodes/n1/undrain"))[0] == 200
            assert one.pool.drains == {}

    asyncio.run(main())


@pytest.mark.parametrize(
    "body", [b"{", b"[]", {"drain": 5}, {"drain_s": "5"}, {"drain_s": -1}, {"drain_s": True}, b'{"drain_s": NaN}', 5]
)
def test_a_call_that_is_no_order_says_what_is(tmp_path: Path, body: Any) -> None:
    """400, and nothing happens."""

    async def main() -> None:
        async with served(tmp_path) as (one, session):
            status, told = await posted(session, "/api/nodes/n1/drain", body)
            assert status == 400
            assert "drain_s" in told["error"]
            assert one.pool.drains == {}

    asyncio.run(main())


def test_an_unknown_node_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    """404; a node that is gone can be undrained all the same."""

    async def main() -> None:
        async with served(tmp_path) as (one, session):
            for what in ("drain", "undrain"):
                status, told = await posted(session, f"/api/nodes/n9/{what}")
                assert (status, told) == (404, {"error": "no node is called 'n9'; there are: h:1, n1, n2"})
            await one.drains.order("n8")
            assert await posted(session, "/api/nodes/n8/undrain") == (200, {"node": "n8", "state": None})

    asyncio.run(main())


def test_redis_away_is_503_and_no_half_order(valkey: Valkey, tmp_path: Path) -> None:
    """The caller knows that it must come again."""

    async def main() -> None:
        async with served(tmp_path, valkey.url) as (one, session):
            valkey.kill()
            status, told = await posted(session, "/api/nodes/n1/drain")
            assert status == 503
            assert told["error"].startswith("nothing was ordered: ")
            assert (await posted(session, "/api/nodes/n1/undrain"))[0] == 503
            assert one.state() is State.READY

    asyncio.run(main())
