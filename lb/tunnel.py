"""A WebSocket through this worker: after the 101, two transports that write what they read to each other.

No frame is parsed, so every subprotocol and extension passes.  lb/carried.py has what there is of each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import islice
from typing import Protocol, cast

from aiohttp.http import RawResponseMessage

from lb.access import AccessLog
from lb.carried import End, Tunnel
from lb.downstream import Downstream
from lb.errors import NodeFailed
from lb.exchange import Exchange, Sent
from lb.forward import Answer, Forwarder
from lb.headers import accept_key, switching_head, tokens, values
from lb.pool import Node
from lb.route import Choice

log = logging.getLogger(__name__)

_SWEEP_S = 10.0


class TunnelMetrics(Protocol):
    def tunnel_opened(self, node: str, seconds: float) -> None: ...

    def tunnel_closed(self, node: str, seconds: float, bytes_from_client: int, bytes_from_node: int) -> None: ...


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
                sent = await self._forwarder.relay(exchange, answer)
            else:
                try:
                    _check(exchange, answer.message)
                except NodeFailed as exc:
                    self._forwarder.judge(answer, str(exc))
                    raise
                self._switch(exchange, answer)
                sent = Sent(keep_alive=False, status=101)
            self._forwarder.judge(answer)
            return sent

    def closed(self, tunnel: Tunnel) -> None:
        """Strike a tunnel of which both ends are gone off the account."""
        self._open.discard(tunnel)
        tunnel.node.tunnels -= 1
        seconds, name = self._loop.time() - tunnel.opened_at, tunnel.node.name
        sizes = (tunnel.client.received, tunnel.node_end.received)
        self._metrics.tunnel_closed(name, seconds, *sizes)
        if tunnel.asked is not None:
            shown = (sizes[0], tunnel.head_size + sizes[1])
            self._access.tunnel_closed(tunnel.asked, name, seconds, shown, *tunnel.close_seen())
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
        tunnel.client = End(tunnel, client, upstream, early)
        tunnel.node_end = End(tunnel, upstream, client, tail)
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
