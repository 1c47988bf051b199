"""Both ends of a handoff for a test: nodes in its own event loop, nodes made of a bare socket, WebSocket frames."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import WSMsgType, web

from cluster import handoff
from cluster.ends import End
from cluster.handoff import Closed, Handoff, Message, message_in
from node.adoption import Adoption
from node.arrival import finish_adopted
from tests.support.balancer import Balancer, Caller
from tests.support.websockets import BINARY, FIN, client_frame

MASK = b"\x11\x22\x33\x44"


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """Return a client's frame, masked and final; binary unless told."""
    return client_frame(FIN | opcode, payload, mask=MASK)


async def payload_from(reader: asyncio.StreamReader) -> bytes:
    """Read one frame of a server and return its payload."""
    async with asyncio.timeout(30):
        _, size = await reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await reader.readexactly(8), "big")
        return await reader.readexactly(size)


async def echoes(caller: Caller, payload: bytes) -> bool:
    """Return whether `payload` comes back on an open WebSocket."""
    caller.send(frame(payload))
    return await payload_from(caller.reader) == payload


async def _echo(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(max_msg_size=2**22)
    await websocket.prepare(request)
    async for message in websocket:
        if message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
    return websocket


async def _who(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    told = {name: request.headers.getall(name, []) for name in ("Host", *FORWARDED)}
    await websocket.send_json({"remote": request.remote, **told})
    await websocket.close()
    return websocket


FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Forwarded")


async def _no(_: web.Request) -> web.Response:
    raise web.HTTPForbidden(text="not you")


async def _page(_: web.Request) -> web.Response:
    return web.Response(text="page")


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=bytes(int(request.query["bytes"])))


def application() -> web.Application:
    """Return an aiohttp application: /echo and /who are WebSockets, /no refuses, /page and /large are pages."""
    app = web.Application()
    app.add_routes(
        [
            web.get("/echo", _echo),
            web.get("/who", _who),
            web.get("/no", _no),
            web.get("/page", _page),
            web.get("/large", _large),
        ]
    )
    return app


@dataclass
class AdoptingNode:
    """A node that serves on a port and takes handoffs, in this event loop."""

    adoption: Adoption
    port: int

    @property
    def path(self) -> str:
        return str(self.adoption.path)


@asynccontextmanager
async def adopting_node(
    directory: Path, name: str = "n0", app: web.Application | None = None
) -> AsyncIterator[AdoptingNode]:
    """Run `app`, or else `application()`, as a node named `name` whose handoff socket is in `directory`."""
    app = app or application()
    app.on_response_prepare.append(finish_adopted)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.server is not None
    try:
        async with asyncio.TaskGroup() as tasks:
            adoption = Adoption(handoff.socket_path(directory, name), runner.server, tasks)
            adoption.open()
            try:
                yield AdoptingNode(adoption, runner.addresses[0][1])
            finally:
                adoption.close()
    finally:
        await runner.cleanup()


def closed(*numbers: int) -> Closed:
    """Return the report of a node that says no more than that these connections have ended."""
    return Closed(tuple(map(End, numbers)))


def hands_over(balancer: Balancer, *paths: str | Path) -> None:
    """Tell the balancer's nodes n0, n1, … where their handoff sockets are."""
    for number, path in enumerate(paths):
        balancer.node(f"n{number}").handoff = str(path)


@dataclass
class BareLink:
    """A worker's link to a `BareNode`, as the node has it."""

    sock: socket.socket
    descriptors: list[int] = field(default_factory=list)

    async def packet(self) -> Handoff:
        """Return the next handoff; its descriptor is added to `descriptors`."""
        async with asyncio.timeout(30):
            await _readable(self.sock)
        packet, descriptors = handoff.receive(self.sock)
        self.descriptors += descriptors
        message = message_in(packet)
        assert isinstance(message, Handoff)
        return message

    def client(self) -> socket.socket:
        """Return the client's connection that came with the last packet."""
        sock = socket.socket(fileno=self.descriptors.pop())
        sock.setblocking(False)
        return sock

    def say(self, *messages: Message) -> None:
        for message in messages:
            handoff.send(self.sock, message)

    def close(self) -> None:
        self.sock.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


@dataclass
class BareNode:
    """A handoff socket at which the test itself plays the node."""

    path: Path
    listener: socket.socket
    links: list[BareLink] = field(default_factory=list)

    async def link(self) -> BareLink:
        async with asyncio.timeout(30):
            await _readable(self.listener)
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.links.append(BareLink(sock))
        return self.links[-1]


@asynccontextmanager
async def bare_node(path: Path) -> AsyncIterator[BareNode]:
    """Listen for handoffs at `path`; the socket's file goes with the block."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)
    listener.bind(str(path))
    listener.listen()
    node = BareNode(path, listener)
    try:
        yield node
    finally:
        for link in node.links:
            link.close()
        listener.close()
        os.unlink(path)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set, readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def open_descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))
