"""lb/eviction.py: who still is on a drained node that knows nothing of orders is sent elsewhere."""

from __future__ import annotations

import asyncio
import time

import pytest

import lb.eviction
from cluster.member import Drain, NodeRecord
from lb.eviction import Eviction
from lb.pool import Node
from tests.lb.conftest import Run
from tests.support.backends import backend, tunnel_echo
from tests.support.balancer import Balancer, Caller, balancer, upgrade_request
from tests.support.clock import Clock
from tests.support.waiting import eventually, lastingly


async def opened(front: Balancer, count: int) -> list[Caller]:
    callers = [await front.connect() for _ in range(count)]
    for caller in callers:
        caller.send(upgrade_request("/ws"))
        assert b" 101 " in await caller.head()
    return callers


def order(clock: Clock, seconds: float, per_s: float) -> Drain:
    return Drain(since=clock.now, drain_s=seconds, close_per_s=per_s)


def test_tunnels_stay_for_the_drain_time_and_then_end_at_a_pace(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many each tick; those to other nodes are not touched."""
    monkeypatch.setattr(lb.eviction, "IDLE_S", 0.02)

    async def main() -> None:
        clock, ended_at_once = Clock(), []
        async with (
            backend(tunnel_echo) as one,
            backend(tunnel_echo) as two,
            balancer(one.port, two.port, balance="round_robin") as front,
        ):
            callers = await opened(front, 20)

            def close_some(node: Node, count: int) -> int:
                ended_at_once.append(front.front.close_some(node, count))
                return ended_at_once[-1]

            eviction = asyncio.ensure_future(Eviction(front.pool, close_some, wall=clock).run())
            front.pool.ordered({"n0": order(clock, 60.0, 20.0)})
            node = front.node("n0")
            clock.now += 59.9
            await lastingly(lambda: node.tunnels == 10, 0.3)
            clock.now += 0.1
            await eventually(lambda: node.tunnels < 10)
            began = time.monotonic()
            await eventually(lambda: node.tunnels == 0)
            assert time.monotonic() - began > 0.25
            assert ended_at_once == [2] * 5
            assert front.node("n1").tunnels == 10
            ended = [caller for caller in callers if caller.reader.at_eof()]
            assert len(ended) == 10
            eviction.cancel()
            await asyncio.gather(eviction, return_exceptions=True)

    run(main)


@pytest.mark.parametrize("announced", [True, False])
def test_a_node_that_reads_its_order_itself_is_left_to_it(
    run: Run, announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes its clients with a close frame: one that is in the registry, and one of our own stack."""
    monkeypatch.setattr(lb.eviction, "IDLE_S", 0.02)
    clock = Clock()

    async def main() -> None:
        async with backend(tunnel_echo) as one, balancer(one.port) as front:
            await opened(front, 3)
            if announced:
                front.pool.seen([NodeRecord(name="n0", host="127.0.0.1", port=one.port, incarnation="i")])
            front.node().local = not announced
            eviction = asyncio.ensure_future(Eviction(front.pool, front.front.close_some, wall=clock).run())
            front.pool.ordered({"n0": order(clock, 0.0, 1000.0)})
            await lastingly(lambda: front.node().tunnels == 3, 0.4)
            eviction.cancel()
            await asyncio.gather(eviction, return_exceptions=True)

    run(main)
