"""A client's connection for as long as all that it asks is plain: no task, no queue, no stream.

This is what most HTTP is.  For anything else, and for all that goes wrong, the connection becomes a Downstream
(lb/downstream.py), until it has answered that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import cast

from cluster.trace import PARENT
from lb import plain
from lb.access import Asked
from lb.affinity import Client
from lb.arrived import Arrived
from lb.begun import Begun
from lb.deadline import Deadline
from lb.downstream import Downstream
from lb.errors import BalancerError
from lb.exchange import SAFE, abort
from lb.farewell import close_idle
from lb.fields import Fields, Reader
from lb.headers import Headers
from lb.luggage import divide
from lb.pool import Node
from lb.route import By, Choice
from lb.trip import Trip
from lb.yard import Expiring, Yard

log = logging.getLogger(__name__)

MOST_HELD_BYTES = 64 * 1024
"""What a client may send ahead, while it is being answered, before we stop reading."""

MOST_PIECES = 16
"""In which a head may come before a parser reads it that need not begin anew with each."""

A_MOMENT_S = 0.001
"""What is left of a time that is over: 0 means that there is none."""


class Shuttle(asyncio.Protocol):
    """One client's connection.  Its place in the admission is given back when it ends."""

    __slots__ = (
        "_arrived",
        "_at",
        "_came",
        "_deadline",
        "_is_first",
        "_is_full",
        "_is_held",
        "_loop",
        "_passed",
        "_pending",
        "_pieces",
        "_reader",
        "_request",
        "_trip",
        "number",
        "transport",
        "yard",
    )

    transport: asyncio.Transport

    def __init__(self, yard: Yard, number: int, arrived: Arrived) -> None:
        self.yard = yard
        self.number = number
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(yard, arrived.peer)
        self._pending = b""
        """What came and is not being answered yet."""
        self._pieces = 0
        """In which that came, while it is a head that has not ended."""
        self._request = b""
        """What is being answered."""
        self._at = arrived.at
        """When that came, in monotonic seconds."""
        self._trip: Trip | None = None
        self._passed = False
        """Whether the request that we are at has passed the guards."""
        self._came = False
        """Whether there has been a connection."""
        self._is_first = True
        """Whether no request has begun yet."""
        self._is_full = False
        """Whether the client has yet to take much of what was written."""
        self._is_held = False
        """Whether we have stopped reading."""
        self._deadline = Deadline(self._expired)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._came = True
        self.yard.shuttles.add(self)
        self._deadline.within(self.yard.limits.head_timeout_s)
        if received := self._arrived.received:
            self._arrived = replace(self._arrived, received=b"")
            self._look_at(received)

    def resume(self, transport: asyncio.Transport, *, is_full: bool) -> None:
        """Serve a client that was served before and has not sent its next request.

        `is_full`: its last answer is still on its way.
        """
        self.transport = transport
        self._came = True
        self._is_first = False
        self._is_full = is_full
        self.yard.shuttles.add(self)
        transport.set_protocol(self)
        transport.resume_reading()
        self._deadline.within(self.yard.limits.idle_timeout_s)

    def data_received(self, data: bytes) -> None:
        if self._trip is not None or self._is_full:
            self._load(data)
            return
        if self._pending:
            data = self._pending + data
        else:
            self._at = time.monotonic()
        self._look_at(data)

    def _load(self, data: bytes) -> None:
        """Take `data` for more of the body that is under way, and what is behind that, or all, for later."""
        trip = self._trip
        if trip is not None and trip.is_loading:
            data = trip.load(data)
        if data:
            self._hold(data)

    def _hold(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) > MOST_HELD_BYTES and not self._is_held:
            self._is_held = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        # As most proxies take it: a client that sends its FIN has gone.  For a long poll of a browser whose tab was
        # closed it is the only sign, and presence hangs on it.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        trip, self._trip = self._trip, None
        if trip is not None:
            trip.leave()
        self._forget()
        self.yard.admission.leave(self._arrived.peer)

    def pause_writing(self) -> None:
        self._is_full = True
        if self._trip is not None:
            self._trip.pause()
        self._deadline.within(self.yard.limits.idle_timeout_s)

    def resume_writing(self) -> None:
        self._is_full = False
        if self._trip is not None:
            self._trip.resume()
            self.streams()
        else:
            self._next()

    def node_died(self, node: Node) -> None:
        """`node` was found dead."""
        if self._trip is not None:
            self._trip.node_died(node)

    def end_if_idle(self, *, patiently: bool = True) -> None:
        """End the connection unless a request is being answered, or has come.

        If `patiently`, a TLS connection that has just come gets a moment: its first request may be on its way.
        """
        if self in self.yard.shuttles and self._trip is None and not self._pending:
            again = partial(self.end_if_idle, patiently=False) if patiently and self._is_first else None
            close_idle(self.transport, self.transport.close, again)

    @property
    def never_came(self) -> bool:
        """Whether its connection was lost before there was one."""
        return not self._came

    def end(self) -> None:
        """End the connection, whatever goes on on it."""
        if self._trip is not None and self._trip.is_answered:
            abort(self.transport)  # what has come is not to be taken for the whole answer
        else:
            self.transport.close()

    def waits(self) -> None:
        self._read_on()
        self._deadline.within(self.yard.limits.answer_timeout_s)

    def brings(self, within_s: float) -> None:
        self._request = b""
        self._read_on()
        self._deadline.within(max(within_s, A_MOMENT_S))
        if self._pending:  # it came before there was a connection to the node
            pending, self._pending = self._pending, b""
            self._load(pending)

    def holds(self) -> None:
        self._request = b""
        self._deadline.within(0)
        if not self._is_held:
            self._is_held = True
            self.transport.pause_reading()

    def streams(self) -> None:
        self._deadline.within(self.yard.limits.idle_timeout_s if self._is_full else 0)

    def arrived(self, *, close: bool) -> None:
        self._trip = None
        self._request = b""
        if close:
            self.transport.close()
        elif not self.transport.is_closing():
            self._deadline.within(self.yard.limits.idle_timeout_s)
            self._next()

    def cut(self) -> None:
        self._trip = None
        abort(self.transport)

    def long_way(self, begun: Begun | None, request: bytes = b"") -> None:
        self._trip = None
        self._request = request or self._request
        self._go_long(begun)

    def _next(self) -> None:
        """Look at what came meanwhile."""
        self._read_on()
        if self._pending and not self._is_full and not self.transport.is_closing():
            pending, self._pending = self._pending, b""
            self._at = time.monotonic()
            self._look_at(pending)

    def _read_on(self) -> None:
        # Not before most of it is done: each look at the socket may bring as much again, for one answer of a few bytes.
        if self._is_held and len(self._pending) <= MOST_HELD_BYTES:
            self._is_held = False
            self.transport.resume_reading()

    def _look_at(self, data: bytes) -> None:
        """Begin with the request in `data`, one way or the other, or wait for more of its head."""
        end = data.find(b"\r\n\r\n")
        if end < 0 and self._pieces < MOST_PIECES and plain.is_beginning(data):
            if not self._pending and not self._is_first:
                self._deadline.within(self.yard.limits.head_timeout_s)
            self._pieces += 1
            self._pending = data
            return
        self._request, self._pending, self._passed, self._pieces = data, b"", False, 0
        if end < 0 or end > plain.MOST_HEAD_BYTES or not self._departs(data, end):
            self._go_long()

    def _departs(self, data: bytes, end: int) -> bool:
        try:
            return self._depart(data, end)
        except Exception:
            # A fault of ours must not take the client along.  The long way answers, if only with a 500.
            log.exception("plain exchange failed", extra={"conn": self.number})
            self._trip = None
            return False

    def _depart(self, data: bytes, end: int) -> bool:
        """Begin a trip for the request in `data`, whose head ends at `end`; return False if it is not plain."""
        line_end = data.find(b"\r\n")
        line = plain.request_line(data[:line_end])
        fields = self._reader.read(data[line_end + 2 : end])
        if line is None or fields is None or not plain.may_have_body(line[0], fields.length, fields.chunked):
            return False
        divided = divide(data, end + 4, fields.length, chunked=fields.chunked, limits=self.yard.guards.body)
        if divided is None:
            return False
        body, size, luggage, behind = divided
        self._is_first = False
        if behind:
            self._request, self._pending = data[: -len(behind)], behind
        method, path = line[0].decode("ascii"), line[1].decode("ascii")
        client = self.yard.recogniser.client(path, fields.slot, fields.address)
        choice = self._choose(method, path, fields.headers, client, size)
        if choice is None:
            return False
        trace = self.yard.trace() if fields.untraced else b""
        trip = self._trip = Trip(
            self,
            choice,
            self._at,
            is_head=method == "HEAD",
            size=size or 0,
            luggage=luggage,
            may_move=method in SAFE and not client.sid,
        )
        trip.begin(
            b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (*line, fields.onward, _traceparent(trace), body),
            self._asked(method, path, fields, trace) if self.yard.access.is_on else None,
        )
        return True

    def _asked(self, method: str, path: str, fields: Fields, trace: bytes) -> Asked:
        via = self.yard.via(self._arrived.peer, trace)
        return self.yard.access.asked(method, path, fields.headers, via)

    def _choose(self, method: str, path: str, headers: Headers, client: Client, body: int | None) -> Choice | None:
        """Return the node for a request of `client`; None: it is refused, or there is no node, or not now."""
        yard = self.yard
        try:
            yard.guards.check(method, path, headers, client, body)
            self._passed = True
            if client.begins:
                return yard.turnstile.pass_now(client)
            choice = yard.turnstile.router.route(yard.pool, client)
        except BalancerError:
            return None
        if choice.by is By.POLICY:
            choice.node.placed += 1
        return choice

    def _go_long(self, begun: Begun | None = None) -> Expiring:
        """Let a Downstream serve the client, beginning with the request that we were at."""
        self._forget()
        if self._is_held:
            self.transport.resume_reading()
        received = self._request + self._pending
        arrived = replace(self._arrived, received=received, at=self._at, begun=begun, passed=self._passed)
        return self.yard.long_way(arrived, self.transport, self.number, is_full=self._is_full)

    def _forget(self) -> None:
        self.yard.shuttles.discard(self)
        self._deadline.cancel()

    def _expired(self) -> None:
        trip = self._trip
        if trip is not None:
            if trip.is_answered:
                trip.stalled()
            else:
                trip.expired()
        elif self._is_full:
            self.transport.abort()  # it has not taken its last answer
        elif self._pending:
            self._request, self._passed = b"", False
            self._go_long().expire_head()
        else:
            self.transport.close()


def _traceparent(trace: bytes) -> bytes:
    return b"%b: %b\r\n" % (PARENT, trace) if trace else b""


def take_over(connection: Downstream, yard: Yard) -> None:
    """Let a client whose request was answered the long way go the short one with its next request."""
    is_full = connection.writing_paused
    transport, _ = connection.detach()
    arrived = Arrived(transport.get_extra_info("socket"), connection.peer, b"")
    Shuttle(yard, connection.number, arrived).resume(transport, is_full=is_full)
