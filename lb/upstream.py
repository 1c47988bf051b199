"""Connections to nodes: opened within a time limit, kept for reuse while they are certain to be alive."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from cluster.member import State
from lb.errors import OUR_LIMITS, NodeUnreachable, OutOfResources
from lb.idle import IdleLinks
from lb.keepalive import keep_alive
from lb.link import Link
from lb.plain_link import PlainLink
from lb.pool import Node, Pool
from lb.route import Choice

log = logging.getLogger(__name__)

TELL_EVERY_S = 60.0


class ConnectMetrics(Protocol):
    def connect_failed(self, node: str) -> None: ...


class Upstream:
    """All connections of this worker to nodes.  `close` ends those that wait for reuse."""

    def __init__(self, pool: Pool, metrics: ConnectMetrics, connect_timeout_s: float) -> None:
        self._pool = pool
        self._metrics = metrics
        self._connect_timeout_s = connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self.idle = IdleLinks()
        self._awaited: dict[Node, set[Link]] = {}
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
                link = (None if fresh else self.idle.take((node.host, node.port))) or await self.connect(node)
            except NodeUnreachable as exc:
                self.not_reached(node, str(exc))
                tried.add(node.name)
            else:
                return choice, link.to_link()

    def not_reached(self, node: Node, reason: str) -> None:
        """Take `node` out: a connection to it could not be made."""
        log.warning("node unreachable", extra={"node": node.name, "reason": reason})
        self._metrics.connect_failed(node.name)
        self._pool.unreachable(node, reason)

    async def connect(self, node: Node) -> PlainLink:
        """Return a new connection to `node`.  Raises NodeUnreachable or OutOfResources."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, link = await self._loop.create_connection(
                    lambda: PlainLink((node.host, node.port)), node.host, node.port
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
        return link

    @contextmanager
    def holding(self, link: Link) -> Iterator[None]:
        """Take `link` for one exchange; afterwards it waits for the next one if it may, else it is closed."""
        link.keep = False
        try:
            yield
        finally:
            plain = PlainLink.of(link) if link.keep else None
            if plain is None:
                link.close()
            else:
                self.idle.put(plain)

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
        self.idle.drop((node.host, node.port))

    def _tell_what_to_raise(self, number: int) -> None:
        now = self._loop.time()
        if now >= self._silent_until:
            self._silent_until = now + TELL_EVERY_S
            log.error("out of resources", extra={"reason": os.strerror(number), "raise": OUR_LIMITS[number]})

    def close(self) -> None:
        """Close every connection that waits for reuse."""
        if self._on_node in self._pool.watchers:
            self._pool.watchers.remove(self._on_node)
        self.idle.close()
