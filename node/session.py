"""One Engine.IO session: what a client and this node say to each other, whatever carries it.

No task, no queue and no timer of its own.  A session on a WebSocket is this object and its channel; one that polls has
a `node.polling.Polling` beside it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cluster.closing import CloseCode
from cluster.ends import By
from node.environ import Environ
from node.frames import TEXT, frame
from node.refusal import POLLING, WEBSOCKET
from node.wheel import OUT

if TYPE_CHECKING:
    from node.channel import Channel
    from node.engine import Engine
    from node.message import Message
    from node.polling import Polling

log = logging.getLogger(__name__)

SERVER_DISCONNECT = "server disconnect"
CLIENT_DISCONNECT = "client disconnect"
PING_TIMEOUT = "ping timeout"
TRANSPORT_CLOSE = "transport close"
TRANSPORT_ERROR = "transport error"
SERVER_LEAVES = "server leaves"
"""The reason that disconnect handlers get when this node stops."""
SLOW_CONSUMER = "slow consumer"
"""The reason that disconnect handlers get when a client let more than `slow_consumer_bytes` pile up."""

NORMAL_CLOSURE, INTERNAL_ERROR = 1000, 1011
"""Close codes (RFC 6455 7.4.1)."""

FLUSH_WAIT_S = 2.0

_REASONS = {
    CloseCode.SLOW_CONSUMER: SLOW_CONSUMER,
    1002: TRANSPORT_ERROR,
    1003: TRANSPORT_ERROR,
    1007: TRANSPORT_ERROR,
    1009: TRANSPORT_ERROR,
}


class Control:
    """A packet that is no message, in the forms in which it can leave: as `node.message.Message`."""

    __slots__ = ("frames", "payload")
    packets = 1

    def __init__(self, packet: bytes) -> None:
        self.payload = packet
        self.frames = frame(TEXT, packet)


CLOSE, PING, NOOP = Control(b"1"), Control(b"2"), Control(b"6")

_IGNORED = frozenset("356")
"""Packets that may come late, or twice, and mean nothing then: pong, upgrade, noop."""


class Session:
    """One client.  `client` is for whoever handles the engine's messages; `data` is the user session, if there is one.

    It is a node.channel.Receiver: the engine gives it a channel, or a Polling.
    """

    __slots__ = (
        "_at",
        "_environ",
        "_is_pinged",
        "channel",
        "client",
        "data",
        "engine",
        "head",
        "polling",
        "reason",
        "remote",
        "sid",
        "slot",
    )

    def __init__(self, engine: Engine, sid: str, head: bytes, remote: str | None) -> None:
        self.engine = engine
        self.sid = sid
        self.head = head
        self.remote = remote
        self.channel: Channel | None = None
        self.polling: Polling | None = None
        self.client: Any = None
        self.data: dict[Any, Any] | None = None
        self.reason = ""
        """Why it ended."""
        self.slot = OUT
        self._environ: Environ | None = None
        self._is_pinged = False
        self._at = 0.0
        """When the next ping is due, or if one is on its way, when its pong is."""

    @property
    def is_open(self) -> bool:
        return not self.reason

    @property
    def transport(self) -> str:
        return POLLING if self.channel is None else WEBSOCKET

    @property
    def environ(self) -> Environ:
        """The WSGI-like environment of the request that opened it, as python-socketio's aiohttp driver makes it."""
        if self._environ is None:
            self._environ = Environ(self.head, self.remote)
        return self._environ

    @property
    def waiting_bytes(self) -> int:
        """What was sent and has not left this process."""
        if self.channel is not None:
            return self.channel.waiting_bytes
        return 0 if self.polling is None else self.polling.waiting_bytes

    def send(self, message: Message, *, volatile: bool = False) -> bool:
        """Send `message`.  Return False if it was not taken: too much waits (and it is volatile), or it has ended."""
        self.engine.messages_out += 1
        if self.channel is not None:
            channel = self.channel
            frames = message.deflated(channel.deflates) if channel.deflates else message.frames
            return channel.write(frames, volatile=volatile)
        return self.polling is not None and self.polling.put(message, volatile=volatile)

    def received(self, data: str | bytes) -> None:
        """Take one packet of the client."""
        try:
            if data.__class__ is not str:
                self.engine.messages_in += 1
                self.engine.handler.received(self, data)
            elif data[:1] == "4":
                self.engine.messages_in += 1
                self.engine.handler.received(self, data[1:])
            elif data == "3":
                self.pong(self.engine.time())
            else:
                self._control(data)
        except Exception:
            # A fault of ours.  The client's stream has lost something, so it must begin anew.
            log.exception("session ended: a packet could not be handled", extra={"sid": self.sid})
            self.close(TRANSPORT_ERROR, code=INTERNAL_ERROR)

    def _control(self, packet: str) -> None:
        """Take what is no message (Engine.IO protocol 4, "Protocol")."""
        kind = packet[:1]
        if kind == "1":
            self.close(CLIENT_DISCONNECT)
        elif kind not in _IGNORED:
            log.info("session ended: not Engine.IO", extra={"sid": self.sid, "packet": packet[:20]})
            self.close(TRANSPORT_ERROR)

    def closed(self, code: int, reason: str) -> None:
        """The WebSocket is gone."""
        self.end(_REASONS.get(code, TRANSPORT_CLOSE))
        self.engine.gone(self)

    def close(self, reason: str, *, code: int = NORMAL_CLOSURE) -> None:
        """End it.  What was sent goes out first; the handler hears of it at once, with `reason`."""
        if not self.end(reason):
            return
        if self.channel is not None:
            if reason == SERVER_DISCONNECT:
                self.channel.write(CLOSE.frames)
            self.channel.close(code, by=By.LOST if reason == PING_TIMEOUT else By.NODE)
        elif self.polling is not None:
            self.polling.close()

    def abort(self, reason: str) -> None:
        """End it, and its connection, now."""
        self.end(reason)
        if self.channel is not None:
            self.channel.abort()
        elif self.polling is not None:
            self.polling.abort()

    def end(self, reason: str) -> bool:
        """Take it from the sessions that are open and tell the handler; return False if that has happened before."""
        if self.reason:
            return False
        self.reason = reason
        self.engine.ended(self)
        return True

    async def flush(self) -> None:
        """Wait until what was sent has left this process, but not longer than FLUSH_WAIT_S."""
        if not self.waiting_bytes:
            return
        drained = asyncio.Event()
        if self.channel is not None:
            self.channel.when_drained(drained.set)
        elif self.polling is not None:
            self.polling.when_drained(drained.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_WAIT_S):
                await drained.wait()

    def change_over(self, channel: Channel) -> None:
        """Go on over the WebSocket `channel` instead of polls."""
        polling, self.polling = self.polling, None
        assert polling is not None
        channel.receiver = self
        self.channel = channel
        if frames := polling.take_frames():
            channel.write(frames)

    def start(self, now: float) -> None:
        """Begin with the heartbeat."""
        self.go_on(now, False, self.engine.ping_interval)

    def go_on(self, now: float, is_pinged: bool, left_s: float) -> None:
        """Take the heartbeat up: the next ping is due in `left_s`, or if one is on its way, its pong is."""
        self._is_pinged, self._at = is_pinged, now + left_s
        put = self.engine.wheel.put_after if is_pinged else self.engine.wheel.put_before
        put(self, self._at)

    def heartbeat(self, now: float) -> tuple[bool, float]:
        """Return what `go_on` goes on from."""
        return self._is_pinged, max(0.0, self._at - now)

    def due(self, now: float) -> None:
        """As Member.due: send a ping, or miss a pong."""
        wheel = self.engine.wheel
        if self.reason:
            self.abort(self.reason)  # The time to fetch its last packets is over.
        elif self._is_pinged:
            if not self.is_overdue(now):
                wheel.put_after(self, self._at)
        elif now < self._at - wheel.tick_s:
            wheel.put_before(self, self._at)
        else:
            self._at = max(now, self._at) + self.engine.ping_timeout
            self._is_pinged = True
            if self.channel is not None:
                self.channel.write(PING.frames)
            elif self.polling is not None:
                self.polling.put(PING)
            wheel.put_after(self, self._at)

    def pong(self, now: float) -> None:
        """The client is there."""
        if not self._is_pinged:
            return
        self._is_pinged = False
        self._at = now + self.engine.ping_interval
        wheel = self.engine.wheel
        if wheel.sits_until(self) > self._at:
            wheel.put_before(self, self._at)

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client should have answered a ping by now.  If so, this ends the session."""
        if not self._is_pinged or now < self._at:
            return False
        self.close(PING_TIMEOUT)
        return True
