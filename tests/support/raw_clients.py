"""Clients of WebSockets that tests/support/guests_app.py serves itself, beside Socket.IO."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.support.waiting import eventually


@dataclass
class Raw:
    """A client of a WebSocket that the application serves itself.  Told to go, it comes back at once."""

    codes: list[int | None] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    """Where it was; empty strings if the endpoint does not say."""
    heard: int = 0

    async def run(self, http: aiohttp.ClientSession, url: str) -> None:
        while True:
            async with http.ws_connect(url) as websocket:
                self.nodes.append(websocket._response.headers.get("X-Node", ""))
                await websocket.send_str("x")
                async for message in websocket:
                    self.heard += message.data == "x"
                self.codes.append(websocket.close_code)


@asynccontextmanager
async def raw_clients(url: str, count: int) -> AsyncIterator[list[Raw]]:
    """Hold `count` clients of each kind of WebSocket, those that know their node first."""
    clients = [Raw() for _ in range(2 * count)]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        ways = ("/aiohttp",) * count + ("/channel",) * count
        tasks = [asyncio.ensure_future(one.run(http, url + path)) for one, path in zip(clients, ways, strict=True)]
        try:
            await eventually(lambda: all(one.heard == 1 for one in clients))
            yield clients
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
