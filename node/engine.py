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
from aiohttp import StreamReader, web
from engineio.async_drivers import aiohttp as driver
from engineio.async_socket import AsyncSocket
from engineio.exceptions import EngineIOError
from engineio.packet import MESSAGE, NOOP, Packet
from engineio.payload import Payload

from cluster.closing import CloseCode
from cluster.tag import new_sid
from node.adoption import Adopted

log = logging.getLogger(__name__)

CLOSE_WAIT_S = 2.0
"""How long a client may take to fetch what is queued for it, and then to answer a close frame."""

SERVER_LEAVES = "server leaves"
"""The reason that disconnect handlers get when this node stops."""

SLOW_CONSUMER = "slow consumer"
"""The reason that disconnect handlers get when a client let more than MOST_WAITING_BYTES pile up."""

NORMAL_CLOSURE = 1000

MOST_WAITING_BYTES = 32 * 2**20
"""What may wait for one client.  One that answers pings and does not read would else fill the node's memory."""

_PACKET_BYTES = 200
"""What a packet takes beside its data."""

MOST_POLLED = 16
"""Packets in one answer to a poll: python-engineio's client gives up on more (`Payload.max_decode_packets`)."""

MOST_POSTED = 1000
"""Packets in one request of a client: the JavaScript client puts everything that it has to say into one."""

# The only way to say so; its own limit of 16 fails clients that emit a little faster than their requests go round.
Payload.max_decode_packets = MOST_POSTED

# Types of packets, and `b` before base64 (Engine.IO protocol 4, "Packet encoding").
_PACKET_BEGINNINGS = frozenset("0123456b")


class WebSocket(driver.WebSocket):  # type: ignore[misc]
    """One WebSocket of a session."""

    server: Engine
    adopted = False
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
        self.adopted = isinstance(request.protocol, Adopted)
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


class Outbox(asyncio.Queue[Packet | None]):
    """What waits for one client.  After each `get` at most MOST_POLLED - 1 more are there at once: one poll's worth."""

    _taken = 0
    waiting_bytes = 0
    cut = False

    def _put(self, item: Packet | None) -> None:
        self.waiting_bytes += _size(item)
        super()._put(item)

    def _get(self) -> Packet | None:
        item = super()._get()
        self.waiting_bytes -= _size(item)
        return item

    async def get(self) -> Packet | None:
        self._taken = 0
        return await super().get()

    def get_nowait(self) -> Packet | None:
        if self._taken >= MOST_POLLED:
            raise asyncio.QueueEmpty
        self._taken += 1
        return super().get_nowait()


def _is_flooded(outbox: Outbox) -> bool:
    # One packet alone may be as large as an application likes.
    return outbox.waiting_bytes > MOST_WAITING_BYTES and outbox.qsize() > 1 and not outbox.cut


def _size(packet: Packet | None) -> int:
    data = packet.data if packet is not None else None
    return _PACKET_BYTES + (len(data) if isinstance(data, str | bytes) else 0)


class Engine(engineio.AsyncServer):  # type: ignore[misc]
    """The Engine.IO server of a node.  Until it has a `tag`, sids are python-engineio's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = {"websocket": WebSocket, "translate_request": self._environ}
        self._async: dict[str, Any] = {**self._async, **own}
        self.tag = ""
        self.leaving = False
        self.websockets: set[WebSocket] = set()
        self.messages_in = 0
        self.messages_out = 0

    @property
    def connections(self) -> int:
        """Sessions that are open now."""
        return sum(not session.closed for session in self.sockets.values())

    @property
    def adopted(self) -> int:
        """WebSockets of sessions that were handed over by a balancer."""
        return sum(websocket.adopted for websocket in self.websockets)

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

    def create_queue(self) -> Outbox:
        return Outbox()

    async def _environ(self, request: web.Request) -> dict[str, Any]:
        """Return the WSGI environ of `request`, with its body read whole and checked.

        python-engineio takes the first piece of a body that comes in several for all of it, and needs a length.
        """
        environ: dict[str, Any] = driver.translate_request(request)
        if request.method == "POST":
            body = await _read(request.content, self.max_http_buffer_size + 1)
            environ["CONTENT_LENGTH"] = str(len(body))
            environ["wsgi.input"] = _Body(body)
        return environ

    async def send_packet(self, sid: str, pkt: Packet) -> None:
        if pkt.packet_type == MESSAGE:
            self.messages_out += 1
        await super().send_packet(sid, pkt)
        session = self.sockets.get(sid)
        if session is not None and _is_flooded(session.queue):
            session.queue.cut = True
            log.warning("client cut: it reads too slowly", extra={"sid": sid, "waiting": session.queue.waiting_bytes})
            await self.drop(sid, SLOW_CONSUMER)

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

    async def disconnect(self, sid: str | None = None) -> None:
        """As python-engineio's, which waits without limit for a polling client to fetch its last packets."""
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await super().disconnect(sid)
        except TimeoutError:
            log.debug("last packets not fetched", extra={"sid": sid})
            self.sockets.pop(sid, None)

    async def drop(self, sid: str, reason: str | None = None) -> None:
        """End the session `sid` at once: its client does not speak our protocol, or takes nothing."""
        session = self.sockets.get(sid)
        if session is not None:
            await session.close(wait=False, abort=True, reason=reason or self.reason.TRANSPORT_ERROR)
            await session.queue.put(None)
        for websocket in [each for each in self.websockets if reason and each.handler.__self__ is session]:
            websocket.abort()

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


async def _read(content: StreamReader, most: int) -> bytes:
    """Read a body to its end, or until it has `most` bytes."""
    body = bytearray()
    while len(body) < most and (piece := await content.read(most - len(body))):
        body += piece
    return bytes(body)


class _Body:
    """A body that was read, as python-engineio reads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self, _: int) -> bytes:
        """Return it.  Raises EngineIOError if it is not an Engine.IO payload: the session ends, with status 400."""
        try:
            packets = Payload(encoded_payload=self._body.decode()).packets
        except (ValueError, KeyError, RecursionError) as exc:
            raise EngineIOError(f"not an Engine.IO payload: {exc}") from None
        if any(packet.packet_type > NOOP for packet in packets):
            raise EngineIOError("not an Engine.IO payload: unknown type of packet")
        return self._body
