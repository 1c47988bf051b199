"""Connections to nodes: opened within a time limit, kept for reuse while they are certain to be alive.

aiohttp's response parser reads what a node answers; what is written, we write ourselves, so that the target and the
headers of a request arrive as the client sent them.  `aiohttp.client_proto.ResponseHandler` is not public API:
tests/lb/test_contracts_aiohttp.py names all that we expect of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from aiohttp import ClientError, ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from cluster.member import State
from lb.errors import OUR_LIMITS, NodeFailed, NodeUnreachable, OutOfResources
from lb.keepalive import keep_alive
from lb.pool import Node, Pool
from lb.route import Choice

log = logging.getLogger(__name__)

REUSE_WITHIN_S = 3.0
"""A connection is used again only if it was idle for less: servers close idle ones after 5 s (Node.js, uvicorn) or
more, and a request that crosses such a close is lost."""

READ_BUFFER_BYTES = 65_536
"""How much of a body waits here for the other side: at twice this we stop reading."""


TELL_EVERY_S = 60.0


class ConnectMetrics(Protocol):
    def connect_failed(self, node: str) -> None: ...


class Link:
    """One connection to one node, for one exchange at a time."""

    __slots__ = ("_body", "_handler", "address", "fault", "idle_since", "keep", "reused")

    def __init__(self, handler: ResponseHandler, address: tuple[str, int]) -> None:
        self._handler = handler
        self._body: StreamReader = EMPTY_PAYLOAD
        self.address = address
        self.fault = ""
        """Why we gave it up, if we did."""
        self.reused = False
        self.keep = False
        """Whether it may be used again: set when an exchange ended as it should."""
        self.idle_since = 0.0

    def expect(self, method: str) -> None:
        """Get ready to read the answer to a request with this method."""
        self._handler.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
        )

    def write(self, data: bytes) -> None:
        """Queue `data`; if the connection is gone, the answer will say so."""
        transport = self._handler.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def drained(self) -> None:
        """Wait until the node has taken enough of what was written.  Raises NodeFailed."""
        try:
            await self._handler._drain_helper()
        except ConnectionError as exc:
            raise NodeFailed(f"closed while it was being written to: {exc}") from None

    async def answer(self) -> tuple[RawResponseMessage, StreamReader]:
        """Return the next head, also a 1xx, and the body behind it.  Raises NodeFailed."""
        try:
            message, self._body = await self._handler.read()
        except (ClientError, HttpProcessingError, OSError) as exc:
            raise NodeFailed(f"no answer: {self.fault or exc or type(exc).__name__}") from None
        return message, self._body

    @property
    def is_reusable(self) -> bool:
        return self._handler.is_connected() and not self._handler.should_close

    @property
    def was_reset(self) -> bool:
        """Whether it ended with an error: a body that lasts until the connection ends is then cut short."""
        return isinstance(self._handler.exception(), OSError)

    def detach(self) -> tuple[asyncio.Transport | None, bytes]:
        """Give up the connection after a 101: the transport, None if the node closed it, and what came behind it."""
        handler = self._handler
        transport, handler.transport = handler.transport, None
        tail, handler._tail = handler._tail, b""
        handler._parser = None  # it refers back to the handler: without the cycle both are freed at once
        return transport, tail

    def close(self) -> None:
        """Close at once, whatever is still unsent; whoever reads the answer is told.  No-op once detached."""
        self._handler.abort()
        if not self._body.is_eof():  # aiohttp would leave its reader waiting
            self._body.set_exception(ClientPayloadError("the connection to the node was cut"))

    def give_up(self, fault: str) -> None:
        """Close at once; who waits for the answer is told of `fault`."""
        self.fault = fault
        self.close()


class Upstream:
    """All connections of this worker to nodes.  `close` ends those that wait for reuse."""

    def __init__(self, pool: Pool, metrics: ConnectMetrics, connect_timeout_s: float) -> None:
        self._pool = pool
        self._metrics = metrics
        self._connect_timeout_s = connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self._idle: dict[tuple[str, int], list[Link]] = {}
        self._awaited: dict[Node, set[Link]] = {}
        self._purge: asyncio.TimerHandle | None = None
        self._silent_until = 0.0
        pool.watchers.append(self._on_node)

    async def reach(self, route: Callable[[set[str]], Choice], tried: set[str], *, fresh: bool) -> tuple[Choice, Link]:
        """Connect to the node that `route` chooses, or to the next one; those that failed are added to `tried`.

        A node that cannot be reached is out until a probe succeeds.  Raises what `route` raises when none is left.
        """
        while True:
            choice = route(tried)
            node = choice.node
            try:
                link = (None if fresh else self._reused(node)) or await self.open(node)
            except NodeUnreachable as exc:
                log.warning("node unreachable", extra={"node": node.name, "reason": str(exc)})
                self._metrics.connect_failed(node.name)
                self._pool.unreachable(node, str(exc))
                tried.add(node.name)
            else:
                return choice, link

    async def open(self, node: Node) -> Link:
        """Connect to `node`.  Raises NodeUnreachable or OutOfResources."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, handler = await self._loop.create_connection(
                    lambda: ResponseHandler(self._loop), node.host, node.port
                )
        except TimeoutError:
            raise NodeUnreachable(f"no connection within {self._connect_timeout_s:g} s") from None
        except OSError as exc:
            if exc.errno in OUR_LIMITS:
                self._tell_what_to_raise(exc.errno)
                raise OutOfResources(f"no connection to a node: {os.strerror(exc.errno)}") from None
            reason = os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc
            raise NodeUnreachable(f"no connection: {reason}") from None
        keep_alive(transport.get_extra_info("socket"))
        return Link(handler, (node.host, node.port))

    @contextmanager
    def holding(self, link: Link) -> Iterator[None]:
        """Take `link` for one exchange; afterwards it waits for the next one if it may, else it is closed."""
        link.keep = False
        try:
            yield
        finally:
            if link.keep and link.is_reusable:
                self._put(link)
            else:
                link.close()

    @contextmanager
    def awaiting(self, node: Node, link: Link) -> Iterator[None]:
        """Wait for the answer of `node` on `link` only for as long as the node is not found dead.

        For requests that can be made again: a node that hangs is found by its probes long before
        `lb.answer_timeout_s` is over.
        """
        links = self._awaited.setdefault(node, set())
        links.add(link)
        try:
            yield
        finally:
            links.discard(link)
            if not links and self._awaited.get(node) is links:
                del self._awaited[node]

    def _on_node(self, node: Node) -> None:
        """Hear from the pool that `node` changed."""
        if node.state is not State.DOWN or node.answers:
            return
        for link in self._awaited.pop(node, set()):
            link.give_up(f"found dead meanwhile: {node.reason}")
        # It may come back before they are stale, and the other end of the network have forgotten them.
        for link in self._idle.pop((node.host, node.port), []):
            link.close()

    def _tell_what_to_raise(self, number: int) -> None:
        now = self._loop.time()
        if now >= self._silent_until:
            self._silent_until = now + TELL_EVERY_S
            log.error("out of resources", extra={"reason": os.strerror(number), "raise": OUR_LIMITS[number]})

    def _put(self, link: Link) -> None:
        link.idle_since = self._loop.time()
        self._idle.setdefault(link.address, []).append(link)
        if self._purge is None:
            self._purge = self._loop.call_later(REUSE_WITHIN_S, self._close_stale)

    def close(self) -> None:
        """Close every connection that waits for reuse."""
        if self._on_node in self._pool.watchers:
            self._pool.watchers.remove(self._on_node)
        if self._purge is not None:
            self._purge.cancel()
            self._purge = None
        for links in self._idle.values():
            for link in links:
                link.close()
        self._idle.clear()

    def _reused(self, node: Node) -> Link | None:
        links = self._idle.get((node.host, node.port), [])
        while links:
            link = links.pop()
            if link.is_reusable and self._loop.time() - link.idle_since < REUSE_WITHIN_S:
                link.reused = True
                return link
            link.close()
        return None

    def _close_stale(self) -> None:
        self._purge = None
        oldest = self._loop.time() - REUSE_WITHIN_S
        for address, links in list(self._idle.items()):
            kept = []
            for link in links:
                if link.idle_since > oldest and link.is_reusable:
                    kept.append(link)
                else:
                    link.close()
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]
        if self._idle:
            self._purge = self._loop.call_later(REUSE_WITHIN_S, self._close_stale)
