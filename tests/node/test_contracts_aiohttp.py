"""Everything of aiohttp that is not public and that node/arrival.py touches.  A version that moves one fails here."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from tests.lb.conftest import Run
from tests.support.balancer import Caller, upgrade_request
from tests.support.waiting import eventually
from tests.support.websockets import close


def test_a_server_keeps_what_its_handlers_are_made_with() -> None:
    """`Server._kwargs`; a handler that we make ourselves is the same as one that it makes."""
    source = inspect.getsource(web.Server.__call__)
    assert "RequestHandler(self, loop=self._loop, **self._kwargs)" in source
    parameters = list(inspect.signature(RequestHandler.__init__).parameters)
    assert parameters[:3] == ["self", "manager", "loop"]


class Wire(asyncio.Transport):
    """A transport that only keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def test_data_may_be_received_before_connection_made_has_returned(run: Run) -> None:
    """What the balancer has read is served although the transport has not read anything yet."""

    async def page(_: web.BaseRequest) -> web.Response:
        return web.Response(text="page")

    async def main() -> None:
        server = web.Server(page)

        class Early(RequestHandler):
            __slots__ = ()

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                self.data_received(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")

        wire = Wire()
        early = Early(server, loop=asyncio.get_running_loop(), tcp_keepalive=False, **server._kwargs)
        early.connection_made(wire)
        assert server.connections == [early]
        await eventually(lambda: wire.closed)
        assert wire.written.endswith(b"page")
        early.connection_lost(None)

    run(main)


@pytest.mark.parametrize("by", ["client", "node", "node, while it reads"])
def test_a_websocket_response_knows_who_closed(run: Run, by: str) -> None:
    """`_closing`: a close frame was read, or so it looks; `_close_wait`: we closed while a handler read."""
    reads: list[web.WebSocketResponse] = []
    ended: list[web.WebSocketResponse] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        assert (websocket._closing, websocket._close_wait) == (False, None)
        if by == "node":
            await websocket.close(code=4001)
        else:
            reads.append(websocket)
            await websocket.receive()
        ended.append(websocket)
        return websocket

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/ws", serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            caller = Caller(*await asyncio.open_connection(*runner.addresses[0][:2]))
            caller.send(upgrade_request("/ws"))
            await caller.head()
            if by == "node, while it reads":
                await eventually(lambda: reads)
                await reads[0].close(code=4001)
                assert reads[0].close_code == 1000, "not the code that it was closed with: no code of its is believed"
            else:
                caller.send(close(4001))
            await eventually(lambda: ended)
            assert (ended[0]._closing and ended[0]._close_wait is None) == (by == "client")
            assert ended[0].closed
            caller.close()
        finally:
            await runner.cleanup()

    run(main)


@pytest.mark.parametrize("kind", ["websocket", "response", "raised", "missing", "fault", "stream"])
def test_every_answer_of_an_application_passes_the_prepare_hook(run: Run, kind: str) -> None:
    """With the connection's protocol as `request.protocol`, and in time for headers that the hook adds."""
    seen: list[object] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if kind == "raised":
            raise web.HTTPForbidden
        if kind == "fault":
            raise ValueError("a fault of the application")
        response: web.StreamResponse = web.Response()
        if kind == "websocket":
            response = web.WebSocketResponse()
        elif kind == "stream":
            response = web.StreamResponse()
        await response.prepare(request)
        return response

    async def hook(request: web.BaseRequest, response: web.StreamResponse) -> None:
        seen.append(request.protocol)
        response.headers["X-Hooked"] = "yes"
        response.headers["Connection"] = "close"

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/there", answer)
        app.on_response_prepare.append(hook)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            caller = Caller(*await asyncio.open_connection(*runner.addresses[0][:2]))
            caller.send(upgrade_request("/" if kind == "missing" else "/there"))
            head = await caller.head()
            assert b"X-Hooked: yes\r\n" in head
            assert head.count(b"Connection: ") == 1, "it replaces what aiohttp had decided"
            assert len(seen) == 1
            assert isinstance(seen[0], RequestHandler)
            caller.close()
        finally:
            await runner.cleanup()

    run(main)
