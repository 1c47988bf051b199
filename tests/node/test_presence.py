"""Who is online: one contract for a node alone and for nodes that share Redis, then what only the latter can meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import redis.asyncio as redis

from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import connection
from cluster.registry import Registry
from node import presence as presence_module
from node.directory import RedisDirectory
from node.presence import Alone, Directory, Presence
from node.roster import Change
from tests.support.valkey import Valkey, running_valkey
from tests.support.waiting import eventually

KEYS = Keys("test")


@dataclass
class Seat:
    """One node as far as presence goes; `told` are the changes that its application heard."""

    presence: Presence
    registry: Registry | None = None
    record: NodeRecord | None = None
    told: list[Change] = field(default_factory=list)

    async def hear(self, change: Change) -> None:
        self.told.append(change)

    def joined(self) -> list[str]:
        return [user.username for change in self.told for user in change.joined]

    def left(self) -> list[str]:
        return [user.username for change in self.told for user in change.left]

    def sees(self, *usernames: str) -> bool:
        return set(self.presence.users()) == set(usernames)

    def has_devices(self, username: str, count: int) -> bool:
        return self.presence.users()[username].devices == count

    def has_lost(self, username: str) -> bool:
        return self.left() == [username]

    async def announce(self) -> None:
        assert self.registry is not None
        assert self.record is not None
        if await self.registry.announce(self.record, 60, changed=True) is None:
            self.presence.forgotten()

    async def die_by(self, link: redis.Redis) -> None:
        """What a supervisor does for a child that was killed."""
        assert self.record is not None
        assert await Registry(link, KEYS).withdraw(self.record.name, self.record.incarnation)


def presence_with(directory: Directory, name: str, incarnation: str, port: int, trust_s: float = 0.5) -> Presence:
    return Presence(
        directory, node=name, incarnation=incarnation, port=port, refresh_s=0.1, trust_s=trust_s, now=lambda: 100.0
    )


@asynccontextmanager
async def running(seat: Seat) -> AsyncIterator[Seat]:
    seat.presence.listen(seat.hear)
    task = asyncio.ensure_future(seat.presence.run())
    try:
        yield seat
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def alone() -> AsyncIterator[Seat]:
    async with running(Seat(presence_with(Alone(), "n1", "i1", 3001))) as seat:
        yield seat


@asynccontextmanager
async def sharing(
    url: str, name: str = "n1", port: int = 3001, incarnation: str = "i1", trust_s: float = 0.5
) -> AsyncIterator[Seat]:
    async with connection(url) as link:
        registry = Registry(link, KEYS)
        directory = RedisDirectory(link, registry, KEYS, node=name, incarnation=incarnation, reread_s=0.5)
        record = NodeRecord(name=name, host="127.0.0.1", port=port, incarnation=incarnation)
        seat = Seat(presence_with(directory, name, incarnation, port, trust_s), registry, record)
        await seat.announce()
        async with running(seat):
            yield seat


Kind = Callable[[], AbstractAsyncContextManager[Seat]]


@pytest.fixture(params=["alone", "redis"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    if request.param == "alone":
        yield alone
        return
    with running_valkey() as server:
        yield lambda: sharing(server.url)


def test_who_joins_is_online_at_once_and_told_once(kind: Kind) -> None:
    """`users` answers without waiting for anybody; the application hears of it soon."""

    async def main() -> None:
        async with kind() as seat:
            seat.presence.join("s1", "ann")
            assert list(seat.presence.users()) == ["ann"]
            assert seat.presence.username_of("s1") == "ann"
            await eventually(lambda: seat.joined() == ["ann"])
            [user] = seat.presence.users().values()
            assert (user.devices, user.nodes, user.ports, user.since) == (1, ("n1",), (3001,), 100.0)

    asyncio.run(main())


def test_a_user_leaves_with_the_last_device(kind: Kind) -> None:
    """Two devices come, one goes: nobody left.  Then the other."""

    async def main() -> None:
        async with kind() as seat:
            seat.presence.join("s1", "ann")
            seat.presence.join("s2", "ann")
            assert seat.presence.own_users == 1
            await eventually(lambda: seat.told)
            seat.presence.leave("s1")
            await eventually(lambda: seat.told[-1].roster["ann"].devices == 1)
            assert seat.left() == []
            seat.presence.leave("s2")
            await eventually(lambda: seat.left() == ["ann"])
            assert seat.presence.users() == {}

    asyncio.run(main())


def test_joining_again_is_nothing_and_joining_as_another_is_a_change_of_name(kind: Kind) -> None:
    """A client is the device of one user."""

    async def main() -> None:
        async with kind() as seat:
            seat.presence.join("s1", "ann")
            await eventually(lambda: seat.joined() == ["ann"])
            seat.presence.join("s1", "ann")
            await seat.presence.synced()
            seat.presence.join("s1", "bob")
            await eventually(lambda: seat.joined() == ["ann", "bob"])
            assert seat.left() == ["ann"]
            assert len(seat.told) == 2

    asyncio.run(main())


def test_leaving_without_having_joined_is_nothing(kind: Kind) -> None:
    """Every client that disconnects leaves, registered or not."""

    async def main() -> None:
        async with kind() as seat:
            seat.presence.leave("never seen")
            await seat.presence.synced()
            assert seat.told == []
            assert seat.presence.username_of("never seen") is None

    asyncio.run(main())


def test_who_came_and_went_before_the_next_look_was_never_there(kind: Kind) -> None:
    """Nobody is told of what is over already."""

    async def main() -> None:
        async with kind() as seat:
            await seat.presence.synced()
            seat.presence.join("s1", "ann")
            seat.presence.leave("s1")
            await seat.presence.synced()
            assert seat.told == []

    asyncio.run(main())


def test_a_node_that_leaves_takes_its_users_out(kind: Kind) -> None:
    """After `withdraw` nothing of it is left for the others."""

    async def main() -> None:
        async with kind() as seat:
            seat.presence.join("s1", "ann")
            await seat.presence.synced()
            await seat.presence.withdraw()
            assert seat.presence.users() == {}

    asyncio.run(main())


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
            for seat in (one, two):
                await eventually(partial(seat.has_devices, "ann", 2))
            one.presence.leave("s1")
            two.presence.leave("s2")
            for seat in (one, two):
                await eventually(partial(seat.has_lost, "ann"))
                assert seat.joined() == ["ann"]

    asyncio.run(main())


def test_users_of_a_dead_node_are_gone_at_once_and_swept(valkey: Valkey) -> None:
    """The registry misses the node, so its entries count no more, and whoever sees that takes them out."""

    async def main() -> None:
        async with sharing(valkey.url, "n1", 3001) as one, connection(valkey.url) as link:
            async with sharing(valkey.url, "n2", 3002) as two:
                two.presence.join("s2", "bob")
                await eventually(lambda: one.joined() == ["bob"])
            await two.die_by(link)
            await eventually(lambda: one.left() == ["bob"], within_s=2)
            assert one.presence.users() == {}
            assert await eventually(lambda: _is_empty(link))

    asyncio.run(main())


async def _is_empty(link: redis.Redis) -> bool:
    return not await link.exists(KEYS.users_online)


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
            for seat in (one, two):
                await eventually(partial(seat.sees, "ann", "bob"))
            valkey.kill()
            one.presence.join("s3", "cid")
            assert set(one.presence.users()) == {"ann", "bob", "cid"}
            await eventually(lambda: "cid" in one.joined(), what="told locally while Redis is away")
            valkey.start()
            await one.announce()
            await two.announce()
            await eventually(lambda: "cid" in two.joined(), what="what was missed is made up for")
            async with sharing(valkey.url, "n3", 3003) as three:
                await eventually(lambda: set(three.presence.users()) == {"ann", "bob", "cid"})
            assert one.left() == two.left() == []

    asyncio.run(main())


def test_while_redis_is_away_questions_are_answered_at_once(valkey: Valkey) -> None:
    """`synced` does not wait for what cannot come."""

    async def main() -> None:
        async with sharing(valkey.url) as seat:
            await seat.presence.synced()
            valkey.kill()
            seat.presence.join("s1", "ann")
            loop = asyncio.get_running_loop()
            await seat.presence.synced()
            began = loop.time()
            await seat.presence.synced()
            assert loop.time() - began < 0.05
            assert list(seat.presence.users()) == ["ann"]
            await seat.presence.withdraw()

    asyncio.run(main())


def test_a_directory_that_does_not_answer_is_waited_for_with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that hangs costs a question SYNC_S, not for ever."""

    class Hanging(Alone):
        async def others(self, *, fresh: bool) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        monkeypatch.setattr(presence_module, "SYNC_S", 0.05)
        async with running(Seat(presence_with(Hanging(), "n1", "i1", 3001))) as seat:
            seat.presence.join("s1", "ann")
            async with asyncio.timeout(1):
                await seat.presence.synced()

    asyncio.run(main())
