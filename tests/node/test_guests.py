"""WebSockets that an application serves itself, on a node that leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import socketio
from aiohttp import web

from node import Server
from node.echo import Echo
from tests.support.engine import serving
from tests.support.nodes import node_here, running_node
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually
from tests.support.websockets import opened

APP, PATHS = "tests.support.guests_app:sio", ("/aiohttp", "/channel")


async def _opened(http: aiohttp.ClientSession, url: str) -> list[aiohttp.ClientWebSocketResponse]:
    sockets = [await http.ws_connect(url + path) for path in PATHS for _ in range(2)]
    for websocket in sockets:
        await websocket.send_str("x")
        assert await websocket.receive_str() == "x"
    return sockets


async def _all_sent_away(sockets: list[aiohttp.ClientWebSocketResponse]) -> None:
    async with asyncio.timeout(30):
        for websocket in sockets:
            message = await websocket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


def test_they_get_1001_before_their_node_ends(tmp_path: Path) -> None:
    """On the node's own port, at SIGTERM: aiohttp's, and channels."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http, running_node(tmp_path, "--redis", "none", "--app", APP) as node:
            sockets = await _opened(http, node.url)
            status, _ = await asyncio.gather(node.stop(), _all_sent_away(sockets))
            assert status == 0

    asyncio.run(main())


@pytest.mark.parametrize("handoff", ["auto", "never"])
def test_they_count_as_clients_of_their_node_however_they_came(tmp_path: Path, handoff: str) -> None:
    """In its record, where balancers, the dashboard and whoever waits for it to be empty look, and in its healthz."""

    async def main() -> None:
        lb, nodes = {"handoff": handoff}, {"app": APP, "heartbeat_s": 0.2}
        async with aiohttp.ClientSession() as http, running_stack(tmp_path, 1, nodes, lb=lb) as stack:
            client = socketio.AsyncClient(http_session=http)
            await client.connect(stack.url)
            sockets = await _opened(http, stack.url)
            sockets += await _opened(http, f"http://127.0.0.1:{stack.ports[0]}")
            await eventually(lambda: _counted(stack, http, 9), what="all are counted, each once")
            for websocket in sockets[1:]:
                await websocket.close()
            await eventually(lambda: _counted(stack, http, 2), what="those that went are not")
            await client.disconnect()
            await eventually(lambda: _counted(stack, http, 1), what="nor is Socket.IO's")

    asyncio.run(main())


async def _counted(stack: Stack, http: aiohttp.ClientSession, clients: int) -> bool:
    [node] = await stack.nodes()
    async with http.get(f"http://127.0.0.1:{stack.ports[0]}/healthz") as answer:
        health = await answer.json()
    return bool((node["connections"], health["connections"]) == (clients, clients))


@pytest.mark.parametrize("handoff", ["auto", "never"])
def test_they_get_1001_through_the_balancer_too(tmp_path: Path, handoff: str) -> None:
    """Handed over, or tunnelled."""

    async def main() -> None:
        lb, nodes = {"handoff": handoff}, {"app": APP}
        async with (
            aiohttp.ClientSession() as http,
            running_stack(tmp_path, 1, nodes, redis="none", lb=lb) as stack,
        ):
            sockets = await _opened(http, stack.url)
            [carried] = await stack.nodes()
            assert (carried["handoffs"], carried["tunnels"]) == ((4, 0) if handoff == "auto" else (0, 4))
            [pid] = [child["pid"] for name, child in (await stack.children()).items() if name.startswith("n")]
            os.kill(pid, signal.SIGTERM)
            await _all_sent_away(sockets)

    asyncio.run(main())


def test_new_ones_are_refused_while_the_node_leaves() -> None:
    """503, come back: as for Socket.IO's."""

    async def main() -> None:
        sio = Server()

        async def through_aiohttp(request: web.Request) -> web.StreamResponse:
            websocket = web.WebSocketResponse()
            await websocket.prepare(request)
            return websocket

        async def through_a_channel(request: web.Request) -> web.StreamResponse:
            return sio.eio.guests.open(request, Echo())[1]

        sio.web.add_routes([web.get("/aiohttp", through_aiohttp), web.get("/channel", through_a_channel)])
        async with node_here(sio) as url, aiohttp.ClientSession() as http:
            sio.eio.leave()
            for path in PATHS:
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await http.ws_connect(url + path)
                assert refused.value.status == 503
                assert refused.value.headers is not None
                assert refused.value.headers["Retry-After"] == "1"

    asyncio.run(main())


def test_one_that_does_not_answer_costs_no_more_than_the_time_there_is(tmp_path: Path) -> None:
    """It has been told; then it is cut, and counted."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            engine, _ = await stack.enter_async_context(serving())
            assert await engine.guests.close_all(1) == 0, "nobody is there"

            async def through_a_channel(request: web.Request) -> web.StreamResponse:
                receiver = Echo()
                receiver.channel, response = engine.guests.open(request, receiver)
                return response

            app = web.Application()
            app.router.add_get("/channel", through_a_channel)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            client = await asyncio.to_thread(opened, runner.addresses[0][1], "/channel")
            stack.callback(client.sock.close)
            assert await engine.guests.close_all(0.1) == 1
            heard = await asyncio.to_thread(client.hear)
            assert heard is not None
            assert heard.code == 1001
            client.sock.shutdown(socket.SHUT_RDWR)
            await eventually(lambda: not engine.guests._channels, what="it is forgotten")

    asyncio.run(main())


def test_with_no_time_at_all_they_are_told_all_the_same() -> None:
    """`drain_s: 0`."""

    async def main() -> None:
        from tests.support.guests_app import sio

        async with aiohttp.ClientSession() as http:
            async with node_here(sio, drain_s=0.0) as url:
                sockets = await _opened(http, url)
            await _all_sent_away(sockets)

    asyncio.run(main())
