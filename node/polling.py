"""Long polling: what waits for a client between its polls, and what it posts.

Engine.IO protocol 4, "HTTP long-polling".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import StreamReader, web

from node.message import SEPARATOR, Message
from node.payload import NotAPayload, packets_in
from node.refusal import BAD_REQUEST, TOO_LARGE, UNKNOWN_SID, Refusal
from node.session import (
    CLIENT_DISCONNECT,
    CLOSE,
    NOOP,
    PING_TIMEOUT,
    SERVER_LEAVES,
    SLOW_CONSUMER,
    TRANSPORT_ERROR,
    Control,
    Session,
)

if TYPE_CHECKING:
    from node.upgrade import Probe

log = logging.getLogger(__name__)

MOST_POLLED = 16
"""Packets in one answer to a poll: python-engineio's client gives up on more (`Payload.max_decode_packets`)."""

PACKET_BYTES = 200
"""What a packet that waits takes beside its data."""


class Polling:
    """The polling side of a session: packets for its client, and the poll that waits for them, if one does."""

    __slots__ = ("_drained", "_poll", "_queue", "_request", "_session", "is_posting", "probe", "waiting_bytes")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue: deque[Message | Control] = deque()
        self._poll: asyncio.Future[None] | None = None
        self._request: web.Request | None = None
        self._drained: list[Callable[[], None]] = []
        self.waiting_bytes = 0
        self.is_posting = False
        self.probe: Probe | None = None
        """The WebSocket that the client tries instead."""

    @property
    def has_poll(self) -> bool:
        """A poll waits, or is being answered."""
        return self._poll is not None

    def put(self, packet: Message | Control, *, volatile: bool = False) -> bool:
        """Let `packet` wait for the next poll.  Return False if it was not taken."""
        if self._session.reason:
            return False
        size = _size(packet)
        # One alone may be as large as an application likes.
        if self._queue and self.waiting_bytes + size > self._session.engine.slow_consumer_bytes:
            if volatile:
                self._session.engine.limits.counts.volatile_dropped += 1
            else:
                self._give_up()
            return False
        self._append(packet)
        return True

    def _append(self, packet: Message | Control) -> None:
        self._queue.append(packet)
        self.waiting_bytes += _size(packet)
        self.wake()

    def _give_up(self) -> None:
        self._session.engine.limits.counts.slow_consumers += 1
        facts = {"sid": self._session.sid, "waiting_bytes": self.waiting_bytes}
        log.warning("client closed: it reads too slowly", extra=facts)
        self._session.abort(SLOW_CONSUMER)

    def wake(self) -> None:
        """Answer the poll that waits, if one does."""
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    def take(self, most: int = MOST_POLLED) -> list[bytes]:
        """Return the packets for one answer, encoded, and forget them."""
        parts: list[bytes] = []
        while self._queue and most > 0:
            packet = self._queue.popleft()
            self.waiting_bytes -= _size(packet)
            if packet.packets > most:
                if parts:
                    self._put_back(packet)
                    break
                packet, rest = _parted(packet, most)
                self._put_back(rest)
            most -= packet.packets
            parts.append(packet.payload)
        if not self._queue:
            self._tell_drained()
        return parts

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when nothing waits any more."""
        self._drained.append(callback)

    def _tell_drained(self) -> None:
        drained, self._drained = self._drained, []
        for callback in drained:
            callback()

    def _put_back(self, packet: Message | Control) -> None:
        self._queue.appendleft(packet)
        self.waiting_bytes += _size(packet)

    def take_frames(self) -> bytes:
        """Return everything that waits as WebSocket frames, and forget it."""
        frames = b"".join([packet.frames for packet in self._queue])
        self._forget_all()
        return frames

    def _forget_all(self) -> None:
        self._queue.clear()
        self.waiting_bytes = 0
        self._tell_drained()
        self.wake()

    def export(self) -> list[Any] | None:
        """Return what waits as plain data; None if the client is just polling, posting or probing."""
        if self._poll is not None or self.is_posting or self.probe is not None:
            return None
        return [
            [packet.text, list(packet.binaries)] if isinstance(packet, Message) else packet.payload
            for packet in self._queue
        ]

    def take_back(self, waiting: list[Any]) -> None:
        """Let wait what `export` has returned."""
        for each in waiting:
            self._append(Control(each) if isinstance(each, bytes) else Message(each[0], tuple(each[1])))

    async def poll(self, request: web.Request) -> bytes | Refusal | None:
        """Return the body of the answer to a poll, once there is something to say; None when the node leaves."""
        session = self._session
        if self._poll is not None:
            if not _is_gone(self._request):
                # "Should it happen, the server MUST return an HTTP 400 error status and close the session."
                session.close(TRANSPORT_ERROR)
                return BAD_REQUEST
            self.wake()
        if self._queue or session.reason or (self.probe is not None and self.probe.is_answered):
            return self._answer()
        poll = self._poll = asyncio.get_running_loop().create_future()
        self._request = request
        try:
            await poll
            if self._poll is not poll or _is_gone(request):
                return NOOP.payload  # Nobody will get it; what waits is for the client's next poll.
            return self._answer()
        finally:
            if self._poll is poll:
                self._poll = self._request = None

    def _answer(self) -> bytes | Refusal | None:
        session = self._session
        parts = self.take()
        if session.reason and not self._queue:
            session.engine.gone(session)
        if parts:
            return SEPARATOR.join(parts)
        if session.reason == SERVER_LEAVES:
            return None
        return UNKNOWN_SID if session.reason else NOOP.payload

    async def post(self, request: web.Request) -> Refusal | None:
        """Take what a client posts; return why it is refused, which has ended the session."""
        session = self._session
        if self.is_posting:
            refusal: Refusal | None = BAD_REQUEST  # The order of its packets is lost.
        else:
            self.is_posting = True
            engine = session.engine
            try:
                # As long as a client may be silent.
                async with asyncio.timeout(engine.ping_interval + engine.ping_timeout):
                    body = await _read(request.content, engine.max_http_buffer_size + 1)
                refusal = self._take_in(body)
            except TimeoutError:
                refusal = BAD_REQUEST
            finally:
                self.is_posting = False
        if refusal is not None:
            session.close(TRANSPORT_ERROR)
        return refusal

    def _take_in(self, body: bytes) -> Refusal | None:
        session = self._session
        if len(body) > session.engine.max_http_buffer_size:
            return TOO_LARGE
        try:
            packets = packets_in(body)
        except NotAPayload as exc:
            log.info("session ended: not Engine.IO", extra={"sid": session.sid, "reason": str(exc)})
            return BAD_REQUEST
        for packet in packets:
            if session.channel is not None or session.reason:
                break
            session.received(packet)
        return BAD_REQUEST if session.reason == TRANSPORT_ERROR else None

    def close(self) -> None:
        """The session has ended.  Its client may fetch what waits for it, and then is told."""
        session = self._session
        if session.reason == PING_TIMEOUT:
            self.abort()
            return
        self._stop_probe()
        if session.reason in (CLIENT_DISCONNECT, TRANSPORT_ERROR):
            self._forget_all()
            if self._poll is not None:
                # A client that says goodbye may wait for that before it goes.
                self._append(NOOP if session.reason == CLIENT_DISCONNECT else CLOSE)
        elif session.reason != SERVER_LEAVES:
            self._append(CLOSE)
        self.wake()
        if self._queue:
            session.engine.linger(session)
        elif self._poll is None:
            session.engine.gone(session)

    def abort(self) -> None:
        """The session has ended, and nothing goes to its client any more."""
        self._stop_probe()
        self._forget_all()
        self._session.engine.gone(self._session)

    def _stop_probe(self) -> None:
        if self.probe is not None:
            self.probe.give_up("the session has ended")


def _parted(message: Message | Control, most: int) -> tuple[Message, Message]:
    """Return `message`, which has more packets than `most`, in two."""
    assert isinstance(message, Message)
    first = most - (message.text is not None)
    return Message(message.text, message.binaries[:first]), Message(None, message.binaries[first:])


def _size(packet: Message | Control) -> int:
    return len(packet.payload) + PACKET_BYTES


def _is_gone(request: web.Request | None) -> bool:
    """Tell whether the connection of a request has ended."""
    return request is None or request.transport is None or request.transport.is_closing()


async def _read(content: StreamReader, most: int) -> bytes:
    """Read a body to its end, or until it has `most` bytes: it may come in pieces, and without a length."""
    body = bytearray()
    while len(body) < most and (piece := await content.read(most - len(body))):
        body += piece
    return bytes(body)
