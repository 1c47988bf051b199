"""Who is online: one contract, for a node alone and for a node that shares Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest

from node.roster import Change
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


def test_meta_goes_with_a_device_and_may_change(kind: Kind) -> None:
    """Joining again with another meta is a change, and the device is as old as it was."""

    async def main() -> None:
        async with kind() as chair:
            meta = {"app": "web"}
            await chair.presence.join("s1", "ann", meta)
            meta["app"] = "changed behind its back"
            await eventually(lambda: chair.joined() == ["ann"])
            [device] = chair.presence.sessions("ann")
            assert (device.sid, device.node, device.port, device.meta) == ("s1", "n1", 3001, {"app": "web"})
            await chair.presence.join("s1", "ann", {"app": "phone"})
            assert [each.meta for each in chair.presence.sessions("ann")] == [{"app": "phone"}]
            assert chair.presence.users()["ann"].meta == {"app": "phone"}
            await eventually(lambda: len(chair.told) == 2)
            assert (chair.joined(), chair.left()) == (["ann"], [])

    asyncio.run(main())


def test_what_cannot_be_kept_is_refused_and_says_why(kind: Kind) -> None:
    """And changes nothing."""
    refusals: list[tuple[object, object, type[Exception], str]] = [
        (7, None, TypeError, "user_id must be a str, not int"),
        ("", None, ValueError, "1 to 256 bytes, not 0"),
        ("ü" * 129, None, ValueError, "not 258"),
        ("\ud800", None, ValueError, "UTF-8"),
        ("ann", {1, 2}, TypeError, "meta must be JSON"),
        ("ann", "x" * 1023, ValueError, "at most 1024 bytes of JSON, not 1025"),
    ]

    async def main() -> None:
        async with kind() as chair:
            await chair.presence.join("s1", "bob")
            for user_id, meta, error, reason in refusals:
                with pytest.raises(error, match=reason):
                    chair.presence.join("s1", user_id, meta)  # type: ignore[arg-type]
            assert chair.sees("bob")

    asyncio.run(main())


def test_a_listener_that_fails_is_logged_and_called_again(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """It is the application's own code; the others are told all the same."""

    async def main() -> None:
        async with kind() as chair:

            async def fail(_: Change) -> None:
                raise RuntimeError("of the application")

            chair.presence.listen(fail)
            chair.presence.join("s1", "ann")
            await eventually(lambda: chair.joined() == ["ann"])
            chair.presence.join("s2", "bob")
            await eventually(lambda: chair.joined() == ["ann", "bob"])
            await eventually(lambda: len(caplog.records) == 2)

    asyncio.run(main())
    assert {record.message for record in caplog.records} == {"a listener of presence failed"}


def test_what_is_taken_from_one_process_is_given_to_another(kind: Kind) -> None:
    """A client that moves with its connection is who it was, since when it was."""

    async def main() -> None:
        async with kind() as chair, alone(grace_s=5) as other:
            assert chair.presence.take("s1") is None
            await chair.presence.join("s1", "ann", [1])
            taken = json.loads(json.dumps(chair.presence.take("s1")))
            assert chair.presence.users() == {}
            other.presence.join("s1", "somebody else")
            other.presence.give("s1", taken)
            [device] = other.presence.sessions("ann")
            assert (device.sid, device.since, device.meta) == ("s1", 100.0, [1])
            assert other.sees("ann")

    asyncio.run(main())


def test_who_is_back_within_the_grace_neither_leaves_nor_joins() -> None:
    """And who is not leaves when it ends."""

    async def main() -> None:
        async with alone(grace_s=0.3) as chair:
            chair.presence.join("s1", "ann")
            chair.presence.join("s2", "bob")
            await eventually(lambda: chair.joined() == ["ann", "bob"])
            chair.presence.leave("s1")
            chair.presence.leave("s2")
            await eventually(lambda: len(chair.told) == 2)
            assert not chair.presence.is_online("ann")
            chair.presence.join("s3", "ann")
            await eventually(lambda: chair.left() == ["bob"])
            assert chair.joined() == ["ann", "bob"]
            assert chair.sees("ann")

    asyncio.run(main())
