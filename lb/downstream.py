"""One connection of a client: aiohttp's request handler, with the limits that it lacks.

aiohttp times only idle connections.  Here a head has limits of its own (lb/head_watch.py), and a connection can be
taken out of aiohttp's hands, whole, when it becomes a tunnel.

The private names of `RequestHandler` that this touches are listed in tests/lb/test_contracts_aiohttp.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web import BaseRequest, RequestHandler, RequestPayloadError, StreamResponse
from aiohttp.web import Server as AiohttpServer

from lb.access import AccessLog
from lb.arrived import Arrived
from lb.errors import BadRequest, BalancerError, HeadTooLarge, answer_to
from lb.exchange import Sent, abort
from lb.farewell import close_gently, close_idle
from lb.guards import HeadLimits
from lb.head_ends import HEAD_END, HeadEnds
from lb.head_watch import HeadWatch
from lb.headers import is_websocket_upgrade
from lb.limits import Admission
from lb.prepared import Prepared

log = logging.getLogger(__name__)

MOST_PASSED_OVER = 256 * 1024
"""Bytes of a client that was refused and goes on sending."""

TOO_MANY_HEADERS = "Too many headers received"
"""What aiohttp's parser says then, see tests/lb/test_contracts_aiohttp.py."""


@dataclass(frozen=True)
class DownstreamLimits:
    """What every connection of a client is measured by."""

    admission: Admission
    head: HeadLimits
    head_timeout_s: float
    idle_timeout_s: float
    rejected: Callable[[str], None]
    access: AccessLog

    def refused(self, peer: str, why: BalancerError) -> None:
        """Count and log a client that is not let in."""
        self.rejected(why.counted_as)
        if self.access.is_on:
            self.access.refused(peer, why.http_status, str(why))


class Downstream(RequestHandler):
    """One client's connection, from accept to its end or to its detachment."""

    __slots__ = (
        "_admitted",
        "_ends",
        "_ends_plainly",
        "_head",
        "_last_payload",
        "_limits",
        "_lingers",
        "_passed_over",
        "_received",
        "_refusal",
        "number",
        "peer",
        "prepared",
    )

    def __init__(self, server: AiohttpServer, limits: DownstreamLimits, number: int, arrived: Arrived) -> None:
        """Serve a client that has `arrived`, or tell it why not."""
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle_timeout_s,
            tcp_keepalive=False,  # inherited from the listening socket
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            max_line_size=limits.head.line_bytes,
            max_field_size=limits.head.line_bytes,
            max_headers=limits.head.fields,
        )
        self.number = number
        self.peer = arrived.peer
        """The address at the other end, or the client's whom a proxy speaks for (lb/arrivals.py)."""
        self.prepared = Prepared(arrived)
        self._limits = limits
        self._received = arrived.received
        self._refusal = arrived.refusal
        self._admitted = arrived.refusal is None
        self._lingers = False
        self._passed_over = 0
        self._head = HeadWatch(limits.head, limits.head_timeout_s, self._give_up)
        self._ends = HeadEnds()
        self._ends_plainly = False
        self._last_payload: StreamReader = EMPTY_PAYLOAD

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._refusal is not None:
            self._refuse(cast(asyncio.Transport, transport), self._refusal)
            return
        super().connection_made(transport)
        self._head.start()
        # Before the transport reads: what was read before it was there comes first.
        received, self._received = self._received, b""
        if received:
            self.data_received(received)
        if not self._messages:
            self.prepared.comes_later()

    def data_received(self, data: bytes) -> None:
        if self._force_close:
            self._pass_over(len(data))
            return
        if self._buffer_paused and data and self.transport is not None and not self.transport.is_closing():
            # aiohttp stopped reading before the transport had begun to, in `connection_made`: uvloop forgets that, and
            # a client that sends ahead would fill our memory.
            self.transport.pause_reading()
        # One head at a time: aiohttp loses what it reads in one go with something that is no HTTP, or that comes behind
        # a request which ends the connection (RFC 9112 9.6), and the good request that came before with it.
        at, size = 0, len(data)
        while True:
            end = self._head_end(data, at)
            self._read(data[at:end])
            if end == size:
                return
            at = end

    def _head_end(self, data: bytes, at: int) -> int:
        """Return where the head ends that goes on at `at`; the end of `data`, if nobody knows or wants to."""
        if self._upgraded or self._buffer_paused or not self._last_payload.is_eof():
            return len(data)
        return self._ends.find(data, at)

    def _read(self, data: bytes) -> None:
        if self._force_close:
            return
        heads, in_body = self._request_count, not self._last_payload.is_eof()
        super().data_received(data)
        self._ends_plainly = self._request_count == heads + 1 and data.endswith(HEAD_END)
        if self._request_count != heads:
            self._ends.found()
            self._head.ended()
            if in_body and not self._last_payload.is_eof():
                # The parser gave up in the middle of a body; aiohttp would tell only whoever reads the next request.
                self._last_payload.set_exception(RequestPayloadError("malformed"))
            self._last_payload = self._messages[-1][1]
            self._keep_aside()
        elif data and not in_body and not self._upgraded:
            self._ends.missed(data)
            self._head.came(len(data))

    def _pass_over(self, size: int) -> None:
        """Forget what a refused client still sends, and at last do not even read it."""
        self._passed_over += size
        if self._passed_over > MOST_PASSED_OVER and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _keep_aside(self) -> None:
        """Keep what comes behind `Upgrade: h2c, websocket`, too, as it came: aiohttp would lose it."""
        message, body = self._messages[-1]
        if isinstance(message, RawRequestMessage) and body is EMPTY_PAYLOAD and not self._upgraded:
            self._upgraded = is_websocket_upgrade(message.method, message.version, message.raw_headers)

    def stay_with_http(self) -> None:
        """Read what came behind a request for a WebSocket as HTTP: it was answered otherwise (RFC 9110 7.8)."""
        if self._upgraded and not self._messages and self._parser is not None:
            self._upgraded = False
            self._parser.set_upgraded(False)
            tail, self._message_tail = self._message_tail, b""
            if tail:
                self.data_received(tail)
            if self._buffer_paused:
                self._resume_reading_if_drained()

    def end(self) -> None:
        """End the connection, whatever goes on on it."""
        if self._task_handler is not None:
            self._task_handler.cancel()
        self.force_close()

    def expire_head(self) -> None:
        """Wait no longer for the rest of a head, which was awaited before we were here."""
        self._head.expire()

    def expect_no_more(self, within_s: float = 0.0) -> None:
        """Read the rest of a body for no longer than that, when the connection ends with an answer."""
        self._lingering_time = within_s

    def end_if_idle(self, *, patiently: bool = True) -> None:
        """End the connection unless a request is being answered, or was read and waits for its turn.

        If `patiently`, a TLS connection that has just come gets a moment: its first request may be on its way.
        """
        if not self._request_in_progress and not self._messages:
            again = partial(self.end_if_idle, patiently=False) if patiently and not self._request_count else None
            close_idle(self.transport, self.force_close, again)

    @property
    def never_came(self) -> bool:
        """Whether its connection was lost before there was one."""
        return self.transport is None and self._admitted

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head.cancel()
        self.prepared.give_up()
        super().connection_lost(exc)
        if self._admitted:
            self._admitted = False
            self._limits.admission.leave(self.peer)
        if self._lingers:
            self._lingers = False
            self._limits.admission.gone()

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Take the connection out of aiohttp's hands: its transport, and what came behind the last request.

        Its place in the admission goes with it.  The request's handler may only return after this.
        """
        assert self.transport is not None
        transport, self.transport = self.transport, None
        early, self._message_tail = self._message_tail, b""
        self._admitted = False
        # What follows is the end of the connection in aiohttp's eyes, except that our own task shall go on.
        self._task_handler = None
        self.connection_lost(None)
        return transport, early

    def leave_readable(self, *, more_comes: bool = False) -> None:
        """Take care that the last answer can be read, if more came than is answered, or comes.

        To close over bytes that nobody has read resets a connection, and what is not read yet is lost (RFC 9112 9.6).
        """
        if (self._messages or more_comes) and self.is_quiet:
            assert self.transport is not None
            self._let_read(self.transport)

    @property
    def is_between_requests(self) -> bool:
        """Whether it is certain that of the next request nothing has come: the last one had no body, and ended what
        was read last."""
        ends = self._ends_plainly and self._last_payload is EMPTY_PAYLOAD
        return ends and not self._messages and not self._upgraded

    @property
    def is_quiet(self) -> bool:
        """Whether the client is there, and everything that was written to it has left this process."""
        transport = self.transport
        return transport is not None and not transport.is_closing() and transport.get_write_buffer_size() == 0

    @property
    def ended_http(self) -> bool:
        """Whether what comes behind the last request is kept as it comes: it asked for another protocol."""
        return self._upgraded and not self._messages

    def hold(self) -> tuple[int, bytes]:
        """Stop reading; return the descriptor, and what came behind the last request."""
        assert self.transport is not None
        self.transport.pause_reading()
        return self.transport.get_extra_info("socket").fileno(), bytes(self._message_tail)

    def release(self) -> None:
        """Undo `hold`."""
        if self.transport is not None and not self.transport.is_closing() and not self._buffer_paused:
            self.transport.resume_reading()

    def give_away(self) -> None:
        """Let go of the connection, which somebody else has now: our copy of the descriptor closes, nothing is sent."""
        transport, _ = self.detach()
        transport.set_protocol(asyncio.Protocol())
        transport.abort()
        self._limits.admission.hand_over()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        """Answer what aiohttp could not read (400), or a fault of our own (500)."""
        problem: BalancerError
        if isinstance(exc, LineTooLong) or (status == 400 and message == TOO_MANY_HEADERS):
            problem = HeadTooLarge(message or "too long")
        elif status == 400:
            problem = BadRequest(message or "not HTTP")
        else:
            problem = BalancerError("internal error")
            log.error("request failed", extra={"conn": self.number}, exc_info=exc)
        if isinstance(problem, BadRequest):
            log.info("bad request", extra={"conn": self.number, "reason": str(problem).splitlines()[0]})
            self._limits.rejected(problem.counted_as)
        if self._limits.access.is_on:
            self._limits.access.refused(self.peer, problem.http_status, str(problem).splitlines()[0])
        if request.writer.output_size:
            self.end()  # part of an answer is out: what follows would be taken for the rest of it
        else:
            self._say(problem)
        return cast(StreamResponse, Sent(keep_alive=False, status=problem.http_status))

    def _say(self, problem: BalancerError) -> None:
        """Send the last thing that this client gets."""
        transport, is_quiet = self.transport, self.is_quiet
        if transport is None or transport.is_closing():
            return
        transport.write(answer_to(problem, close=True))
        if is_quiet:
            self._let_read(transport)
        else:
            transport.close()  # an answer before it may take its time

    def _refuse(self, transport: asyncio.Transport, why: BalancerError) -> None:
        self._limits.refused(self.peer, why)
        transport.write(answer_to(why, close=True))
        self._let_read(transport)

    def _let_read(self, transport: asyncio.Transport) -> None:
        """End the connection so that its client can read what it was told, for a moment, if not too many do."""
        self._force_close = True  # aiohttp ignores what still arrives
        if not transport.is_closing() and self._limits.admission.linger():
            self._lingers = True
            close_gently(transport)
        else:
            transport.close()

    def _give_up(self, problem: BalancerError | None) -> None:
        """End the connection in the middle of a head, and say why if that can be said."""
        if problem is None:
            # Who said nothing is told nothing: browsers open connections in advance, and would take a 408 for the
            # answer to their next request.
            self.force_close()
            return
        log.info("head given up", extra={"conn": self.number, "reason": str(problem)})
        self._limits.rejected(problem.counted_as)
        if self._request_in_progress or self._messages:
            # An answer is on its way: ours would be taken for a part of it, and a FIN perhaps for its end.
            if self.transport is not None:
                abort(self.transport)
            return
        if self._limits.access.is_on:
            self._limits.access.refused(self.peer, problem.http_status, str(problem))
        self._say(problem)

    def _process_keepalive(self) -> None:
        # A head that began just before the idle limit has its own.
        if not self._head.is_on:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None
