"""Operators' orders to drain nodes: where they are kept, so that everybody obeys them, restarts included.

In Redis they are one hash, which every balancer reads with the registry and every node with its heartbeat.  A copy in
the run directory is what a worker that starts obeys from its first moment on; without Redis it is all there is, and
what the nodes of the stack read, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import redis.asyncio as redis

from cluster.config import NO_REDIS, Config
from cluster.keys import Keys
from cluster.member import Drain
from cluster.orders import Orders
from cluster.redis_link import connection
from cluster.rundir import RunDir
from cluster.written_orders import WrittenOrders
from lb.pool import Pool

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""Without Redis: how often a worker looks whether another one has written an order."""


class Drains:
    """Lets the nodes of `pool` drain as ordered, and takes orders."""

    def __init__(self, pool: Pool, config: Config, run_dir: RunDir, wall: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._config = config
        self._keys = Keys(config.cluster)
        self._copy = WrittenOrders(run_dir)
        self._wall = wall
        self._obey_copy()

    async def run(self) -> None:
        """Without Redis: follow what other workers are told.  Where there is one, lb/discovery.py calls `refresh`."""
        if self._config.redis != NO_REDIS:
            return
        while True:
            await asyncio.sleep(LOOK_S)
            self._obey_copy()

    async def refresh(self, link: redis.Redis) -> None:
        """Read all orders.  Raises one of REDIS_AWAY."""
        orders = Orders(link, self._keys)
        found = await orders.all()
        if found is None:
            # Redis has lost its memory: an order holds until somebody takes it back.
            found = dict(self._pool.drains)
            if found:
                await orders.restore(found)
        self._obey(found)

    async def order(self, node: str, drain_s: float | None = None) -> Drain:
        """Let `node` drain.  Raises one of REDIS_AWAY, or OSError: then nothing is ordered."""
        nodes = self._config.nodes
        seconds = nodes.drain_s if drain_s is None else drain_s
        drain = Drain(since=self._wall(), drain_s=seconds, close_per_s=nodes.close_per_s)
        if self._config.redis == NO_REDIS:
            await self._write(node, drain)
            return drain
        async with connection(self._config.redis) as link:
            await Orders(link, self._keys).give(node, drain)
        self._obey({**self._pool.drains, node: drain})
        return drain

    async def lift(self, node: str) -> None:
        """Take the order to `node` back.  Raises one of REDIS_AWAY, or OSError: then it stands."""
        if self._config.redis == NO_REDIS:
            await self._write(node, None)
            return
        async with connection(self._config.redis) as link:
            await Orders(link, self._keys).lift(node)
        self._obey(_with(self._pool.drains, node, None))

    async def _write(self, node: str, drain: Drain | None) -> None:
        """Without Redis: write the order to `node`, or that there is none.  Raises OSError: then all is as it was."""
        async with self._copy.alone():
            written = self._copy.all()
            drains = _with(self._pool.drains if written is None else written, node, drain)
            self._copy.write(drains)
        self._pool.ordered(drains)

    def _obey(self, drains: Mapping[str, Drain]) -> None:
        if drains == self._pool.drains:
            return
        try:
            self._copy.write(drains)
        except OSError as exc:
            log.warning("orders not written", extra={"reason": str(exc)})
        self._pool.ordered(drains)

    def _obey_copy(self) -> None:
        drains = self._copy.all()
        if drains is not None and drains != self._pool.drains:
            self._pool.ordered(drains)


def _with(drains: Mapping[str, Drain], node: str, drain: Drain | None) -> dict[str, Drain]:
    """Return `drains` with that of `node` replaced by `drain`, None for none."""
    rest = {name: other for name, other in drains.items() if name != node}
    return rest if drain is None else {**rest, node: drain}
