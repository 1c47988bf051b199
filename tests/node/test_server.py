"""`node.Server`: a `socketio.AsyncServer` for its users, standalone and bound to a node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from cluster.errors import UsageError
from cluster.tag import claimed_slot_of
from node import Server
from tests.support.nodes import node_here
from tests.support.waiting import eventually


def echo_server(**options: Any) -> Server:
    sio = Server(**options)

    @sio.event
    async def echo(sid: str, data: object) -> object:
        return data

    return sio


async def own_page(_: web.Request) -> web.Response:
    return web.json_response("own")


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[socketio.AsyncClient]:
    async with aiohttp.ClientSession() as session:
        client = socketio.AsyncClient(http_session=session, handle_sigint=False)
        await client.connect(url, **options)
        try:
            yield client
        finally:
            await client.shutdown()


def test_without_a_node_it_serves_in_the_users_own_application() -> None:
    """`attach` works as python-socketio documents it; asking for the node is an error that says what to do."""

    async def main() -> None:
        sio = echo_server()
        app = web.Application()
        sio.attach(app)
        assert sio.web is app
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with client_of(f"http://127.0.0.1:{port}") as client:
            assert await client.call("echo", "hello") == "hello"
        await runner.cleanup()
        for question in (lambda: sio.node, lambda: sio.presence, lambda: sio.state):
            with pytest.raises(UsageError, match="python -m node"):
                question()

    asyncio.run(main())


def test_an_application_that_is_attached_to_is_served_whole() -> None:
    """So an aiohttp application moves by changing one line: its own routes are still there."""

    async def main() -> None:
        sio = echo_server()
        app = web.Application()
        sio.attach(app, "my/path")
        app.router.add_get("/own", own_page)
        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/own") as answer:
                assert await answer.json() == "own"
            async with client_of(url, socketio_path="my/path") as client:
                assert await client.call("echo", 1) == 1

    asyncio.run(main())


def test_two_applications_cannot_both_be_the_one_beside() -> None:
    """Routes that would silently not be served are refused."""
    sio = Server()
    sio.web.router.add_get("/", own_page)
    with pytest.raises(UsageError, match=r"sio\.web has routes already"):
        sio.attach(web.Application())
    sio.attach(sio.web)


def test_another_async_mode_is_refused_at_once() -> None:
    """An ASGI application would not be served at all."""
    with pytest.raises(UsageError, match="asgi"):
        Server(async_mode="asgi")


def test_in_a_node_it_has_tagged_sids_a_place_and_the_configured_limits() -> None:
    """Engine.IO and Socket.IO sids both name the node."""

    async def main() -> None:
        sio = echo_server()
        limits: dict[str, Any] = {"ping_interval_s": 11.0, "ping_timeout_s": 7.0, "max_message_bytes": 5000}
        async with node_here(sio, **limits) as url, client_of(url) as client:
            assert claimed_slot_of(client.eio.sid) == claimed_slot_of(client.sid) == sio.node.name
            assert url.endswith(f":{sio.node.port}")
            assert sio.node.name == f"n{sio.node.port}"
            assert (client.eio.ping_interval, client.eio.ping_timeout) == (11, 7)
            assert sio.eio.max_http_buffer_size == 5000

    asyncio.run(main())


def test_what_the_user_gave_wins_over_the_configuration() -> None:
    """Also a tuple for the ping interval, and a client manager."""

    async def main() -> None:
        manager = socketio.AsyncManager()
        sio = echo_server(ping_interval=(30, 2), ping_timeout=9, max_http_buffer_size=2000, client_manager=manager)
        async with node_here(sio):
            engine = sio.eio
            assert (engine.ping_interval, engine.ping_interval_grace_period) == (30, 2)
            assert (engine.ping_timeout, engine.max_http_buffer_size) == (9, 2000)
            assert sio.manager is manager

    asyncio.run(main())


def test_a_message_over_the_limit_closes_its_connection_only() -> None:
    """RFC 6455 7.4.1: 1009, message too big."""

    async def main() -> None:
        async with node_here(echo_server(), max_message_bytes=2000) as url, client_of(url) as bystander:
            async with aiohttp.ClientSession() as session:
                socket = await session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket")
                await socket.send_str("4" + "x" * 3000)
                await socket.receive()  # the open packet
                assert (await socket.receive()).data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            assert await bystander.call("echo", 1) == 1

    asyncio.run(main())


async def _ended(socket: aiohttp.ClientWebSocketResponse) -> bool:
    return (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


GARBAGE = [
    "",
    "x",
    "9",
    "4" + "[" * 900_000,
    "b!",
    b"binary",
    "4",
    "4{}",
    "4x",
    "47",
    "44",
    "42",
    "42{}",
    "42[]",
    "42[1]",
    "42[" * 1000,
    "42" + "9" * 200 + "[]",
    "43[]",
    "431{}",
    "40[]",
    "4599999999999-[]",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_neither_engine_io_nor_socket_io_ends_its_own_session_without_a_traceback(
    garbage: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the internet sends: no half-open session stays, nobody else notices."""

    async def main() -> None:
        sio = echo_server()
        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            socket = await session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket")
            await (socket.send_str(garbage) if isinstance(garbage, str) else socket.send_bytes(garbage))
            await eventually(lambda: _ended(socket))
            await eventually(lambda: sio.eio.connections == 0)

    asyncio.run(main())
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_handler_that_fails_is_logged_once_and_costs_nobody_else_anything(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the event; the connection lives on."""

    async def main() -> None:
        sio = echo_server()

        @sio.event
        async def fail(sid: str) -> None:
            raise RuntimeError("as planned")

        async with node_here(sio) as url, client_of(url) as client:
            await client.emit("fail")
            assert await client.call("echo", 1) == 1
            await eventually(lambda: caplog.records)

    asyncio.run(main())
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (record.getMessage(), record.__dict__["event"]) == ("event handler failed", "fail")


def test_messages_are_counted_both_ways() -> None:
    """In: connect and echo.  Out: their answers."""

    async def main() -> None:
        sio = echo_server()
        async with node_here(sio) as url, client_of(url, transports=["websocket"]) as client:
            await client.call("echo", 1)
            assert (sio.eio.messages_in, sio.eio.messages_out) == (2, 2)

    asyncio.run(main())


def test_python_socketio_adds_no_log_handlers_of_its_own() -> None:
    """Each of its lines would appear twice."""
    loggers = [logging.getLogger(name) for name in ("socketio.server", "engineio.server")]
    before = [[*logger.handlers] for logger in loggers]
    for chatty in (False, True):
        Server(logger=chatty, engineio_logger=chatty)
    assert [logger.handlers for logger in loggers] == before
    mine = logging.getLogger("mine")
    assert Server(logger=mine).logger is mine


def test_a_polling_client_that_says_goodbye_is_let_go_at_once() -> None:
    """Its waiting poll is answered; it would wait for that for a whole ping interval."""

    async def main() -> None:
        async with (
            node_here(echo_server(ping_interval=600)) as url,
            asyncio.timeout(60),
            client_of(url, transports=["polling"]) as client,
        ):
            assert await client.call("echo", 1) == 1

    asyncio.run(main())


def test_a_route_of_the_users_own_at_healthz_wins() -> None:
    """Who has a health check keeps it."""

    async def main() -> None:
        sio = Server()
        sio.web.router.add_get("/healthz", own_page)
        async with node_here(sio) as url, aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as answer:
            assert await answer.json() == "own"

    asyncio.run(main())
