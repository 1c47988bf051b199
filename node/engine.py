"""Engine.IO at its edge: everything of python-engineio that we bend is bent here.

What we change: sids carry their node's tag, packets are counted, and a node that leaves can close every transport in a
way that brings the clients back.  tests/node/test_contracts_engine.py holds the private names that we touch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import engineio
from aiohttp import web
from engineio.async_drivers import aiohttp as driver
from engineio.async_socket import AsyncSocket
from engineio.packet import MESSAGE, NOOP, Packet

from cluster.closing import CloseCode
from cluster.tag import new_sid

log = logging.getLogger(__name__)

CLOSE_WAIT_S = 2.0
"""How long a client may take to fetch what is queued for it, and then to answer a close frame."""

SERVER_LEAVES = "server leaves"
"""The reason that disconnect handlers get when this node stops."""

NORMAL_CLOSURE = 1000

# Types of packets, and `b` before base64 (Engine.IO protocol 4, "Packet encoding").
_PACKET_BEGINNINGS = frozenset("0123456b")


class WebSocket(driver.WebSocket):  # type: ignore[misc]
    """One WebSocket of a session."""

    server: Engine
    _sock: web.WebSocketResponse
    _transport: asyncio.Transport | None = None

    def __init__(self, handler: Callable[[WebSocket], Awaitable[None]], server: Engine) -> None:
        super().__init__(handler, server)
        self.gone = asyncio.Event()

    async def __call__(self, environ: Mapping[str, Any]) -> web.WebSocketResponse:
        request: web.Request = environ["aiohttp.request"]
        # Without permessage-deflate: its contexts cost each connection more memory than everything else of it together.
        self._sock = web.WebSocketResponse(
            max_msg_size=self.server.max_http_buffer_size, timeout=CLOSE_WAIT_S, compress=False
        )
        await self._sock.prepare(request)
        self._transport = request.transport
        self.server.websockets.add(self)
        try:
            await self.handler(self)
        except (ValueError, RecursionError) as exc:
            # What a client sends must not leave its session half open, nor a traceback in our log.
            sid = self.handler.__self__.sid
            log.info("client dropped: not Engine.IO", extra={"sid": sid, "reason": str(exc)})
            await self.server.drop(sid)
            await self.close()
        finally:
            self.server.websockets.discard(self)
            self.gone.set()
        return self._sock

    async def wait(self) -> Any:
        """Return the next message.  Raises OSError, which python-engineio takes for the end of the connection."""
        data = await super().wait()
        if isinstance(data, str) and data[:1] not in _PACKET_BEGINNINGS:
            raise OSError("not an Engine.IO packet")
        return data

    async def close(self) -> None:
        await self._sock.close(code=CloseCode.GOING_AWAY if self.server.leaving else NORMAL_CLOSURE)

    def abort(self) -> None:
        """Cut the connection: for a client that takes neither data nor a close frame."""
        if self._transport is not None:
            self._transport.abort()


class Engine(engineio.AsyncServer):  # type: ignore[misc]
    """The Engine.IO server of a node.  Until it has a `tag`, sids are python-engineio's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._async: dict[str, Any] = {**self._async, "websocket": WebSocket}
        self.tag = ""
        self.leaving = False
        self.websockets: set[WebSocket] = set()
        self.messages_in = 0
        self.messages_out = 0

    @property
    def connections(self) -> int:
        """Sessions that are open now."""
        return sum(not session.closed for session in self.sockets.values())

    def generate_id(self) -> str:
        return new_sid(self.tag) if self.tag else str(super().generate_id())

    async def handle_request(self, request: web.Request) -> web.StreamResponse:
        sid = request.query.get("sid")
        if self.leaving and sid is None:
            return _leaving()
        response: web.StreamResponse = await super().handle_request(request)
        session = self.sockets.get(sid)
        ended = session is None or session.closed
        return _leaving() if self.leaving and ended and not response.prepared else response

    async def send_packet(self, sid: str, pkt: Packet) -> None:
        if pkt.packet_type == MESSAGE:
            self.messages_out += 1
        await super().send_packet(sid, pkt)

    def _trigger_event(self, event: str, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        if event == "message":
            self.messages_in += 1
        elif event == "disconnect" and self.reason.CLIENT_DISCONNECT in args:
            self._end_poll(self.sockets.get(args[0]))
        result: Awaitable[Any] = super()._trigger_event(event, *args, **kwargs)
        return result

    def _end_poll(self, session: AsyncSocket | None) -> None:
        """Answer the poll of a client that said goodbye: it may wait for that before it goes, up to a ping interval."""
        if session is not None and not session.upgraded:
            session.queue.put_nowait(Packet(NOOP))

    async def drop(self, sid: str) -> None:
        """End the session `sid` at once: its client does not speak our protocol."""
        session = self.sockets.get(sid)
        if session is not None:
            await session.close(wait=False, abort=True, reason=self.reason.TRANSPORT_ERROR)
            await session.queue.put(None)

    def leave(self) -> None:
        """Take no new sessions from now on."""
        self.leaving = True

    async def close_all(self, within_s: float) -> int:
        """Close every session so that its client comes back by itself, elsewhere; return how many had to be cut.

        A WebSocket gets close code 1001, a poll the status 503; both look like a lost transport.  Not Socket.IO's
        disconnect packet, after which the JavaScript client stays away, nor Engine.IO's close packet, after which the
        Python client does.  Disconnect handlers run; what is queued goes first.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        try:
            async with asyncio.timeout_at(deadline), asyncio.TaskGroup() as group:
                for session in list(self.sockets.values()):
                    if not session.closed:
                        group.create_task(self._close_session(session))
                for websocket in list(self.websockets):
                    group.create_task(websocket.gone.wait())
        except TimeoutError:
            log.warning("clients cut: the time to close was over", extra={"left": len(self.websockets)})
        cut = len(self.websockets)
        for websocket in list(self.websockets):
            websocket.abort()
        return cut

    async def _close_session(self, session: AsyncSocket) -> None:
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await session.queue.join()
        except TimeoutError:
            log.debug("last packets not fetched", extra={"sid": session.sid})
        await session.close(wait=False, abort=True, reason=SERVER_LEAVES)
        # Ends the poll that waits, or python-engineio's writer, which then closes the WebSocket.
        await session.queue.put(None)


def _leaving() -> web.Response:
    return web.Response(status=503, text="This node is leaving.", headers={"Retry-After": "1"})
