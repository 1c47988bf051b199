"""`sio.manager`: python-socketio's manager methods on our rooms, also under a user's own client manager."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio

from cluster.errors import UsageError
from node import Server, clients
from node.clients import ClientManager
from node.users_manager import with_our_rooms
from tests.support.nodes import node_here
from tests.support.raw_socketio import RawClient, raw_client, talking_to
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


def test_the_methods_of_a_manager_work() -> None:
    """What python-socketio's own code and its users call."""

    async def main() -> None:
        sio = Server(namespaces="*")
        async with talking_to(sio) as client:
            sid = await client.connect()
            other = await client.connect("/other")
            manager = sio.manager
            assert set(manager.get_namespaces()) == {"/", "/other"}
            assert list(manager.get_participants("/", None)) == [(sid, client.engine_sid)]
            assert manager.sid_from_eio_sid(client.engine_sid, "/other") == other
            assert manager.sid_from_eio_sid(client.engine_sid, "/x") is None
            assert manager.sid_from_eio_sid("nobody", "/") is None
            assert manager.eio_sid_from_sid(sid, "/") == client.engine_sid
            assert manager.eio_sid_from_sid(sid, "/other") is None
            assert manager.is_connected(sid, "/")
            assert not manager.is_connected(None, "/")
            assert not manager.is_pre_connected(sid, "/")
            assert await manager.can_disconnect(sid, "/")
            assert manager.is_sid_room("/", sid)
            assert not manager.is_sid_room("/", "red")
            manager.basic_enter_room(sid, "/", "red")
            assert manager.get_rooms(sid, "/") == [sid, "red"]
            assert manager.rooms["/"]["red"][sid] == client.engine_sid
            manager.basic_leave_room(sid, "/", "red")
            manager.basic_leave_room("nobody", "/", "red")
            manager.basic_close_room("red", "/")
            assert await manager.pre_connect(client.engine_sid, "/") is None
            assert await manager.connect(sid, "/") == sid
            await manager.emit("x", 1, "/", to=sid)
            assert await client.hear() == '2["x",1]'
            await manager.disconnect(sid, "/")
            await manager.disconnect(sid, "/")
            assert set(manager.get_namespaces()) == {"/other"}

    asyncio.run(main())


def test_callbacks_that_nobody_answers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are given up; those of a client that has gone are gone."""
    monkeypatch.setattr(clients, "MOST_PENDING_ACKS", 5)

    async def main() -> None:
        sio = Server()
        async with talking_to(sio) as client:
            sid = await client.connect()
            for _ in range(20):
                await sio.emit("x", to=sid, callback=lambda: None)
            assert sorted(sio.manager.callbacks[sid]) == [0, *range(16, 21)]
            await client.close()
            await eventually(lambda: not sio.manager.callbacks)

    asyncio.run(main())


class Noting(socketio.AsyncManager):  # type: ignore[misc]
    """A user's manager that overrides some, and calls what it inherits."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[Any] = []

    async def emit(self, event: str, data: Any, namespace: str, **options: Any) -> None:
        self.noted.append(event)
        await super().emit(event, data, namespace, **options)

    async def enter_room(self, sid: str, namespace: str, room: Any, eio_sid: Any = None) -> None:
        self.noted.append(room)
        await super().enter_room(sid, namespace, room, eio_sid=eio_sid)


def test_a_users_own_manager_stays_its_own() -> None:
    """What it overrides is called, what it inherits is ours; options that it cannot know are refused, not dropped."""

    async def main() -> None:
        manager = Noting()
        sio = Server(client_manager=manager)
        assert sio.manager is manager
        assert isinstance(manager, Noting)
        async with talking_to(sio) as client:
            sid = await client.connect()
            await sio.enter_room(sid, "red")
            await sio.emit("x", 1, to="red")
            await sio.emit("y", 2, to=sid)
            assert [await client.hear(), await client.hear()] == ['2["x",1]', '2["y",2]']
            assert manager.noted == ["red", "x", "y"]

    asyncio.run(main())


def test_what_a_users_manager_cannot_do_is_refused(valkey: Valkey) -> None:
    """python-socketio's pub/sub managers would leave `volatile` and `except_rooms` out in silence."""

    async def main() -> None:
        manager = socketio.AsyncRedisManager(valkey.url)
        sio = Server(client_manager=manager)
        for options in ({"volatile": True}, {"except_rooms": "red"}):
            with pytest.raises(UsageError, match=f"{next(iter(options))}=…. does not work with a AsyncRedisManager"):
                await sio.emit("x", **options)

    asyncio.run(main())


def test_python_socketios_redis_manager_works(valkey: Valkey) -> None:
    """Two servers with it: events, rooms, callbacks and disconnects cross."""

    async def main() -> None:
        one = Server(client_manager=socketio.AsyncRedisManager(valkey.url))
        two = Server(client_manager=socketio.AsyncRedisManager(valkey.url))
        async with (
            node_here(one) as url_one,
            node_here(two) as url_two,
            raw_client(url_one) as client_one,
            raw_client(url_two) as client_two,
        ):
            await client_one.connect()
            sid = await client_two.connect()
            await eventually(lambda: _heard(one, client_two))
            await one.enter_room(sid, "red")
            await eventually(lambda: two.rooms(sid) == [sid, "red"])
            await one.emit("for red", b"x", to="red")
            assert await client_two.hear() == '51-["for red",{"_placeholder":true,"num":0}]'
            assert await client_two.hear() == b"x"
            answer = asyncio.ensure_future(one.call("question", to=sid, timeout=5))
            asked = await client_two.hear()
            assert isinstance(asked, str)
            await client_two.say(f"3{asked[1:].partition('[')[0]}[42]")
            assert await answer == 42
            await one.disconnect(sid)
            assert await client_two.hear() == "1"
            for sio in (one, two):
                sio.manager.thread.cancel()
                await asyncio.wait([sio.manager.thread])
                await sio.manager.redis.aclose()

    asyncio.run(main())


async def _heard(sio: Server, client: RawClient) -> bool:
    """Whether what `sio` emits reaches `client`: the other server's listener may not have begun."""
    await sio.emit("probe")
    try:
        return await client.hear(within_s=0.2) == '2["probe"]'
    except TimeoutError:
        return False


def test_what_is_no_manager_or_has_been_used_is_refused() -> None:
    """A manager is one server's."""
    with pytest.raises(UsageError, match=r"must be a socketio\.AsyncManager, not a Manager"):
        Server(client_manager=socketio.Manager())
    used = socketio.AsyncManager()
    used.rooms["/"] = {}
    with pytest.raises(UsageError, match="has clients already"):
        Server(client_manager=used)
    ours = ClientManager()
    assert with_our_rooms(ours) is ours
