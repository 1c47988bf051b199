"""Servers for a balancer to find: a real Socket.IO node, and some that misbehave on the wire."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import socketio
from aiohttp import web

from cluster.tag import new_sid, tag_of

SECRET = b"of-a-test"


@dataclass
class SocketIoNode:
    """A python-socketio server on aiohttp at a loopback port, which can be stopped and started again there.

    `status` and `body` are what its /healthz answers; a `slot` makes its sids carry a tag.
    """

    slot: str = ""
    port: int = 0
    status: int = 200
    body: dict[str, object] = field(default_factory=dict)
    asked: int = 0
    """How often /healthz was asked."""
    sio: socketio.AsyncServer = field(init=False)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        self.sio = socketio.AsyncServer(async_mode="aiohttp")
        if self.slot:
            self.sio.eio.generate_id = lambda: new_sid(tag_of(self.slot, SECRET))
        app = web.Application()
        self.sio.attach(app)
        app.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self.sio.shutdown()
            await self._runner.cleanup()
            self._runner = None

    @property
    def sessions(self) -> int:
        """Engine.IO sessions that are open now."""
        return len(self.sio.eio.sockets)

    async def _healthz(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response(self.body, status=self.status)


@asynccontextmanager
async def socketio_node(slot: str = "", port: int = 0) -> AsyncIterator[SocketIoNode]:
    """Run a Socket.IO node in this event loop."""
    node = SocketIoNode(slot, port)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


Talk = Callable[[bytes, asyncio.StreamWriter], None]
"""What a scripted server does with the head of a request."""


@asynccontextmanager
async def scripted_server(talk: Talk, *, then_close: bool = False) -> AsyncIterator[int]:
    """Run a server that reads one head on each connection and lets `talk` answer; give its port."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        try:
            talk(await reader.readuntil(b"\r\n\r\n"), writer)
            while not then_close and await reader.read(65_536):
                continue
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            connections.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in list(connections):
            writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Run a server that accepts connections, reads, and never answers: a process that hangs; give its port."""
    async with scripted_server(lambda head, writer: None) as port:
        yield port


def accept_of(head: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that belongs to the handshake in `head` (RFC 6455 4.2.2)."""
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    digest = hashlib.sha1(key.partition(b":")[2].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


def switching_protocols(head: bytes) -> bytes:
    """Return the head of a right answer to the WebSocket handshake in `head`."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_of(head) + b"\r\n\r\n"
    )
