"""Clients of a drained node that cannot be told to send them away: their tunnels end here, little by little.

A node of ours reads its order and closes its clients with 1001.  One of another make, or on another host without Redis,
does not know of orders, so when its time is over we end what we carry to it; clients see a lost connection, and come
back elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from lb.pool import Node, Pool

log = logging.getLogger(__name__)

IDLE_S = 1.0
TICK_S = 0.1
"""How often it is seen whether somebody's time is over, and how often some are closed then."""


class Eviction:
    """`close` ends so many tunnels to a node and returns how many there were; `share` is this worker's part."""

    def __init__(
        self,
        pool: Pool,
        close: Callable[[Node, int], int],
        share: float = 1.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._close = close
        self._share = share
        self._wall = wall
        self._owed: dict[Node, float] = {}
        """What is left of a client where the pace is less than one a tick."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            due = list(self._due())
            for node, per_s in due:
                self._evict(node, per_s)
            await asyncio.sleep(TICK_S if due else IDLE_S)

    def _due(self) -> Iterator[tuple[Node, float]]:
        for node in self._pool:
            order = node.drain
            if order is not None and not node.hears_orders and node.tunnels:
                if self._wall() >= order.since + order.drain_s:
                    yield node, order.close_per_s
            else:
                self._owed.pop(node, None)

    def _evict(self, node: Node, per_s: float) -> None:
        if node not in self._owed:
            log.info("tunnels end: their node drains", extra={"node": node.name, "tunnels": node.tunnels})
        owed = self._owed.get(node, 0.0) + per_s * self._share * TICK_S
        self._owed[node] = owed - int(owed)
        self._close(node, int(owed))
