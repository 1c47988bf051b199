"""Engine.IO (protocol revision 4): the sessions of this node, their heartbeat, and how they end.

It is what a socketio.AsyncServer calls its `eio`, with the names that python-engineio's server has; what is behind them
is ours.  Requests come in through node/intake.py, messages go to a `Handler`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Container
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from aiohttp import web

from cluster.closing import CloseCode
from cluster.errors import UsageError
from cluster.tag import new_sid
from node import session as reasons
from node.channel import ChannelLimits
from node.guests import Guests
from node.handler import Handler
from node.intake import Intake
from node.message import Message
from node.options import EngineOptions
from node.refusal import POLLING, WEBSOCKET
from node.session import SERVER_DISCONNECT, SERVER_LEAVES, Session
from node.wheel import Wheel

log = logging.getLogger(__name__)

CLOSE_WAIT_S = 2.0
"""How long a client may take to fetch what is queued for it, or to answer a close frame."""

PONG_READ_S = 2.0
"""What the client of a session that moved has at least for the pong that is due."""

MESSAGE = 4
"""Type of a packet with a message (Engine.IO protocol 4, "Protocol")."""

COARSEST_TICK_S, FINEST_TICK_S, TICKS = 0.5, 0.01, 16
"""The wheel turns TICKS times in a ping interval or time-out, within these bounds."""


class Engine:
    """The Engine.IO server of a node.  `handler` must be set before the first request.

    Takes the options of python-engineio's server, which may be changed as attributes until the first session.
    Raises UsageError for one that it does not know or cannot do.  Until it has a `tag`, sids do not name a node.
    """

    handler: Handler
    wheel: Wheel
    limits: ChannelLimits

    class reason:
        """Why sessions end: what disconnect handlers get."""

        SERVER_DISCONNECT = reasons.SERVER_DISCONNECT
        CLIENT_DISCONNECT = reasons.CLIENT_DISCONNECT
        PING_TIMEOUT = reasons.PING_TIMEOUT
        TRANSPORT_CLOSE = reasons.TRANSPORT_CLOSE
        TRANSPORT_ERROR = reasons.TRANSPORT_ERROR

    async_mode = "aiohttp"

    def is_asyncio_based(self) -> bool:
        return True

    def __init__(self, **options: Any) -> None:
        given = EngineOptions.of(options)
        self.ping_interval, self.ping_interval_grace_period = given.ping_interval
        self.ping_timeout = given.ping_timeout
        self.max_http_buffer_size = given.max_http_buffer_size
        self.slow_consumer_bytes = given.slow_consumer_bytes
        self.compression = given.compression
        self.allow_upgrades = given.allow_upgrades
        self.logger = given.logger or log
        self.json = given.json or json
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.sessions: dict[str, Session] = {}
        self.lingering: dict[str, Session] = {}
        """Ended, and their clients may still fetch what was sent; or their WebSockets are being closed."""
        self.path = ""
        self.tag = ""
        self.leaving = False
        self.messages_in = self.messages_out = 0
        self.intake = Intake(self, given)
        self.guests = Guests(self)
        self._is_settled = False
        self._all_gone: asyncio.Event | None = None

    @property
    def connections(self) -> int:
        """Sessions that are open now."""
        return len(self.sessions)

    @property
    def clients(self) -> int:
        """Sessions, and WebSockets of the application's own, however they came here."""
        return len(self.sessions) + self.guests.count

    def attach(self, app: web.Application, engineio_path: str = "engine.io") -> None:
        """Serve Engine.IO in `app` under this path."""
        self.path = f"/{engineio_path.strip('/')}/"
        app.router.add_route("*", self.path, self.handle_request)

    async def handle_request(self, request: web.Request) -> web.StreamResponse:
        """Serve one request for the path of Engine.IO."""
        return await self.intake.handle(request)

    def on(self, event: str, handler: Callable[..., Any] | None = None) -> Any:
        """Keep `handler` for `event` in `handlers`, for whoever is the engine's handler."""
        if event not in ("connect", "disconnect", "message"):
            raise ValueError(f"{event!r} is no event of Engine.IO")
        if handler is None:
            return lambda given: self.on(event, given)
        self.handlers[event] = handler
        return handler

    # Sessions

    def settle(self) -> None:
        """Take the options as they are now, in the event loop that serves."""
        if self._is_settled:
            return
        loop = asyncio.get_running_loop()
        self.time = loop.time
        shorter = min(self.ping_interval, self.ping_timeout)
        self.wheel = Wheel(min(COARSEST_TICK_S, max(FINEST_TICK_S, shorter / TICKS)), loop)
        self.limits = ChannelLimits(
            max_message_bytes=self.max_http_buffer_size,
            slow_consumer_bytes=self.slow_consumer_bytes,
            close_timeout_s=CLOSE_WAIT_S,
            compression=self.compression,
        )
        self._after_sid = json.dumps(
            {
                "pingInterval": int((self.ping_interval + self.ping_interval_grace_period) * 1000),
                "pingTimeout": int(self.ping_timeout * 1000),
                "maxPayload": self.max_http_buffer_size,
            },
            separators=(",", ":"),
        )[1:]
        self._is_settled = True

    def generate_id(self) -> str:
        return new_sid(self.tag) if self.tag else new_sid("").lstrip(".")

    def open_packet(self, session: Session) -> bytes:
        """Return the packet that begins a session (protocol 4, "Handshake")."""
        upgrades = '["websocket"]' if self._can_upgrade(session) else "[]"
        return f'0{{"sid":"{session.sid}","upgrades":{upgrades},{self._after_sid}'.encode()

    def _can_upgrade(self, session: Session) -> bool:
        return session.transport == POLLING and self.allow_upgrades and WEBSOCKET in self.intake.transports

    def open(self, session: Session) -> None:
        """Begin with a session that has its transport, and tell the handler."""
        self.sessions[session.sid] = session
        session.start(self.time())
        try:
            self.handler.opened(session)
        except Exception:
            log.exception("session ended: it could not be opened", extra={"sid": session.sid})
            session.close(reasons.TRANSPORT_ERROR, code=reasons.INTERNAL_ERROR)

    def take_in(self, session: Session, is_pinged: bool, left_s: float) -> None:
        """Go on with a session that comes from another process, or that nobody read for a while."""
        self.sessions[session.sid] = session
        # Its pong may have come long ago: it must be read first.
        session.go_on(self.time(), is_pinged, max(left_s, PONG_READ_S) if is_pinged else left_s)

    def let_go(self, session: Session) -> None:
        """Another process has this session now."""
        del self.sessions[session.sid]
        self.wheel.remove(session)

    def ended(self, session: Session) -> None:
        """A session is open no more: it said so itself, and does it once."""
        del self.sessions[session.sid]
        self.wheel.remove(session)
        if session.channel is not None:
            self.lingering[session.sid] = session
        try:
            self.handler.ended(session, session.reason)
        except Exception:
            log.exception("the end of a session could not be handled", extra={"sid": session.sid})

    def linger(self, session: Session) -> None:
        """Let the client of an ended session fetch its last packets, but not for ever."""
        self.lingering[session.sid] = session
        self.wheel.put_after(session, self.time() + CLOSE_WAIT_S)

    def gone(self, session: Session) -> None:
        """Nothing is left of a session."""
        self.wheel.remove(session)
        self.lingering.pop(session.sid, None)
        if self._all_gone is not None and not self.lingering:
            self._all_gone.set()

    # Leaving

    def leave(self) -> None:
        """Take no new sessions from now on."""
        self.leaving = True

    def send_away(self, most: int, spared: Container[Session] = ()) -> int:
        """Close up to `most` sessions as `close_all` does, those first that are here longest; return how many."""
        leaving = list(islice((each for each in self.sessions.values() if each not in spared), most))
        for session in leaving:
            session.close(SERVER_LEAVES, code=CloseCode.GOING_AWAY)
        return len(leaving)

    async def close_all(self, within_s: float) -> int:
        """Close every session so that its client comes back by itself, elsewhere; return how many had to be cut.

        A WebSocket gets close code 1001, a poll the status 503; both look like a lost transport.  Not Socket.IO's
        disconnect packet, after which the JavaScript client stays away, nor Engine.IO's close packet, after which the
        Python client does.  Disconnect handlers run; what is queued goes first.
        """
        self._all_gone = asyncio.Event()
        self.send_away(len(self.sessions))
        cut = 0
        if self.lingering:
            try:
                async with asyncio.timeout(within_s):
                    await self._all_gone.wait()
            except TimeoutError:
                cut = sum(session.channel is not None for session in self.lingering.values())
                log.warning("clients cut: the time to close was over", extra={"left": cut})
        for session in list(self.lingering.values()):
            session.abort(SERVER_LEAVES)
        return cut

    # What python-engineio's server has

    async def send(self, sid: str, data: Any) -> None:
        """Send `data` (str, bytes, or what becomes JSON) as one message; a session that is not there is logged."""
        if (session := self.sessions.get(sid)) is None:
            log.warning("message for a session that has ended", extra={"sid": sid})
            return
        if isinstance(data, bytes | bytearray):
            session.send(Message(None, (bytes(data),)))
        else:
            session.send(Message((data if isinstance(data, str) else self.json.dumps(data)).encode()))

    async def send_packet(self, sid: str, pkt: Any) -> None:
        """Send a message that comes as an `engineio.packet.Packet`.  Raises UsageError for other kinds of packets."""
        if pkt.packet_type != MESSAGE:
            raise UsageError(f"send_packet: packets of type {pkt.packet_type} are sent by the engine alone")
        await self.send(sid, pkt.data)

    def _session(self, sid: str) -> Session:
        try:
            return self.sessions[sid]
        except KeyError:
            raise KeyError("Session not found") from None

    def transport(self, sid: str) -> str:
        return self._session(sid).transport

    async def get_session(self, sid: str) -> dict[Any, Any]:
        """Return the user session of a client."""
        session = self._session(sid)
        if session.data is None:
            session.data = {}
        return session.data

    async def save_session(self, sid: str, session: dict[Any, Any]) -> None:
        self._session(sid).data = session

    @asynccontextmanager
    async def session(self, sid: str) -> AsyncIterator[dict[Any, Any]]:
        """Give the user session of a client for a block, and save it."""
        data = await self.get_session(sid)
        try:
            yield data
        finally:
            await self.save_session(sid, data)

    async def disconnect(self, sid: str | None = None) -> None:
        """End a session, or all, once what was sent to it has left; a session that is not there is none."""
        sessions = [each for each in self.sessions.values() if sid in (None, each.sid)]
        for session in sessions:
            session.close(SERVER_DISCONNECT)

    def start_background_task(self, target: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return asyncio.ensure_future(target(*args, **kwargs))

    async def sleep(self, seconds: float = 0) -> None:
        await asyncio.sleep(seconds)

    def create_queue(self, *args: Any, **kwargs: Any) -> asyncio.Queue[Any]:
        return asyncio.Queue(*args, **kwargs)

    def get_queue_empty_exception(self) -> type[asyncio.QueueEmpty]:
        return asyncio.QueueEmpty

    def create_event(self) -> asyncio.Event:
        return asyncio.Event()

    async def shutdown(self) -> None:
        """Stop the heartbeat."""
        if self._is_settled:
            self.wheel.stop()
