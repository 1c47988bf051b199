"""A connection that a balancer handed over: who serves it.

One for the Engine.IO path is opened without aiohttp, if nothing of the application would notice (`Shortcut`).  aiohttp
serves any other like one from its own port, so every WebSocket endpoint of the application works, and sees the client's
true address.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cluster.ends import LOST_CODE, NO_CODE, NO_STATUS, By
from cluster.handoff import Handoff
from node.farewell import Fate, OnEnd, lost

log = logging.getLogger(__name__)

Shortcut = Callable[[asyncio.Transport, Handoff, OnEnd], bool]
"""Opens a connection as a WebSocket, with the handoff's cookie, if it is for it; else it touches nothing: false.

The callback is called when the connection is gone.
"""


class Arrival(asyncio.Protocol):
    """A client's connection that was handed over, until it is known who serves it."""

    __slots__ = ("_given", "_on_end", "_server", "_shortcut")

    def __init__(self, server: web.Server, shortcut: Shortcut | None, given: Handoff, on_end: OnEnd) -> None:
        self._server = server
        self._shortcut = shortcut
        self._given = given
        self._on_end = on_end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        try:
            # Before the transport reads: what the balancer has read comes first.
            if self._shortcut is None or not self._shortcut(transport, self._given, self._on_end):
                adopted = Adopted(self._server, self._given, self._on_end)
                transport.set_protocol(adopted)
                adopted.connection_made(transport)
        except Exception:
            # A fault of ours.  Whoever has the connection now hears of its end.
            log.exception("connection lost: it could not be taken over")
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._on_end(lost(exc))


class Adopted(RequestHandler):
    """A client's connection that was handed over and that aiohttp serves, until it is taken out of its hands."""

    __slots__ = ("_received", "cookie", "on_end", "websocket")

    def __init__(self, server: web.Server, given: Handoff, on_end: OnEnd) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **server._kwargs)
        self.cookie = given.cookie
        self._received = given.received
        self.on_end = on_end
        self.websocket: web.WebSocketResponse | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        received, self._received = self._received, b""
        self.data_received(received)

    def connection_lost(self, exc: BaseException | None) -> None:
        websocket, self.websocket = self.websocket, None
        # An answer that is no WebSocket is the node's refusal.
        code, by = (NO_CODE, By.NODE) if websocket is None else _close_of(websocket)
        super().connection_lost(exc)
        self.on_end(Fate(code, by, was_reset=exc is not None))


def _close_of(websocket: web.WebSocketResponse) -> tuple[int, By]:
    """Return the close code of a WebSocket whose connection is gone, and who closed it, as far as aiohttp knows.

    It keeps no code that the application closed with, only the client's answer to it, or none.
    """
    code = websocket.close_code
    if TOLD in websocket:
        return websocket[TOLD], By.NODE
    if code == LOST_CODE or (code is None and not websocket.closed):
        return LOST_CODE, By.LOST
    if websocket._closing and websocket._close_wait is None:
        return code or NO_STATUS, By.CLIENT
    return NO_CODE, By.NODE


TOLD = web.ResponseKey("told", int)
"""The code with which the node, not the application, closed a WebSocket."""


async def finish_adopted(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """An `on_response_prepare` hook: give the answer its sticky cookie, and keep only WebSockets.

    A connection whose upgrade was refused ends with that answer: its next request may belong to another node.
    """
    protocol = request.protocol
    if isinstance(protocol, Adopted):
        if protocol.cookie:
            response.headers.add("Set-Cookie", protocol.cookie)
            protocol.cookie = ""
        if isinstance(response, web.WebSocketResponse):
            protocol.websocket = response
        else:
            response.force_close()
            response.headers["Connection"] = "close"  # RFC 9112 9.6; aiohttp has made its own mind up before
