"""What makes a node one of several: the bus, who the others are, and the rooms of all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from cluster.config import Config
from cluster.errors import StartError
from cluster.keys import Keys
from cluster.redis_link import without_password
from cluster.registry import Registry
from cluster.tag import slot_of
from node.bridge import Bridge
from node.bus import Bus, BusLimits, channels_of
from node.fanout import Fanout
from node.neighbours import Neighbours
from node.place import NodeInfo
from node.post import Post

log = logging.getLogger(__name__)

UP_S = 2.0
"""How long a node that starts waits until it hears the others; later it serves without, and says so."""


MOST_LAG_MS = 1e6


class Company:
    """The others of the node `info`, on the Redis of `config`.  Raises StartError."""

    def __init__(self, config: Config, info: NodeInfo, registry: Registry, secret: bytes) -> None:
        nodes, bus, url = config.nodes, config.bus, config.redis
        self.neighbours = Neighbours(registry, info.name, heartbeat_s=nodes.heartbeat_s, lease_s=nodes.lease_s)
        limits = BusLimits(bus.outbox_bytes, bus.outbox_age_s, bus.canary_s, nodes.lease_s)
        try:
            channels, peers = channels_of(info.cluster, url), self.neighbours.expected
            self.post = Post(url, channels, info.name, info.incarnation, limits, peers=peers)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise StartError(f"certificates of {without_password(url)} cannot be read: {reason}") from None
        self.fanout = Fanout(self.post, lambda sid: slot_of(sid, secret), self.neighbours)
        self._bridge = None
        if bus.bridge == "python-socketio":
            self._bridge = Bridge(url, Keys(info.cluster).bus, self.fanout)

    @property
    def bus(self) -> Bus:
        return self.post.bus

    def figures(self) -> dict[str, Any]:
        """Return what the node's record says of the bus."""
        figures, lag = self.bus.figures(), self.post.lag
        return {
            "bus_published": figures.published,
            "bus_published_bytes": figures.published_bytes,
            "bus_received": figures.received,
            "bus_received_bytes": figures.received_bytes,
            "bus_subscriptions": figures.subscriptions,
            "bus_outbox_bytes": figures.outbox_bytes,
            "bus_dropped": self.bus.dropped,
            "bus_canary_ms": round(figures.canary_ms, 2),
            "bus_lag_p50_ms": min(lag.percentile(0.5), MOST_LAG_MS),
            "bus_lag_p99_ms": min(lag.percentile(0.99), MOST_LAG_MS),
        }

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What must run as long as the node serves, and before it does."""
        jobs = [self.fanout.run(), self.neighbours.run()]
        return jobs if self._bridge is None else [*jobs, self._bridge.run()]

    async def up(self) -> None:
        """Return when messages of others arrive here, or it is no use to wait for that."""
        if not await self.bus.up(UP_S):
            log.warning("serving alone: no bus to the other nodes", extra={"reason": self.bus.reason})

    async def flushed(self, within_s: float) -> None:
        """Return when what clients of other nodes should get has left, or after that time."""
        try:
            async with asyncio.timeout(within_s):
                await self.bus.room(0)
        except TimeoutError:
            log.info("messages left behind", extra={"messages": self.bus.figures().outbox_messages})
