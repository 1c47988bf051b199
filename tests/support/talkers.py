"""Raw WebSockets that never stop talking: each message is a number, and the next one goes out when it came back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.support.balancer import Caller, upgrade_request
from tests.support.handing import frame, payload_from

APP = """
import os
from aiohttp import WSMsgType, web
from node import Server

sio = Server()

async def echo(request):
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    await websocket.send_bytes(str(os.getpid()).encode())
    async for message in websocket:
        if message.type is WSMsgType.BINARY:
            print("heard", message.data.decode())
            await websocket.send_bytes(message.data[:20])
    return websocket

sio.web.router.add_get("/echo", echo)
"""
"""An application with a WebSocket of its own: it says its pid, then what it hears, and prints a line each time."""


@dataclass
class Talker:
    """One client that talks; `pid` is the process that it talks to."""

    caller: Caller
    pid: int
    heard: int = 0
    stopped: bool = False

    def stop(self) -> None:
        """Say nothing more: the end of the connection is none of its business then."""
        self.stopped = True

    async def talk(self) -> None:
        """Send and hear numbers until stopped.  Raises whatever ends the connection, AssertionError if one is lost."""
        while not self.stopped:
            self.caller.send(frame(str(self.heard).encode()))
            said = await payload_from(self.caller.reader)
            assert int(said) == self.heard, f"{self.heard} was lost"
            self.heard += 1
            # A hundred messages a second are enough to notice.
            await asyncio.sleep(0.01)


@asynccontextmanager
async def talker(url: str) -> AsyncIterator[Talker]:
    """Open one connection to /echo; it is silent unless it is told to talk."""
    host, _, port = url.removeprefix("http://").partition(":")
    caller = Caller(*await asyncio.open_connection(host, int(port)))
    try:
        caller.send(upgrade_request("/echo"))
        async with asyncio.timeout(30):
            head = await caller.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield Talker(caller, int(await payload_from(caller.reader)))
    finally:
        caller.close()


@asynccontextmanager
async def talking(url: str, count: int) -> AsyncIterator[Sequence[Talker]]:
    """Let `count` clients talk while the block runs; what ends one of them is raised."""
    async with AsyncExitStack() as stack:
        talkers = [await stack.enter_async_context(talker(url)) for _ in range(count)]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.talk()) for each in talkers]
            yield talkers
            for task in running:
                task.cancel()
