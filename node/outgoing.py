"""The writing half of a channel: prebuilt frames out, once per turn of the event loop, and never more than fits.

    write() -> cork, for this turn -> transport, up to HIGH_WATER_BYTES -> kernel -> client
                                   -> backlog, while the transport holds more than that

What the transport holds cannot be taken back, counted piece by piece, or moved to another process; so it gets little,
and the rest waits in the backlog.  One message that is larger than everything goes to the transport whole, when nothing
waits before it: no limit keeps a client that reads from getting it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node.backlog import Backlog
from node.cork import CORK_BYTES, running_cork
from node.limits import ChannelLimits

HIGH_WATER_BYTES = 65536


class Outgoing(asyncio.Protocol):
    """Writes to one client.  `limits` is shared by many."""

    __slots__ = ("_backlog", "_cork", "_is_open", "_is_writable", "_out", "_transport", "limits")

    def __init__(self, limits: ChannelLimits) -> None:
        self.limits = limits
        self._transport: asyncio.Transport | None = None
        self._cork = running_cork()
        self._out: bytes | None = None
        """What is corked."""
        self._backlog: Backlog | None = None
        """There while the client is behind, or somebody waits for it to be no more."""
        self._is_open = True
        self._is_writable = False
        """Open, connected and not behind: what write() needs to know first, in one."""

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
        cork = self._cork
        if out is cork.left and frames is cork.right:
            self._out = cork.joined
        elif len(out) <= CORK_BYTES:
            self._out = cork.join(out, frames)
        else:
            self.uncork()
            return self.write(frames, volatile=volatile)
        return True

    def uncork(self) -> None:
        """Write what was written in this turn so far."""
        out = self._out
        if out is not None and self._transport is not None:
            self._out = None
            self._transport.write(out)

    def abort(self) -> None:
        """End at once: nothing more is sent, and the connection is reset if the client has not been read to the end."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were written and have not left this process."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        waiting += 0 if self._out is None else len(self._out)
        return waiting + (0 if self._backlog is None else self._backlog.size)

    @property
    def is_behind(self) -> bool:
        """Whether the client takes less than it is sent."""
        return self._backlog is not None

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when what was written so far has left this process, or never will.

        Never from within this call.  While writing is held (see Channel.hold) only the transport must be empty.
        """
        self.uncork()
        if self._transport is None or not (self._backlog or self._transport.get_write_buffer_size()):
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._behind().drained.append(callback)
            self._empty_transport()

    # --- for the subclass

    def _connect(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._limit_transport()
        self.uncork()
        self._is_writable = self._is_open and self._backlog is None
        self._drain()

    def _disconnect(self) -> None:
        """Forget what waits, and tell who waits for it."""
        self._is_open = self._is_writable = False
        self._transport = self._out = None
        backlog, self._backlog = self._backlog, None
        for callback in backlog.drained if backlog is not None else ():
            callback()

    def _stop_writing(self) -> None:
        """Take no more; what waits still goes."""
        self.uncork()
        self._is_open = self._is_writable = False

    def _append(self, frames: bytes) -> None:
        """Send `frames` behind everything that waits, although write() takes no more."""
        if self._backlog is None and self._transport is not None:
            self._transport.write(frames)
        else:
            self._behind().add(frames)

    def _forget_waiting(self) -> None:
        if self._backlog is not None:
            self._backlog.clear()

    def _pong(self, pong: bytes) -> None:
        if self._is_writable:
            self.write(pong)
        elif self._is_open:
            self._behind().pong = pong

    def _overflow(self, waiting: int) -> None:
        """Do something about a client for which `waiting` bytes wait, too many."""
        raise NotImplementedError

    def _hold_writing(self) -> None:
        """Give the transport nothing more, and let it get rid of what it has."""
        self.uncork()
        self._behind().is_held = True
        self._empty_transport()

    def _release_writing(self) -> None:
        if self._backlog is not None:
            self._backlog.is_held = False
            self._drain()

    # --- flow control

    def pause_writing(self) -> None:
        self._behind().is_paused = True

    def resume_writing(self) -> None:
        self._behind().is_paused = False
        self._drain()

    def _write_behind(self, frames: bytes, volatile: bool) -> bool:
        if not self._is_open:
            return False
        if volatile:
            self.limits.counts.volatile_dropped += 1
            return False
        backlog = self._behind()
        # What waits decides, not what comes: one message alone may be as large as an application likes.
        if backlog.size >= self.limits.slow_consumer_bytes:
            self._overflow(backlog.size)
            return False
        backlog.add(frames)
        return True

    def _behind(self) -> Backlog:
        self._is_writable = False
        if self._backlog is None:
            self._backlog = Backlog()
        return self._backlog

    def _drain(self) -> None:
        """Give the transport what waits, as far as it takes it."""
        backlog, transport = self._backlog, self._transport
        if backlog is None or transport is None:
            return
        while backlog and not (backlog.is_paused or backlog.is_held):
            transport.write(backlog.take())
        if backlog.is_paused:
            return
        drained, backlog.drained = backlog.drained, []
        if not backlog.is_held:
            self._backlog = None
            self._is_writable = self._is_open
            self._limit_transport()
        for callback in drained:
            callback()

    def _empty_transport(self) -> None:
        """See to it that we hear when the transport holds nothing."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)  # which pauses us, if we are not
        else:
            asyncio.get_running_loop().call_soon(self._drain)

    def _limit_transport(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.set_write_buffer_limits(min(HIGH_WATER_BYTES, self.limits.slow_consumer_bytes), 0)
