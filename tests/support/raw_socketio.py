"""A Socket.IO client that says exactly what a test tells it to, over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from node import Server
from tests.support.nodes import node_here

ENGINE = "/socket.io/?EIO=4&transport=websocket"


class RawClient:
    """One session.  Packets are Socket.IO's, without Engine.IO's `4` before them; pings are answered."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.engine_sid = ""

    async def say(self, *packets: str | bytes) -> None:
        for packet in packets:
            await (
                self._socket.send_bytes(packet) if isinstance(packet, bytes) else self._socket.send_str("4" + packet)
            )

    async def hear(self, within_s: float = 30) -> str | bytes | None:
        """Return the next packet, or None when the server has closed the connection."""
        async with asyncio.timeout(within_s):
            while True:
                message = await self._socket.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    data: bytes = message.data
                    return data
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return None
                text: str = message.data
                if text[:1] == "4":
                    return text[1:]
                if text == "2":
                    await self._socket.send_str("3")

    async def ask(self, *packets: str | bytes) -> str | bytes | None:
        """Say these, and return what comes then."""
        await self.say(*packets)
        return await self.hear()

    async def connect(self, namespace: str = "/", auth: str = "") -> str:
        """Connect to `namespace` and return the sid."""
        where = "" if namespace == "/" else f"{namespace},"
        answer = await self.ask(f"0{where}{auth}")
        assert isinstance(answer, str), answer
        assert answer.startswith(f"0{where}{{"), answer
        sid: str = json.loads(answer[1 + len(where) :])["sid"]
        return sid

    async def is_served(self) -> bool:
        """Whether the server still answers in the main namespace.  It must have an event `echo`."""
        return await self.ask('2999["echo","still here"]') == '3999["still here"]'

    async def close(self) -> None:
        await self._socket.close()


@asynccontextmanager
async def raw_client(url: str) -> AsyncIterator[RawClient]:
    """Open a session, and connect to no namespace yet."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url + ENGINE, max_msg_size=0) as socket:
        client = RawClient(socket)
        opened = (await socket.receive_str())[1:]
        client.engine_sid = json.loads(opened)["sid"]
        yield client


@asynccontextmanager
async def talking_to(sio: Server, **nodes: Any) -> AsyncIterator[RawClient]:
    """Run `sio` as a node, and open a session to it."""
    async with node_here(sio, **nodes) as url, raw_client(url) as client:
        yield client
