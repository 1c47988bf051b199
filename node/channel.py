"""One WebSocket of a client: messages in, frames out, once per turn of the event loop, and never more than fits.

A channel is an asyncio protocol.  It has no task, no timer and no buffer while it is open and idle; what is needed only
now and then (a half-read frame, a backlog, the way to the end) is an object that is there only then.

    OPEN     --close(), or the client's close frame, or a fault-->  CLOSING or ENDING
    CLOSING  our close frame is on its way; the client's is awaited, until a deadline
    ENDING   all is said: our FIN follows, the client's is awaited, until a deadline; what it still sends is ignored
    GONE     the connection is no more, or no more ours
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from aiohttp._websocket.helpers import websocket_mask

from cluster.closing import CloseCode
from node.backlog import Backlog
from node.cork import CORK_BYTES, running_cork
from node.frames import PONG, TEXT, close_frame, frame
from node.reader import INVALID_DATA, NO_CODE, Close, Event, HalfRead, Ping, ProtocolError, Reader

log = logging.getLogger(__name__)

NORMAL = 1000
LOST = 1006
"""Close codes (RFC 6455 7.4.1).  LOST is never sent: the connection ended without a close frame."""

HIGH_WATER_BYTES = 65536
"""What a transport may hold; the rest waits in a backlog, where it can be counted, dropped and moved."""

_OPEN, _CLOSING, _ENDING, _GONE = range(4)


@dataclass(slots=True)
class ChannelCounts:
    """What happened on all channels that share it."""

    slow_consumers: int = 0
    volatile_dropped: int = 0


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What channels are measured by; all of a node share one."""

    max_message_bytes: int = 1_000_000
    slow_consumer_bytes: int = 1_048_576
    """What may wait behind the message that is being sent."""
    close_timeout_s: float = 5.0
    """From the first close frame to the end of the connection."""
    compression: bool = False
    counts: ChannelCounts = field(default_factory=ChannelCounts)


class Receiver(Protocol):
    """Who has the channel."""

    def received(self, data: str | bytes) -> None:
        """Take one whole message, text or binary data."""

    def closed(self, code: int, reason: str) -> None:
        """Take note of the end: called exactly once, and nothing is received after it.

        `code` and `reason` are those of whoever closed first; LOST if the connection broke, NO_CODE (1005) if the
        client's close frame gave none.
        """


@dataclass(frozen=True, slots=True)
class ChannelState:
    """An open channel that is held, as a value.  With the connection's descriptor it can go on in another process."""

    half: HalfRead
    unsent: bytes
    """Whole frames that were written and have not left."""
    deflates: int
    """The window, in bits, with which messages may be compressed; 0: permessage-deflate was not agreed on."""


class _Nobody:
    def received(self, data: str | bytes) -> None:
        """Nobody listens any more."""

    def closed(self, code: int, reason: str) -> None:
        """It was said."""


_NOBODY = _Nobody()


class _End:
    """How a channel ends."""

    __slots__ = ("code", "reason", "timer")

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        self.timer: asyncio.TimerHandle | None = None


class Channel(asyncio.Protocol):
    """One WebSocket.  `receiver` gets its messages, and may be replaced between two of them.

    `on_end` is called when the connection is gone: whoever lent it counts it.  `deflates` is as in ChannelState.
    """

    __slots__ = (
        "_backlog",
        "_cork",
        "_end",
        "_is_writable",
        "_out",
        "_reader",
        "_reads",
        "_state",
        "_transport",
        "deflates",
        "limits",
        "on_end",
        "receiver",
    )

    def __init__(
        self,
        receiver: Receiver,
        limits: ChannelLimits,
        *,
        deflates: int = 0,
        half: HalfRead | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.receiver = receiver
        self.limits = limits
        self.deflates = deflates
        self.on_end = on_end
        self._cork = running_cork()
        self._transport: asyncio.Transport | None = None
        self._state = _OPEN
        self._is_writable = False  # open, and the transport takes more
        self._out: bytes | None = None  # corked
        self._backlog: Backlog | None = None
        # None between two frames of an open channel that reads: the usual case.
        self._reader: Reader | None = None if half is None else self._new_reader(half)
        self._reads = True
        self._end: _End | None = None

    @classmethod
    def from_state(
        cls,
        state: ChannelState,
        receiver: Receiver,
        limits: ChannelLimits,
        *,
        on_end: Callable[[], None] | None = None,
    ) -> Channel:
        """Return the channel that goes on from `state` once it has a transport."""
        channel = cls(receiver, limits, deflates=state.deflates, half=state.half, on_end=on_end)
        channel._out = state.unsent or None
        return channel

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._limit_transport()
        self.uncork()
        self._is_writable = self._backlog is None
        self._drain()
        if self._reader is not None:
            asyncio.get_running_loop().call_soon(self._read_on)  # what came before

    def data_received(self, data: bytes) -> None:
        size = len(data) - 6
        # Most of what comes: one short text in one frame, alone.
        if self._reader is None and 0 <= size < 126 and data[1] == size + 128 and data[0] == TEXT:
            payload = bytearray(data[6:])
            websocket_mask(data[2:6], payload)
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                self._fail(INVALID_DATA, "not UTF-8")
            else:
                self.receiver.received(text)
        else:
            self._read(data)

    def eof_received(self) -> None:
        # The transport closes after this, when it has sent what it has: a WebSocket is not half-closed.
        self._begin_end(LOST, "", fin=False)

    def connection_lost(self, exc: BaseException | None) -> None:
        end = self._end or _End(LOST, "")
        if end.timer is not None:
            end.timer.cancel()
        self._state = _GONE
        self._is_writable = False
        self._out = self._transport = self._end = None
        self._reader = _UNUSED
        self._release_waiting()
        self._tell(end)
        if self.on_end is not None:
            on_end, self.on_end = self.on_end, None
            on_end()

    def pause_writing(self) -> None:
        self._is_writable = False
        self._behind().is_paused = True

    def resume_writing(self) -> None:
        self._behind().is_paused = False
        self._drain()

    # --- out

    def write(self, frames: bytes, *, volatile: bool = False) -> bool:
        """Send `frames`, whole ones, together with what else is written in this turn of the event loop.

        Returns whether they were taken.  They are not when the channel is no longer open; when they are `volatile`
        and the client is behind; or when more waits for it than it may: then it is closed as SLOW_CONSUMER.
        """
        out = self._out
        if out is None:
            if not self._is_writable:
                return self._write_behind(frames, volatile)
            self._out = frames
            self._cork.add(self)
            return True
        if len(out) > CORK_BYTES:
            self.uncork()
            return self.write(frames, volatile=volatile)
        self._out = self._cork.join(out, frames)
        return True

    def uncork(self) -> None:
        """Write what was written in this turn so far."""
        out = self._out
        if out is not None and self._transport is not None:
            self._out = None
            self._transport.write(out)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were written and have not left this process."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        waiting += 0 if self._out is None else len(self._out)
        return waiting + (0 if self._backlog is None else self._backlog.size)

    @property
    def is_behind(self) -> bool:
        """Whether the client takes less than it is sent: more waits in the transport than that should hold."""
        return self._backlog is not None

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when all that was written so far has left this process, or never will."""
        if self._transport is None:
            asyncio.get_running_loop().call_soon(callback)
            return
        self.uncork()
        self._behind().drained.append(callback)
        self._drain_transport()

    def _write_behind(self, frames: bytes, volatile: bool) -> bool:
        if self._state != _OPEN:
            return False
        backlog = self._behind()
        if volatile:
            self.limits.counts.volatile_dropped += 1
            return False
        # What waits decides, not what comes: a message alone may be as large as an application likes.
        if backlog.size >= self.limits.slow_consumer_bytes:
            self._give_up(backlog.size)
            return False
        backlog.add(frames)
        return True

    def _give_up(self, waiting: int) -> None:
        self.limits.counts.slow_consumers += 1
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        log.warning("client closed: it reads too slowly", extra={"peer": peer, "waiting_bytes": waiting})
        self._fail(CloseCode.SLOW_CONSUMER, "too slow")

    def _behind(self) -> Backlog:
        self._is_writable = False
        if self._backlog is None:
            self._backlog = Backlog()
        return self._backlog

    def _drain(self) -> None:
        """Give the transport what waits, as far as it takes it."""
        backlog = self._backlog
        if backlog is None or self._transport is None:
            return
        while backlog and not (backlog.is_paused or backlog.is_held):
            self._transport.write(backlog.take())
        if backlog.is_paused or self._transport is None:
            return
        drained, backlog.drained = backlog.drained, []
        if not backlog.is_held:
            self._backlog = None
            self._limit_transport()
            self._is_writable = self._state == _OPEN
        for callback in drained:
            callback()

    def _drain_transport(self) -> None:
        """See to it that we hear when the transport holds nothing."""
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(high=0)  # which pauses us, if it has not
        else:
            asyncio.get_running_loop().call_soon(self._drain)

    def _limit_transport(self) -> None:
        assert self._transport is not None
        self._transport.set_write_buffer_limits(min(HIGH_WATER_BYTES, self.limits.slow_consumer_bytes), 0)

    # --- in

    def pause_reading(self) -> None:
        """Deliver nothing more, and let the client wait."""
        self._reads = False
        self._reader = self._reader or self._new_reader()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`; what was read already is delivered in the next turn of the event loop."""
        if self._reads or self._state == _GONE:
            return
        self._reads = True
        asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._reads and self._transport is not None and not self._transport.is_closing():
            if not self._transport.is_reading():
                self._transport.resume_reading()
            try:
                self._read(b"")
            except BaseException:
                self.abort()  # as the transport does when data_received fails
                raise

    def _new_reader(self, half: HalfRead | None = None) -> Reader:
        return Reader(self.limits.max_message_bytes, inflates=bool(self.deflates), half=half)

    def _read(self, data: bytes) -> None:
        if self._state >= _ENDING:
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = self._new_reader()
        reader.feed(data)
        try:
            while self._reads and self._state < _ENDING and (event := reader.next()) is not None:
                self._take(event)
        except ProtocolError as exc:
            self._fail(exc.code, exc.reason)
            return
        if self._reads and self._state == _OPEN and reader.is_idle:
            self._reader = None

    def _take(self, event: Event) -> None:
        if isinstance(event, str | bytes):
            if self._state == _OPEN:
                self.receiver.received(event)
        elif isinstance(event, Ping):
            if self._is_writable:
                self.write(frame(PONG, event.payload))
            elif self._state == _OPEN:
                self._behind().add_pong(frame(PONG, event.payload))
        else:
            self._take_close(event)

    # --- the end

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send what waits, then a close frame; end when the client has answered it or the time is over."""
        if self._state != _OPEN:
            return
        self.uncork()
        self._leave_open(_CLOSING, code, reason)
        if self._backlog is None and self._transport is not None:
            self._transport.write(close_frame(code, reason))
        else:
            self._behind().add(close_frame(code, reason))
        self.resume_reading()  # the client's answer is awaited

    def abort(self) -> None:
        """End at once, with a reset if the client has not read all."""
        if self._transport is not None:
            self._transport.abort()

    def _take_close(self, close: Close) -> None:
        self._finish(close.code, close.reason, close_frame(0 if close.code == NO_CODE else close.code))

    def _fail(self, code: int, reason: str) -> None:
        """End for a fault of the client's: RFC 6455 7.1.7."""
        self._finish(code, reason, close_frame(code, reason))

    def _finish(self, code: int, reason: str, last: bytes) -> None:
        """Say `last` behind what has gone out; what still waits is of no use any more."""
        said = self._state == _CLOSING and not self._backlog
        self.uncork()
        if not said and self._transport is not None:
            self._transport.write(last)
        self._begin_end(code, reason)

    def _begin_end(self, code: int, reason: str, *, fin: bool = True) -> None:
        if self._state >= _ENDING or self._transport is None:
            return
        if self._backlog is not None:
            self._backlog.clear()
        self._leave_open(_ENDING, code, reason)
        self._reader = _UNUSED
        assert self._end is not None
        asyncio.get_running_loop().call_soon(self._tell, self._end)
        if fin and not self._transport.is_closing():
            # Our FIN, not the end: closing with something unread would reset the connection under what we said last.
            self._transport.write_eof()
            if not self._reads:
                self._reads = True
                self._transport.resume_reading()

    def _leave_open(self, state: int, code: int, reason: str) -> None:
        self._state = state
        self._is_writable = False
        self._reader = self._reader or self._new_reader()
        if self._end is None:
            self._end = _End(code, reason)
            self._end.timer = asyncio.get_running_loop().call_later(self.limits.close_timeout_s, self.abort)

    def _tell(self, end: _End) -> None:
        receiver, self.receiver = self.receiver, _NOBODY
        receiver.closed(end.code, end.reason)

    def _release_waiting(self) -> None:
        backlog, self._backlog = self._backlog, None
        for callback in backlog.drained if backlog is not None else ():
            callback()


_UNUSED = Reader(0)
"""Stands for a reader where nothing is read any more."""
