"""Who is online: one contract, for a node alone and for a node that shares Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest

from tests.support.seats import Chair, alone, sharing
from tests.support.valkey import running_valkey
from tests.support.waiting import eventually

Kind = Callable[[], AbstractAsyncContextManager[Chair]]


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
        async with kind() as chair:
            chair.presence.join("s1", "ann")
            assert list(chair.presence.users()) == ["ann"]
            assert chair.presence.is_online("ann")
            assert chair.presence.user_of("s1") == "ann"
            await eventually(lambda: chair.joined() == ["ann"])
            [user] = chair.presence.users().values()
            assert (user.devices, user.nodes, user.ports, user.since) == (1, ("n1",), (3001,), 100.0)

    asyncio.run(main())


def test_a_user_leaves_with_the_last_device(kind: Kind) -> None:
    """Two devices come, one goes: nobody left.  Then the other."""

    async def main() -> None:
        async with kind() as chair:
            chair.presence.join("s1", "ann")
            chair.presence.join("s2", "ann")
            assert chair.presence.own_users == 1
            await eventually(lambda: chair.told)
            chair.presence.leave("s1")
            await eventually(lambda: chair.told[-1].roster["ann"].devices == 1)
            assert chair.left() == []
            chair.presence.leave("s2")
            await eventually(lambda: chair.left() == ["ann"])
            assert chair.presence.users() == {}

    asyncio.run(main())


def test_joining_again_is_nothing_and_joining_as_another_is_a_change_of_name(kind: Kind) -> None:
    """A client is the device of one user."""

    async def main() -> None:
        async with kind() as chair:
            chair.presence.join("s1", "ann")
            await eventually(lambda: chair.joined() == ["ann"])
            chair.presence.join("s1", "ann")
            await chair.presence.synced()
            chair.presence.join("s1", "bob")
            await eventually(lambda: chair.joined() == ["ann", "bob"])
            assert chair.left() == ["ann"]
            assert len(chair.told) == 2

    asyncio.run(main())


def test_leaving_without_having_joined_is_nothing(kind: Kind) -> None:
    """Every client that disconnects leaves, registered or not."""

    async def main() -> None:
        async with kind() as chair:
            chair.presence.leave("never seen")
            await chair.presence.synced()
            assert chair.told == []
            assert chair.presence.user_of("never seen") is None

    asyncio.run(main())


def test_who_came_and_went_before_the_next_look_was_never_there(kind: Kind) -> None:
    """Nobody is told of what is over already."""

    async def main() -> None:
        async with kind() as chair:
            await chair.presence.synced()
            chair.presence.join("s1", "ann")
            chair.presence.leave("s1")
            await chair.presence.synced()
            assert chair.told == []

    asyncio.run(main())


def test_a_node_that_leaves_takes_its_users_out(kind: Kind) -> None:
    """After `withdraw` nothing of it is left for the others."""

    async def main() -> None:
        async with kind() as chair:
            chair.presence.join("s1", "ann")
            await chair.presence.synced()
            await chair.presence.withdraw()
            assert chair.presence.users() == {}

    asyncio.run(main())
