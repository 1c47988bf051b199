"""Who is online on several nodes: races, nodes that die, a Redis that goes away, forgets or hangs."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
import redis.asyncio as redis

from cluster.redis_link import connection
from node import presence as presence_module
from node.directory import RedisDirectory
from tests.support.seats import KEYS, sharing
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


def test_what_was_acknowledged_on_one_node_is_known_on_every_other(valkey: Valkey) -> None:
    """join and synced here, then synced and users there: the user is in the answer, at the first attempt."""

    async def main() -> None:
        async with sharing(valkey.url, "n1", 3001) as one, sharing(valkey.url, "n2", 3002) as two:
            for number in range(30):
                one.presence.join(f"s{number}", f"user-{number}")
                await one.presence.synced()
                await two.presence.synced()
                assert f"user-{number}" in two.presence.users()

    asyncio.run(main())


def test_one_user_on_two_nodes_joins_and_leaves_once_in_the_eyes_of_each(valkey: Valkey) -> None:
    """However the two registrations race."""

    async def main() -> None:
        async with sharing(valkey.url, "n1", 3001) as one, sharing(valkey.url, "n2", 3002) as two:
            one.presence.join("s1", "ann")
            two.presence.join("s2", "ann")
            for chair in (one, two):
                await eventually(partial(chair.has_devices, "ann", 2))
            one.presence.leave("s1")
            two.presence.leave("s2")
            for chair in (one, two):
                await eventually(partial(chair.has_lost, "ann"))
                assert chair.joined() == ["ann"]

    asyncio.run(main())


def test_users_of_a_dead_node_are_gone_at_once_and_swept(valkey: Valkey) -> None:
    """The registry misses the node, so its entries count no more, and whoever sees that takes them out."""

    async def main() -> None:
        async with sharing(valkey.url, "n1", 3001) as one, connection(valkey.url) as link:
            async with sharing(valkey.url, "n2", 3002) as two:
                two.presence.join("s2", "bob")
                await eventually(lambda: one.joined() == ["bob"])
            await two.die_by(link)
            await eventually(lambda: one.left() == ["bob"])
            assert one.presence.users() == {}
            assert await eventually(lambda: _is_empty(link), what="only the empty part of n1 is left")

    asyncio.run(main())


async def _is_empty(link: redis.Redis) -> bool:
    return await link.keys("*users*") == [KEYS.users_online.encode()] and await link.hlen(KEYS.users_online) == 1


def test_entries_of_a_former_process_of_a_name_do_not_count(valkey: Valkey) -> None:
    """n2 was killed and started again within its lease: the new process has none of the old one's users."""

    async def main() -> None:
        async with sharing(valkey.url, "n1", 3001) as one:
            async with sharing(valkey.url, "n2", 3002, "i1") as two:
                two.presence.join("s2", "bob")
                await eventually(lambda: one.joined() == ["bob"])
            async with sharing(valkey.url, "n2", 3002, "i2"):
                await eventually(lambda: one.left() == ["bob"])

    asyncio.run(main())


def test_a_directory_that_was_emptied_makes_nobody_leave(valkey: Valkey) -> None:
    """Redis restarts empty: the picture stays while the nodes write their entries again."""

    async def main() -> None:
        async with sharing(valkey.url, "n1", 3001, trust_s=2) as one, sharing(valkey.url, "n2", 3002, trust_s=2) as two:
            one.presence.join("s1", "ann")
            two.presence.join("s2", "bob")
            for chair in (one, two):
                await eventually(partial(chair.sees, "ann", "bob"))
            valkey.kill()
            one.presence.join("s3", "cid")
            assert set(one.presence.users()) == {"ann", "bob", "cid"}
            await eventually(lambda: "cid" in one.joined(), what="told locally while Redis is away")
            valkey.start()
            await eventually(one.announce)
            await eventually(two.announce)
            await eventually(lambda: "cid" in two.joined(), what="what was missed is made up for")
            async with sharing(valkey.url, "n3", 3003) as three:
                await eventually(lambda: set(three.presence.users()) == {"ann", "bob", "cid"})
            assert one.left() == two.left() == []

    asyncio.run(main())


def test_while_redis_is_away_questions_are_answered_at_once(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """`synced` does not wait for what cannot come."""
    monkeypatch.setattr(presence_module, "SYNC_S", 600.0)

    async def main() -> None:
        async with sharing(valkey.url) as chair:
            await chair.presence.synced()
            valkey.kill()
            chair.presence.join("s1", "ann")
            for _ in range(2):
                await chair.presence.synced()
            assert list(chair.presence.users()) == ["ann"]
            await chair.presence.withdraw()

    asyncio.run(main())


def test_a_directory_that_does_not_answer_is_waited_for_with_a_limit(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that hangs costs a question SYNC_S for each half, not for ever."""
    monkeypatch.setattr(presence_module, "SYNC_S", 0.1)

    async def main() -> None:
        async with sharing(valkey.url) as chair:
            await chair.presence.synced()
            with valkey.hanging():
                chair.presence.join("s1", "ann")
                async with asyncio.timeout(30):
                    await chair.presence.synced()

    asyncio.run(main())


def test_what_was_lost_on_the_way_is_found_and_only_that_part_is_read(valkey: Valkey) -> None:
    """One change of n2 is not heard; nothing comes after it, and still n1 finds out with its next look."""

    async def main() -> None:
        async with (
            sharing(valkey.url, "n1", 3001) as one,
            sharing(valkey.url, "n2", 3002) as two,
            sharing(valkey.url, "n3", 3003) as three,
        ):
            await three.presence.join("s3", "cid")
            await two.presence.join("s2", "bob")
            await eventually(lambda: one.sees("bob", "cid"))
            replicas, directory = one.presence._replicas, one.presence._directory
            assert replicas is not None
            assert isinstance(directory, RedisDirectory)
            before, pass_on = replicas.readings, directory._pass_on
            directory._pass_on = lambda *_: None  # type: ignore[method-assign]
            await two.presence.join("s4", "dan")
            await eventually(lambda: one.sees("bob", "cid", "dan"))
            assert replicas.readings == before + 1
            await two.presence.join("s5", "eve")
            directory._pass_on = pass_on  # type: ignore[method-assign]
            two.presence.leave("s5")
            await two.presence.leave("s4")
            await eventually(lambda: one.sees("bob", "cid"), what="there was a gap before the last change")

    asyncio.run(main())


def test_a_subscription_that_breaks_makes_nobody_wrong(valkey: Valkey) -> None:
    """What was published meanwhile is found when it is heard again."""

    async def main() -> None:
        async with sharing(valkey.url, "n1") as one, sharing(valkey.url, "n2") as two, connection(valkey.url) as link:
            await two.presence.join("s2", "bob")
            await eventually(lambda: one.sees("bob"))
            for round_ in range(5):
                for client in await link.client_list():
                    if int(client["sub"]):
                        await link.client_kill_filter(_id=client["id"])
                await two.presence.join(f"r{round_}", f"user-{round_}")
                await eventually(partial(one.presence.is_online, f"user-{round_}"))

    asyncio.run(main())
