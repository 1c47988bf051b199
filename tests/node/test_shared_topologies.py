"""Users and shared state on a Redis Cluster and behind sentinels, with a failover of each."""

from __future__ import annotations

import asyncio
import gc
from functools import partial

import pytest

from node.state import Kind, State, StateAway
from tests.node.test_state import taken
from tests.support.redises import redis_cluster, watched_by_sentinels
from tests.support.seats import sharing
from tests.support.states import in_redis
from tests.support.waiting import eventually


def test_users_and_state_lie_in_one_slot_of_a_redis_cluster() -> None:
    """Scripts, pieces, subscriptions: all of them find their keys."""

    async def main() -> None:
        async with redis_cluster() as servers:
            await _talk(servers.url)

    asyncio.run(main())


async def _talk(url: str) -> None:
    async with (
        sharing(url, "n1", 3001) as one,
        sharing(url, "n2", 3002) as two,
        in_redis(url) as state,
        in_redis(url) as other,
        other.watch("k") as changes,
        other.watch(prefix="") as everything,
    ):
        for number in range(300):
            two.presence.join(f"s{number}", f"user-{number}")
        await two.presence.synced()
        await one.presence.synced()
        assert len(one.presence.users()) == 300
        two.presence.leave("s7")
        await eventually(lambda: not one.presence.is_online("user-7"))
        await state.set("k", 1)
        assert await state.incr("k") == 2
        assert await other.get("k") == 2
        await state.hset("h", "f", "x")
        assert [change.value for change in await taken(changes, 2)] == [1, 2]
        assert [change.key for change in await taken(everything, 3)] == ["k", "k", "h"]


# redis-py's sentinel pool (8.1) forgets connections to the former master; only collecting them closes them.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_users_and_state_survive_a_failover_behind_sentinels() -> None:
    """The replica that takes over may lack the last changes: whoever wrote them writes them again."""

    async def main() -> None:
        async with (
            watched_by_sentinels() as servers,
            sharing(servers.url, "n1", 3001, trust_s=5) as one,
            sharing(servers.url, "n2", 3002, trust_s=5) as two,
            in_redis(servers.url) as state,
            state.watch("k") as changes,
        ):
            one.presence.join("s1", "ann")
            await two.presence.join("s2", "bob")
            await eventually(lambda: one.sees("ann", "bob"))
            servers.master.kill()
            one.presence.join("s3", "cid")
            two.presence.leave("s2")
            for chair in (one, two):
                await eventually(chair.announce, within_s=30, what="the replica is the master")
            for chair in (one, two):
                await eventually(partial(chair.sees, "ann", "cid"))
            assert await eventually(lambda: _sets(state))
            while True:
                [change] = await taken(changes, 1)
                if change.value == 2 or (change.kind is Kind.MISSED and await state.get("k") == 2):
                    break

    asyncio.run(main())
    gc.collect()


async def _sets(state: State) -> bool:
    try:
        await state.set("k", 2)
    except StateAway:
        return False
    return True
