"""A WebSocket through this worker: after the 101, two transports that write what they read to each other.

No frame is parsed, so every subprotocol and extension passes.  There is no task, no queue and no stream on this path:
each end is one small protocol object.  A full write buffer on one side stops reading on the other, an end of file on
one side becomes one on the other, and a reset becomes a reset.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import islice
from typing import Protocol, cast

from aiohttp.http import RawResponseMessage

from cluster.tcp_info import counted, unread, untaken
from lb.access import AccessLog, Asked
from lb.downstream import Downstream
from lb.errors import NodeFailed
from lb.exchange import Exchange, Sent
from lb.forward import Answer, Forwarder
from lb.headers import accept_key, switching_head, tokens, values
from lb.pool import Node
from lb.route import Choice

log = logging.getLogger(__name__)

STUCK_S = 120.0
"""How long a tunnel may rest that should not: one side has ended, or does not take what waits for it.

As long as TCP keep-alive takes to find a peer that is gone, which it cannot where bytes wait to be sent.
"""

_SWEEP_S = 10.0


class TunnelMetrics(Protocol):
    def tunnel_opened(self, node: str, seconds: float) -> None: ...

    def tunnel_closed(self, node: str, seconds: float, bytes_from_client: int, bytes_from_node: int) -> None: ...


class End(asyncio.BaseProtocol):
    """One end of a tunnel: what its transport reads goes to `out`, the other end's transport.

    The event loop calls `out.write` itself, since a function of ours in between that only counts the bytes adds
    4 % to a tunnel's whole cost.  The kernel counts them anyhow; where it does not tell, we do.
    `read` is what of this end's bytes was read already.
    """

    __slots__ = ("_before", "_read", "data_received", "ended", "lost", "out", "transport", "tunnel")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, out: asyncio.Transport, read: int) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.out = out
        self.ended = False
        self.lost = False
        self.data_received: Callable[[bytes], None] = out.write
        self._read = read
        sock = transport.get_extra_info("socket")
        # Of TLS the kernel knows only what is encrypted.
        brought = counted(sock) if transport.can_write_eof() else None
        # The node's FIN may have come with its 101.
        self._before = None if brought is None else brought.received(ended=False) - unread(sock) - read
        if brought is None:
            self.data_received = self._count_and_write

    @property
    def received(self) -> int:
        """How many bytes were read at this end."""
        if self._before is None or self.lost:
            return self._read
        sock = self.transport.get_extra_info("socket")
        brought = counted(sock)
        assert brought is not None  # it told before, and the socket is open until the end is lost
        return brought.received(ended=self.ended) - self._before - unread(sock)

    @property
    def waiting(self) -> int:
        """How many bytes wait to be taken by this end's peer."""
        if self.lost:
            return 0
        size = self.transport.get_write_buffer_size()
        # TLS hides what it has encrypted already; only the kernel shows whether any of that is taken.
        return size if self.transport.can_write_eof() else size + untaken(self.transport.get_extra_info("socket"))

    def _count_and_write(self, data: bytes) -> None:
        self._read += len(data)
        self.out.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        self.tunnel.first_to_end(self)
        if self.tunnel.client.ended and self.tunnel.node_end.ended:
            self.out.close()
            return False
        if not self.out.is_closing():
            if self.out.can_write_eof() and self.transport.can_write_eof():
                self.out.write_eof()
            else:
                self.out.close()  # asyncio cannot end one direction of TLS: the end of one is that of both
        return self.transport.can_write_eof()

    def pause_writing(self) -> None:
        self.out.pause_reading()

    def resume_writing(self) -> None:
        if not self.out.is_closing():
            self.out.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._read = self.received  # while there still is a socket to ask
        self.lost = True
        self.tunnel.first_to_end(self)
        del self.data_received  # it may refer back to us: without the cycle we are freed at once
        if exc is None:
            self.out.close()
        else:
            self.out.abort()
        self.tunnel.lost()


class Tunnel:
    """Two ends, from the 101 until both are gone."""

    __slots__ = (
        "address",
        "asked",
        "client",
        "ended_by",
        "head_size",
        "node",
        "node_end",
        "opened_at",
        "owner",
        "quiet_since",
        "seen",
    )

    def __init__(self, owner: Tunnels, address: str, node: Node, now: float, asked: Asked | None) -> None:
        self.owner = owner
        self.asked = asked
        self.ended_by = ""
        self.head_size = 0
        """Bytes of the 101 that went to the client."""
        self.address = address
        self.node = node
        self.client: End
        self.node_end: End
        self.opened_at = self.quiet_since = now
        self.seen = 0

    def first_to_end(self, end: End) -> None:
        """Remember which side ended its connection first: the other one only follows."""
        self.ended_by = self.ended_by or ("client" if end is self.client else "node")

    def lost(self) -> None:
        if self.client.lost and self.node_end.lost:
            self.owner.closed(self)

    def is_overdue(self, now: float, idle_s: float) -> bool:
        """Tell whether it has been quiet for too long; asked at every sweep, which is how it knows."""
        ends = (self.client, self.node_end)
        waiting = sum(end.waiting for end in ends)
        is_stuck = waiting > 0 or any(end.ended or end.lost for end in ends)
        limit_s = min(idle_s or STUCK_S, STUCK_S) if is_stuck else idle_s
        if not limit_s:
            self.quiet_since = now
            return False
        delivered = sum(end.received for end in ends) - waiting
        if delivered != self.seen:
            self.seen, self.quiet_since = delivered, now
            return False
        return now - self.quiet_since >= limit_s

    def close(self) -> None:
        """End both sides once what they were sent is out."""
        self.ended_by = self.ended_by or "balancer"
        self.client.transport.close()
        self.node_end.transport.close()

    def abort(self) -> None:
        """End both sides at once."""
        self.ended_by = self.ended_by or "balancer"
        self.client.transport.abort()
        self.node_end.transport.abort()


class Tunnels:
    """Opens tunnels and keeps account of them.  `left` gets a client's address when its place is free again."""

    def __init__(
        self,
        forwarder: Forwarder,
        metrics: TunnelMetrics,
        left: Callable[[str], None],
        idle_s: float,
        access: AccessLog,
    ) -> None:
        self._forwarder = forwarder
        self._access = access
        self._metrics = metrics
        self._left = left
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._open: set[Tunnel] = set()
        self._sweep_s = min(_SWEEP_S, idle_s / 4) if idle_s else _SWEEP_S
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, exchange: Exchange, first: Choice | None = None) -> Sent:
        """Ask a node for the upgrade, `first` before others; on its 101 tunnel, else relay its answer.

        Raises BalancerError.
        """
        async with self._forwarder.asked(exchange, websocket=True, first=first) as answer:
            if answer.status != 101:
                return await self._forwarder.relay(exchange, answer)
            _check(exchange, answer.message)
            self._switch(exchange, answer)
            return Sent(keep_alive=False, status=101)

    def closed(self, tunnel: Tunnel) -> None:
        """Strike a tunnel of which both ends are gone off the account."""
        self._open.discard(tunnel)
        tunnel.node.tunnels -= 1
        seconds, name = self._loop.time() - tunnel.opened_at, tunnel.node.name
        sizes = (tunnel.client.received, tunnel.node_end.received)
        self._metrics.tunnel_closed(name, seconds, *sizes)
        if tunnel.asked is not None:
            shown = (sizes[0], tunnel.head_size + sizes[1])
            self._access.tunnel_closed(tunnel.asked, name, seconds, shown, tunnel.ended_by)
        # Without the cycle both ends are freed at once, however many go together.
        del tunnel.client, tunnel.node_end
        self._left(tunnel.address)

    def close(self) -> None:
        """End all tunnels: without reading frames, no close frame can be told from the middle of another."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for tunnel in list(self._open):
            tunnel.close()

    def close_some(self, node: Node, count: int) -> int:
        """End up to `count` of the tunnels to `node`; return how many."""
        some = list(islice((tunnel for tunnel in self._open if tunnel.node is node and not tunnel.ended_by), count))
        for tunnel in some:
            tunnel.close()
        return len(some)

    def abort(self) -> None:
        """End at once those that `close` has not ended."""
        for tunnel in list(self._open):
            tunnel.abort()

    def _switch(self, exchange: Exchange, answer: Answer) -> None:
        node = answer.choice.node
        cookie = exchange.cookie_for(node.name) if answer.choice.stick else None
        message = answer.message
        head = switching_head(message.reason, message.raw_headers, cookie)
        connection = cast(Downstream, exchange.request.protocol)
        is_full = connection.writing_paused
        upstream, tail = answer.link.detach()
        client, early = connection.detach()
        if upstream is None or upstream.is_closing():
            # The node said 101, perhaps more, and closed: so does the client's connection, behind what it said.
            client.write(head + tail)
            client.close()
            self._left(connection.peer)
            return
        tunnel = Tunnel(self, connection.peer, node, self._loop.time(), exchange.asked)
        tunnel.head_size = len(head)
        tunnel.client = End(tunnel, client, upstream, len(early))
        tunnel.node_end = End(tunnel, upstream, client, len(tail))
        self._account(tunnel, time.monotonic() - exchange.began)
        client.set_protocol(tunnel.client)
        upstream.set_protocol(tunnel.node_end)
        # aiohttp may have stopped either while it waited.
        client.resume_reading()
        upstream.resume_reading()
        if is_full:
            # An earlier answer is still going out: the new protocol will hear of its end, but was not told of it.
            upstream.pause_reading()
        client.write(head + tail)
        if early:
            upstream.write(early)

    def _account(self, tunnel: Tunnel, seconds: float) -> None:
        self._open.add(tunnel)
        tunnel.node.tunnels += 1
        tunnel.node.landed()
        self._metrics.tunnel_opened(tunnel.node.name, seconds)
        if tunnel.asked is not None:
            self._access.opened(tunnel.asked, tunnel.node.name, "tunnel", seconds)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        for tunnel in list(self._open):
            if tunnel.is_overdue(now, self._idle_s):
                log.info("tunnel cut: too quiet", extra={"node": tunnel.node.name})
                tunnel.abort()
        self._sweeper = self._loop.call_later(self._sweep_s, self._sweep) if self._open else None


def _check(exchange: Exchange, message: RawResponseMessage) -> None:
    """Raise NodeFailed unless the 101 answers this very request (RFC 6455 4.1)."""
    keys = values(exchange.headers, b"sec-websocket-key")
    headers = message.raw_headers
    switches = b"websocket" in tokens(headers, b"upgrade") and b"upgrade" in tokens(headers, b"connection")
    if not switches or message.version < (1, 1) or len(keys) != 1:
        raise NodeFailed("switched to something else than a WebSocket")
    accepts = values(headers, b"sec-websocket-accept")
    if [accept.strip() for accept in accepts] != [accept_key(keys[0])]:
        raise NodeFailed("its Sec-WebSocket-Accept does not answer the client's key")
