"""WebSockets of real clients are handed over where they can be, whatever they are, and tunnelled where they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.test_classic import everyone_hears, joined, port_of
from tests.support.clients import CROWDS, POLLING, UPGRADE, WEBSOCKET, python_crowd
from tests.support.nodes import running_node
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually

APPLICATION = """
from aiohttp import web
from node import Server

sio = Server()


async def echo(request):
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    await websocket.send_json({"remote": request.remote, "for": request.headers["X-Forwarded-For"]})
    async for message in websocket:
        await websocket.send_str(message.data)
    return websocket


sio.web.router.add_get("/echo", echo)
"""


async def _carried(stack: Stack, **expected: int) -> bool:
    """Tell whether the nodes together have so many `handoffs` and `tunnels`."""
    nodes = await stack.nodes()
    return {name: sum(node[name] for node in nodes) for name in expected} == expected


@pytest.mark.parametrize("kind", sorted(CROWDS))
@pytest.mark.parametrize("transports", [WEBSOCKET, UPGRADE], ids=["websocket", "upgrade"])
def test_socket_io_over_websocket_is_handed_over(tmp_path: Path, kind: str, transports: Sequence[str]) -> None:
    """Opened so, or upgraded from polling; polling is not, and everybody hears everybody.  Ends are counted."""

    async def main() -> None:
        async with CROWDS[kind]() as crowd, running_stack(tmp_path, 2) as stack:
            clients = [await joined(crowd, stack.url, f"user-{i}", transports) for i in range(6)]
            poller = await joined(crowd, stack.url, "poller", POLLING)
            await everyone_hears(clients[0], [*clients, poller], "hello")
            await eventually(partial(_carried, stack, handoffs=6, tunnels=0))
            for client in clients:
                await client.close()
            await eventually(partial(_carried, stack, handoffs=0, tunnels=0, connections=1))

    asyncio.run(main())


def test_a_websocket_of_the_applications_own_is_handed_over(tmp_path: Path) -> None:
    """A handler on `sio.web` with aiohttp's WebSocketResponse sees the client's address; counted as any client."""
    (tmp_path / "handed_app.py").write_text(APPLICATION, encoding="utf-8")

    async def main() -> None:
        app = {"app": "handed_app:sio"}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
            running_stack(tmp_path, 1, node_options=app) as stack,
        ):
            async with session.ws_connect(f"{stack.url}/echo") as websocket:
                assert await websocket.receive_json() == {"remote": "127.0.0.1", "for": "127.0.0.1"}
                await websocket.send_str("x" * 500_000)
                assert await websocket.receive_str() == "x" * 500_000
                assert [cookie.key for cookie in session.cookie_jar] == ["flotilla_node"]
                await eventually(partial(_carried, stack, handoffs=1, tunnels=0, connections=1))
                stack.kill((await stack.children())["worker-0"]["pid"])
                await websocket.send_str("without a balancer")
                assert await websocket.receive_str() == "without a balancer"
            await eventually(partial(_carried, stack, handoffs=0, tunnels=0, connections=0))

    asyncio.run(main())


def test_handoff_never_tunnels_and_says_so(tmp_path: Path) -> None:
    """In the API and in /metrics; a tunnel is counted as one."""

    async def main() -> None:
        async with python_crowd() as crowd, running_stack(tmp_path, 1, lb={"handoff": "never"}) as stack:
            client = await joined(crowd, stack.url, "user", WEBSOCKET)
            await everyone_hears(client, [client], "through the tunnel")
            await eventually(partial(_carried, stack, handoffs=0, tunnels=1))
            assert {node["path"] for node in await stack.nodes()} == {"tunnel"}
            assert 'path="tunnel"' in await _metrics(stack)

    asyncio.run(main())


async def _metrics(stack: Stack) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{stack.admin_url}/metrics") as answer:
        return await answer.text()


def test_a_node_that_this_supervisor_does_not_run_is_reached_through_a_tunnel(tmp_path: Path) -> None:
    """`nodes.static` beside a local node, without Redis: one is handed to, the other is not."""

    async def main() -> None:
        async with (
            python_crowd() as crowd,
            running_node(tmp_path, "--redis", "none") as elsewhere,
            running_stack(tmp_path, 1, node_options={"static": [elsewhere.url]}, redis="none") as stack,
        ):
            await eventually(partial(_has_ready, stack, 2))
            clients = [await joined(crowd, stack.url, f"user-{i}", WEBSOCKET) for i in range(4)]
            paths = {node["port"]: node["path"] for node in await stack.nodes()}
            assert paths == {elsewhere.port: "tunnel", stack.ports[0]: "handoff"}
            theirs = sum(port_of(client) == elsewhere.port for client in clients)
            assert 0 < theirs < 4
            await eventually(partial(_carried, stack, handoffs=4 - theirs, tunnels=theirs))

    asyncio.run(main())


async def _has_ready(stack: Stack, count: int) -> bool:
    return len(await stack.ready_nodes()) == count
