"""The admin UI's side of the server: what https://admin.socket.io shows, and what it may do."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio

from cluster.errors import UsageError
from node import Server
from tests.support.nodes import node_here
from tests.support.raw_socketio import RawClient, raw_client
from tests.support.waiting import eventually

LOGIN = {"username": "admin", "password": "secret"}


class Admin:
    """An admin UI: what it was told, by event."""

    def __init__(self, client: socketio.AsyncClient) -> None:
        self.client = client
        self.told: list[tuple[str, list[Any]]] = []
        client.on("*", lambda event, *data: self.told.append((event, list(data))), namespace="/admin")

    def all(self, event: str) -> list[list[Any]]:
        return [data for name, data in self.told if name == event]

    async def do(self, *command: Any) -> None:
        await self.client.emit(command[0], tuple(command[1:]), namespace="/admin")


@asynccontextmanager
async def admin_of(url: str, auth: Any = LOGIN) -> AsyncIterator[Admin]:
    async with aiohttp.ClientSession() as session:
        client = socketio.AsyncClient(http_session=session, handle_sigint=False, reconnection=False)
        admin = Admin(client)
        await client.connect(url, namespaces=["/admin"], auth=auth, transports=["websocket"])
        try:
            yield admin
        finally:
            await client.shutdown()


def app() -> Server:
    sio = Server()
    sio.on("echo", lambda sid, data: data)
    return sio


def run(sio: Server, test: Any) -> None:
    async def main() -> None:
        async with node_here(sio) as url, admin_of(url) as admin, raw_client(url) as client:
            await test(admin, client)

    asyncio.run(main())


def test_an_admin_sees_clients_come_talk_and_go() -> None:
    """`socket_connected`, `event_received`, `event_sent`, rooms, `socket_disconnected`."""
    sio = app()
    sio.instrument(auth=LOGIN)

    async def main(admin: Admin, client: RawClient) -> None:
        [[config]] = await eventually(lambda: admin.all("config"))
        assert set(config["supportedFeatures"]) >= {"ALL_EVENTS", "EMIT", "JOIN", "LEAVE", "DISCONNECT"}
        sid = await client.connect()
        [described, *_], *_ = await eventually(
            lambda: [data for data in admin.all("socket_connected") if data[0]["nsp"] == "/"]
        )
        assert described["id"] == sid
        assert described["clientId"] == client.engine_sid
        assert described["transport"] == "websocket"
        assert described["handshake"]["query"] == {"EIO": "4", "transport": "websocket"}
        assert described["handshake"]["address"] == "127.0.0.1"
        assert await client.is_served()
        await sio.enter_room(sid, "red")
        await sio.emit("news", b"x", to="red")
        await sio.leave_room(sid, "red")
        await sio.disconnect(sid)
        await eventually(lambda: admin.all("socket_disconnected"))
        for event, told in (
            ("event_received", ["/", sid, ["echo", "still here"]]),
            ("event_sent", ["/", sid, ["news", b"x"]]),
            ("room_joined", ["/", "red", sid]),
            ("room_left", ["/", "red", sid]),
            ("socket_disconnected", ["/", sid, "server disconnect"]),
        ):
            [data] = admin.all(event)
            assert data[:-1] == told

    run(sio, main)


def test_an_admin_may_act() -> None:
    """Emit, join, leave, disconnect: to everybody, a room, or one client."""
    sio = app()
    sio.instrument(auth=LOGIN)

    async def main(admin: Admin, client: RawClient) -> None:
        sid = await client.connect()
        await admin.do("join", "/", "red", sid)
        await eventually(lambda: sio.rooms(sid) == [sid, "red"])
        await admin.do("emit", "/", "red", "news", 1, 2)
        assert await client.hear() == '2["news",1,2]'
        await admin.do("leave", "/", "red", "red")
        await eventually(lambda: sio.rooms(sid) == [sid])
        await admin.do("_disconnect", "/", False, sid)
        assert await client.hear() == "1"

    run(sio, main)


def test_totals_come_at_intervals_and_say_who_has_changed_its_transport() -> None:
    """`server_stats`, as long as an admin is there."""
    sio = app()
    instrumentation = sio.instrument(auth=LOGIN, server_stats_interval=0.05, server_id="mine")

    async def main() -> None:
        async with node_here(sio) as url, admin_of(url) as admin, aiohttp.ClientSession() as session:
            sid, socket = await _upgraded(session, url)
            await eventually(lambda: admin.all("socket_updated"))
            [[updated]] = admin.all("socket_updated")
            assert updated == {"id": sid, "nsp": "/", "transport": "websocket"}
            stats = admin.all("server_stats")[-1][0]
            assert (stats["serverId"], stats["clientsCount"], stats["pollingClientsCount"]) == ("mine", 2, 0)
            assert {"name": "/", "socketsCount": 1} in stats["namespaces"]
            assert {each["type"] for each in stats["aggregatedEvents"]} == {"packetsIn", "packetsOut"}
            await socket.close()
            await admin.client.shutdown()
            await eventually(lambda: instrumentation._timer is None)

    asyncio.run(main())


async def _upgraded(session: aiohttp.ClientSession, url: str) -> tuple[str, aiohttp.ClientWebSocketResponse]:
    """Connect over polls, and change to a WebSocket then; return the sid and the WebSocket."""
    address = f"{url}/socket.io/?EIO=4"

    async def poll() -> str:
        async with session.get(f"{address}&transport=polling{more}") as answer:
            return (await answer.text()).partition("{")[2]

    more = ""
    more = f"&sid={json.loads('{' + await poll())['sid']}"
    async with session.post(f"{address}&transport=polling{more}", data="40") as answer:
        assert answer.status == 200
    sid: str = json.loads("{" + await poll())["sid"]
    socket = await session.ws_connect(f"{address}&transport=websocket{more}")
    await socket.send_str("2probe")
    assert await socket.receive_str() == "3probe"
    await socket.send_str("5")
    return sid, socket


async def _allowed(given: Any) -> bool:
    return bool(given == {"token": 1})


@pytest.mark.parametrize(
    ("auth", "good", "bad"),
    [
        (LOGIN, LOGIN, {"username": "admin", "password": "x"}),
        ([{"a": 1}, {"b": 2}], {"b": 2}, {"c": 3}),
        (lambda given: given == {"token": 1}, {"token": 1}, {}),
        (_allowed, {"token": 1}, None),
    ],
    ids=["dictionary", "list", "function", "coroutine function"],
)
def test_who_may_be_an_admin(auth: Any, good: Any, bad: Any) -> None:
    """A dictionary, a list of them, a function that decides."""
    sio = app()
    sio.instrument(auth=auth)

    async def main() -> None:
        async with node_here(sio) as url:
            async with admin_of(url, good) as admin:
                await eventually(lambda: admin.all("config"))
            with pytest.raises(socketio.exceptions.ConnectionError):
                async with admin_of(url, bad):
                    pass

    asyncio.run(main())


def test_production_mode_and_read_only_admins_see_and_do_less() -> None:
    """In production nothing is reported but totals, and events cost nothing."""

    async def main() -> None:
        for options, features in (
            ({"mode": "production"}, {"AGGREGATED_EVENTS"}),
            ({"read_only": True}, {"AGGREGATED_EVENTS", "ALL_EVENTS"}),
        ):
            sio = app()
            instrumentation = sio.instrument(auth=False, **options)
            assert (sio.observer is None) is ("mode" in options)
            async with node_here(sio) as url, admin_of(url) as admin, raw_client(url) as client:
                sid = await client.connect()
                [[config]] = await eventually(functools.partial(admin.all, "config"))
                assert set(config["supportedFeatures"]) == features
                await admin.do("_disconnect", "/", False, sid)
                assert await client.is_served()
                instrumentation.uninstrument()
                assert sio.observer is None
                await instrumentation.shutdown()
                with pytest.raises(socketio.exceptions.ConnectionError):
                    async with admin_of(url):
                        pass

    asyncio.run(main())


def test_what_it_is_told_wrongly_is_refused_at_once() -> None:
    """No authentication by oversight, no mode that does not exist."""
    with pytest.raises(ValueError, match="auth must be specified"):
        app().instrument()
    with pytest.raises(UsageError, match="mode='debug'"):
        app().instrument(auth=False, mode="debug")
