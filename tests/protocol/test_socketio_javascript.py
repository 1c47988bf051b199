"""The JavaScript client as a peer: `socket.io-client` from npm, over each transport."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import socketio

from node import Server
from tests.support.clients import POLLING, UPGRADE, WEBSOCKET, JsCrowd, js_crowd
from tests.support.nodes import node_here
from tests.support.waiting import eventually

TRANSPORTS = pytest.mark.parametrize(
    "transports", [POLLING, WEBSOCKET, UPGRADE], ids=["polling", "websocket", "upgrade"]
)


def app(**options: Any) -> Server:
    sio = Server(**options)

    @sio.event
    async def echo(sid: str, *data: Any) -> Any:
        return data if len(data) != 1 else data[0]

    return sio


@TRANSPORTS
def test_it_talks(transports: Sequence[str]) -> None:
    """Acknowledged events with every type of JSON, in order, and broadcasts."""

    async def main() -> None:
        sio = app()
        async with node_here(sio) as url, js_crowd() as crowd:
            client = await crowd.connect(url, transports)
            for data in ("text", 7, -1.5, None, True, [1, [2]], {"a": {"b": "é😀\u2028"}}):
                assert await client.call("echo", data) == data
            for number in range(100):
                await sio.emit("news", number)
            await eventually(lambda: len(client.heard.all("news")) == 100)
            assert client.heard.all("news") == [*range(100)]
            await client.close()
            await eventually(lambda: not sio.manager.directory.spaces)

    asyncio.run(main())


@TRANSPORTS
def test_it_gets_bytes(transports: Sequence[str]) -> None:
    """As buffers, in their places."""

    async def main() -> None:
        sio = app()
        async with node_here(sio) as url, js_crowd() as crowd:
            client = await crowd.connect(url, transports)
            await sio.emit("news", {"a": [b"\0\xff", 1]})
            await eventually(lambda: client.heard.all("news"))
            [news] = client.heard.all("news")
            assert news["a"][0]["data"] == [0, 255]
            assert news["a"][1] == 1

    asyncio.run(main())


def test_what_is_emitted_while_it_connects_comes_after_its_connect_event() -> None:
    """And the server can ask it, and learns who did not answer."""

    async def main() -> None:
        sio = app()

        @sio.event
        async def connect(sid: str, environ: Any) -> None:
            await sio.emit("welcome", 1, to=sid)

        async with node_here(sio) as url, js_crowd() as crowd:
            client = await crowd.connect(url, WEBSOCKET)
            await eventually(lambda: client.heard.all("welcome") == [1])
            answers = await sio.broadcast_call("silence", timeout=0.1)
            assert (answers.given, len(answers.missing)) == ({}, 1)

    asyncio.run(main())


def test_a_server_side_disconnect_reaches_it_after_what_was_emitted() -> None:
    """It stays away then, as it does with socket.io's own server."""

    async def main() -> None:
        sio = app()
        async with node_here(sio) as url, js_crowd() as crowd:
            client = await crowd.connect(url, UPGRADE)
            [sid] = sio.manager.directory.spaces["/"].clients
            await sio.emit("last words", "x" * 100_000, to=sid)
            await sio.disconnect(sid)
            await eventually(lambda: client.heard.disconnects)
            assert client.heard.all("last words") == ["x" * 100_000]
            assert client.heard.disconnects == ["io server disconnect"]
            assert client.heard.connects == 1

    asyncio.run(main())


def test_a_refusal_of_one_that_was_let_in_first_is_a_disconnection() -> None:
    """With `always_connect`; never a broken connection, which it would mend again and again."""

    async def main() -> None:
        sio = app(always_connect=True)
        sio.on("connect", lambda sid, environ: False)
        async with node_here(sio) as url, js_crowd() as crowd:
            client = await crowd.connect(url, WEBSOCKET)
            await eventually(lambda: client.heard.disconnects == ["io server disconnect"])

    asyncio.run(main())


def test_a_refusal_is_its_connect_error() -> None:
    """With the message that the handler gave."""

    async def main() -> None:
        sio = app()

        @sio.event
        def connect(sid: str, environ: Any) -> None:
            raise socketio.exceptions.ConnectionRefusedError("not you")

        async with node_here(sio) as url, js_crowd() as crowd:
            assert isinstance(crowd, JsCrowd)
            connecting = asyncio.ensure_future(crowd.connect(url, WEBSOCKET))
            await eventually(lambda: [error for heard in crowd.heard for error in heard.connect_errors] == ["not you"])
            connecting.cancel()
            await asyncio.wait([connecting])

    asyncio.run(main())
