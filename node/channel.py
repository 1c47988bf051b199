"""One WebSocket of a client: messages in, frames out, and an end that both sides agree on.

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
from typing import cast

from aiohttp._websocket.helpers import websocket_mask

from cluster.closing import CloseCode
from cluster.ends import By
from node.channel_state import ChannelState, NotQuiet
from node.farewell import MOVED, Farewell, Fate, OnEnd, lost
from node.frames import PONG, TEXT, close_frame, frame
from node.limits import ChannelCounts, ChannelLimits
from node.outgoing import Outgoing
from node.reader import INVALID_DATA, NO_CODE, Close, HalfRead, Ping, ProtocolError, Reader
from node.receiver import NOBODY, Receiver

__all__ = ["LOST", "NORMAL", "Channel", "ChannelCounts", "ChannelLimits", "ChannelState", "NotQuiet", "Receiver"]

log = logging.getLogger(__name__)

NORMAL = 1000
LOST = 1006
"""Close codes (RFC 6455 7.4.1).  LOST is never sent: the connection ended without a close frame."""

READ_BYTES = 65536
"""What asyncio's own transports read at once.  Their 256 KiB are more than malloc keeps: mapping and unmapping pages
for each read, however short, makes an echo cost 26 µs instead of 10.  uvloop's read into one buffer for all."""

_MESSAGE = (str, bytes)

_OPEN, _CLOSING, _ENDING, _GONE = range(4)


class Channel(Outgoing):
    """One WebSocket.  `receiver` gets its messages, and may be replaced between two of them.

    `half` is what was read before, `deflates` is as in ChannelState.  `on_end` is called when the connection is gone:
    whoever lent it counts it, and wants to know how it ended.
    """

    __slots__ = ("_end", "_reader", "_reads", "_state", "deflates", "on_end", "receiver")

    def __init__(
        self,
        receiver: Receiver,
        limits: ChannelLimits,
        *,
        deflates: int = 0,
        half: HalfRead | None = None,
        on_end: OnEnd | None = None,
    ) -> None:
        super().__init__(limits)
        self.receiver = receiver
        self.deflates = deflates
        self.on_end = on_end
        self._state = _OPEN
        self._reads = True
        self._end: Farewell | None = None
        # None between two frames of an open channel that reads: the usual case.
        self._reader: Reader | None = None if half is None else self._new_reader(half)

    def _new_reader(self, half: HalfRead | None = None) -> Reader:
        return Reader(self.limits.max_message_bytes, inflates=bool(self.deflates), half=half)

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES
        self._connect(transport)
        if not self._reads:
            transport.pause_reading()
        elif self._reader is not None:
            asyncio.get_running_loop().call_soon(self._read_on)  # what came before

    def data_received(self, data: bytes) -> None:
        # Most of what comes: one text in one frame, alone.  Where its payload starts if this is one, RFC 6455 5.2:
        start = 0
        if self._reader is None and data[0] == TEXT:
            size = len(data) - 6
            if 0 <= size < 126 and data[1] == size + 128:
                start = 6
            elif 127 < size <= self.limits.max_message_bytes and data[1] == 254 and size - 2 == data[2] << 8 | data[3]:
                start = 8
        if start:
            payload = bytearray(data[start:])
            websocket_mask(data[start - 4 : start], payload)
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
        self._begin_end(LOST, "", By.LOST, fin=False)

    def connection_lost(self, exc: BaseException | None) -> None:
        end = self._end
        self._let_go()
        self._tell(*((LOST, "") if end is None else (end.code, end.reason)))
        self._tell_lender(lost(exc) if end is None else end.fate(exc))

    def _tell_lender(self, fate: Fate) -> None:
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(fate)

    def _let_go(self) -> None:
        if self._end is not None:
            self._end.over()
        self._end = None
        self._state = _GONE
        self._reader = _UNUSED
        self._disconnect()

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to end it."""
        return self._state == _OPEN

    # --- in

    def pause_reading(self) -> None:
        """Deliver nothing more, and let the client wait."""
        if self._state == _OPEN:
            self._reads = False
            self._reader = self._reader or self._new_reader()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`; what was read already is delivered in the next turn of the event loop."""
        if not self._reads:
            self._reads = True
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        transport = self._transport
        if not self._reads or transport is None or transport.is_closing():
            return
        if not transport.is_reading():
            transport.resume_reading()
        try:
            self._read(b"")
        except BaseException:
            self.abort()  # as the transport does when data_received fails
            raise

    def _read(self, data: bytes) -> None:
        if self._state >= _ENDING:
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = self._new_reader()
        reader.feed(data)
        try:
            while self._reads and self._state < _ENDING and (event := reader.next()) is not None:
                if isinstance(event, _MESSAGE):
                    if self._state == _OPEN:
                        self.receiver.received(event)
                elif isinstance(event, Ping):
                    self._pong(frame(PONG, event.payload))
                else:
                    self._take_close(event)
        except ProtocolError as exc:
            self._fail(exc.code, exc.reason)
            return
        if self._reads and self._state == _OPEN and reader.is_idle:
            self._reader = None

    # --- the end

    def close(self, code: int = NORMAL, reason: str = "", *, by: By = By.NODE) -> None:
        """Send what waits, then a close frame; end when the client has answered it or the time is over.

        `by` is By.LOST for a client that seems to be gone.
        """
        if self._state == _OPEN:
            self._leave_open(_CLOSING, code, reason, by)
            self._append(close_frame(code, reason))
            self._release_writing()
            self.resume_reading()  # the client's answer is awaited

    def _take_close(self, close: Close) -> None:
        answer = close_frame(0 if close.code == NO_CODE else close.code)
        self._finish(close.code, close.reason, answer, By.CLIENT)

    def _fail(self, code: int, reason: str) -> None:
        """End for a fault of the client's: RFC 6455 7.1.7."""
        self._finish(code, reason, close_frame(code, reason), By.NODE)

    def _overflow(self, waiting: int) -> None:
        self.limits.counts.slow_consumers += 1
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        log.warning("client closed: it reads too slowly", extra={"peer": peer, "waiting_bytes": waiting})
        self._fail(CloseCode.SLOW_CONSUMER, "too slow")

    def _finish(self, code: int, reason: str, last: bytes, by: By) -> None:
        """Say `last` behind what has gone out, unless we have said such a thing; what waits is of no use any more."""
        is_said = self._state == _CLOSING and not self._backlog
        self._stop_writing()
        if not is_said and self._transport is not None and not self._transport.is_closing():
            self._transport.write(last)
        self._begin_end(code, reason, by)

    def _begin_end(self, code: int, reason: str, by: By, *, fin: bool = True) -> None:
        if self._state >= _ENDING or self._transport is None:
            return
        self._forget_waiting()
        self._leave_open(_ENDING, code, reason, by)
        assert self._end is not None
        asyncio.get_running_loop().call_soon(self._tell, self._end.code, self._end.reason)
        self.resume_reading()
        if fin and not self._transport.is_closing():
            # Our FIN, not the end: closing with something unread would reset the connection under what we said last.
            self._transport.write_eof()

    def _leave_open(self, state: int, code: int, reason: str, by: By) -> None:
        self._stop_writing()
        self._state = state
        self._reader = _UNUSED if state == _ENDING else self._reader or self._new_reader()
        if self._end is None:
            self._end = Farewell(code, reason, by, self.limits.close_timeout_s, self.abort)

    def _tell(self, code: int, reason: str) -> None:
        receiver, self.receiver = self.receiver, NOBODY
        receiver.closed(code, reason)

    # --- to another process

    @classmethod
    def from_state(
        cls, state: ChannelState, receiver: Receiver, limits: ChannelLimits, *, on_end: OnEnd | None = None
    ) -> Channel:
        """Return the channel that goes on from `state` once it has a transport."""
        channel = cls(receiver, limits, deflates=state.deflates, half=state.half, on_end=on_end)
        if state.unsent:
            channel._append(state.unsent)
        return channel

    def hold(self) -> None:
        """Stop: nothing more is delivered or leaves; what is written from now on waits.

        When it has drained (`when_drained`), it can be exported.
        """
        self.pause_reading()
        self._hold_writing()

    def release(self) -> None:
        """Undo `hold`."""
        self._release_writing()
        self.resume_reading()

    def export(self) -> ChannelState:
        """Return the state of this held channel, and change nothing.  Raises NotQuiet."""
        backlog, transport, reader = self._backlog, self._transport, self._reader
        if self._state != _OPEN or backlog is None or not backlog.is_held or transport is None or reader is None:
            raise NotQuiet("not held, or no longer open")
        if transport.is_closing() or transport.get_write_buffer_size():
            raise NotQuiet("its transport still holds what it cannot give back")
        return ChannelState(reader.half_read(), backlog.all(), self.deflates)

    def fileno(self) -> int:
        """Return the connection's descriptor.  Raises NotQuiet."""
        if self._transport is None:
            raise NotQuiet("no longer open")
        return int(self._transport.get_extra_info("socket").fileno())

    def give_away(self) -> None:
        """Let go of the connection, which another process has now: nothing is sent, and neither end is told."""
        transport = self._transport
        self.receiver = NOBODY
        self._let_go()
        self._tell_lender(MOVED)
        if transport is not None:
            transport.set_protocol(asyncio.Protocol())
            transport.abort()


_UNUSED = Reader(0)
"""Stands for a reader where nothing is read any more."""
