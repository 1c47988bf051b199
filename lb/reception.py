"""Accepted connections become served ones: TLS, where it is spoken, then HTTP."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from itertools import count

from lb.arrived import Arrived
from lb.downstream import Downstream
from lb.downstreams import Downstreams
from lb.errors import PlainHttp
from lb.shuttle import Shuttle
from lb.tls import Tls
from lb.yard import Leaving, Yard

log = logging.getLogger(__name__)

HANDSHAKES_AT_ONCE = 4
"""TLS handshakes begun before everything else gets its turn: each may take a millisecond of computing (RSA)."""

LEAST_HANDSHAKE_S = 1.0
"""What is left for a handshake at least, however long its client took to begin one."""

SHUTDOWN_S = 30.0
"""How long a TLS connection that we close may take to send what waits, and to hear that its peer closes as well."""

BUFFER_BYTES = 64 * 1024
"""What may wait for the client of a TLS connection before we stop to write; asyncio allows eight times that."""


class Reception:
    """Receives connections; with `tls`, those that are not to be refused speak it first.

    Each goes the short way (`yard`) as long as it can, but for those whose first request cannot, as somebody has seen.
    Without a `yard` all go the long way.
    """

    def __init__(self, downstreams: Downstreams, yard: Yard | None, tls: Tls | None = None) -> None:
        self._downstreams = downstreams
        self._yard = yard
        self._limits = downstreams.limits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._queue: deque[Arrived] = deque()
        self._receiving: set[asyncio.Task[None]] = set()
        self.is_stopping = self._is_over = False

    def receive(self, arrived: Arrived) -> None:
        """Serve `arrived`, or tell it why not."""
        if self._is_over:
            self._let_go(arrived)
        elif self._tls is None or isinstance(arrived.refusal, PlainHttp):
            self._begin(arrived)
        elif arrived.refusal is not None:
            # No answer could be read without a handshake, which is what costs.
            self._limits.refused(arrived.peer, arrived.refusal)
            arrived.sock.close()
        else:
            self._queue.append(arrived)
            if len(self._queue) == 1:
                self._loop.call_soon(self._begin_some)

    async def wind_down(self) -> None:
        """End connections on which nothing goes on, and those that still come as soon as that shows."""
        self.is_stopping = True
        if self._receiving and self._tls is None:
            await asyncio.wait(self._receiving)  # no handshake: they are there at once
        for connection in self.connections:
            connection.end_if_idle()

    def shut(self) -> None:
        """Let nobody in any more."""
        self._is_over = True
        while self._queue:
            self._let_go(self._queue.popleft())
        for task in self._receiving:
            task.cancel()

    def end(self) -> None:
        """End all connections."""
        for connection in self.connections:
            connection.end()

    @property
    def connections(self) -> list[Leaving]:
        return [*self._downstreams.open, *(self._yard.shuttles if self._yard is not None else ())]

    def _made(self, number: int, arrived: Arrived) -> Downstream | Shuttle:
        # What passed the guards before it got here is an upgrade that could not go the short way.
        if self._yard is None or arrived.refusal is not None or arrived.passed:
            return self._downstreams.made(number, arrived)
        return Shuttle(self._yard, number, arrived)

    def _begin_some(self) -> None:
        for _ in range(min(HANDSHAKES_AT_ONCE, len(self._queue))):
            self._begin(self._queue.popleft())
        if self._queue:
            self._loop.call_soon(self._begin_some)

    def _begin(self, arrived: Arrived) -> None:
        task = self._loop.create_task(self._received(arrived))
        self._receiving.add(task)
        task.add_done_callback(self._receiving.discard)

    async def _received(self, arrived: Arrived) -> None:
        arrived.sock.setblocking(False)
        number = next(self._numbers)
        connection = self._made(number, arrived)
        try:
            if self._tls is None or arrived.refusal is not None:
                await self._loop.connect_accepted_socket(lambda: connection, arrived.sock)
            else:
                await self._secured(self._tls, connection, arrived)
        except OSError as exc:
            log.debug("connection lost as it came", extra={"conn": number, "reason": exc.strerror or str(exc)})
            self._let_go(arrived)
        except asyncio.CancelledError:
            self._let_go(arrived)
            raise

    async def _secured(self, tls: Tls, connection: Downstream | Shuttle, arrived: Arrived) -> None:
        left_s = self._limits.head_timeout_s + arrived.at - time.monotonic()
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: connection,
                arrived.sock,
                ssl=tls.context(arrived.name),
                ssl_handshake_timeout=max(LEAST_HANDSHAKE_S, left_s),
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except OSError as exc:
            late = isinstance(exc, ConnectionAbortedError)
            self._limits.rejected("tls_timeout" if late else "tls_failed")
            reason = "not done in time" if late else (isinstance(exc, ssl.SSLError) and exc.reason) or "the client went"
            log.info("TLS handshake failed", extra={"conn": connection.number, "peer": arrived.peer, "reason": reason})
            raise
        if connection.never_came:
            raise ConnectionAbortedError("ended in the handshake")
        transport.set_write_buffer_limits(BUFFER_BYTES)
        tls.handshaken(transport.get_extra_info("ssl_object").session_reused)
        if self.is_stopping:
            connection.end_if_idle()

    def _let_go(self, arrived: Arrived) -> None:
        arrived.sock.close()
        if arrived.refusal is None:
            self._limits.admission.leave(arrived.peer)
