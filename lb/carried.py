"""One WebSocket that a tunnel carries: two ends, each of which writes what it reads to the other.

There is no task, no queue and no stream on this path: each end is one small protocol object.  A full write buffer on
one side stops reading on the other, an end of file on one side becomes one on the other, and a reset becomes a reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from cluster.tcp_info import counted, unread, untaken
from lb.access import Asked
from lb.last_frame import MOST_BYTES, close_code
from lb.pool import Node

STUCK_S = 120.0
"""How long a tunnel may rest that should not: one side has ended, or does not take what waits for it.

As long as TCP keep-alive takes to find a peer that is gone, which it cannot where bytes wait to be sent.
"""


class Owner(Protocol):
    def closed(self, tunnel: Tunnel) -> None:
        """Both ends of `tunnel` are gone."""


class End(asyncio.BaseProtocol):
    """One end of a tunnel: what its transport reads goes to `out`, the other end's transport.

    The event loop calls `out.write` itself, since a function of ours in between that only counts the bytes adds
    4 % to a tunnel's whole cost.  The kernel counts them anyhow; where it does not tell, we do, and where an access log
    wants the close code, we remember what came last.
    `read` is what of this end's bytes was read already.
    """

    __slots__ = ("_before", "_read", "data_received", "ended", "last", "lost", "out", "transport", "tunnel")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, out: asyncio.Transport, read: bytes) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.out = out
        self.ended = False
        self.lost = False
        self.data_received: Callable[[bytes], None] = out.write
        self._read = len(read)
        self.last = read if tunnel.asked is not None and len(read) <= MOST_BYTES else b""
        """What was read last, if there is an access log that wants to know, and if it is short."""
        sock = transport.get_extra_info("socket")
        # Of TLS the kernel knows only what is encrypted.
        brought = counted(sock) if transport.can_write_eof() else None
        # The node's FIN may have come with its 101.
        self._before = None if brought is None else brought.received(ended=False) - unread(sock) - len(read)
        if brought is None or tunnel.asked is not None:
            self.data_received = self._watch

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

    def _watch(self, data: bytes) -> None:
        self._read += len(data)
        self.last = data if len(data) <= MOST_BYTES else b""
        self.tunnel.client_was_last = self is self.tunnel.client
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
        "client_was_last",
        "ended_by",
        "head_size",
        "node",
        "node_end",
        "opened_at",
        "owner",
        "quiet_since",
        "seen",
    )

    def __init__(self, owner: Owner, address: str, node: Node, now: float, asked: Asked | None) -> None:
        self.owner = owner
        self.asked = asked
        self.ended_by = ""
        self.client_was_last = False
        """Whether it was the client who said something last, if that is watched."""
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

    def close_seen(self) -> tuple[int, str] | tuple[None, str]:
        """Return the code of the first close frame and who sent it; without one, who ended its connection first."""
        clients = close_code(self.client.last, masked=True)
        nodes = close_code(self.node_end.last, masked=False)
        # The second of two close frames answers the first (RFC 6455 5.5.1), and is the last that anybody says.
        if clients is not None and (nodes is None or not self.client_was_last):
            return clients, "client"
        if nodes is not None:
            return nodes, "node"
        return None, self.ended_by

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
