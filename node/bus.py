"""The bus: channels and bytes between nodes, through Redis.  It knows nothing of Socket.IO.

    publish -> outbox -> publisher ─┐            (node/lane.py, one for each partition: one, or 16 on a Redis Cluster)
                                    ├─ Redis
    received <------- subscriber <──┘

What is published on one channel arrives in order, at whoever subscribed before, at most once twice: after a lost
connection what may not have arrived is sent again.  Whoever receives must know what it has (node/post.py does).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cluster.channels import Channel, Channels
from cluster.redis_address import Topology, parse
from node.fate import Fate
from node.lag import Histogram
from node.lane import BusLimits, Health, Lane
from node.redis_servers import servers_of

__all__ = ["Bus", "BusFigures", "BusLimits", "Fate", "Health", "channels_of"]

log = logging.getLogger(__name__)

MUCH_BYTES = 1 << 20
"""More than that on its way, and whoever emits in a loop should wait: Redis does not take it as fast."""


@dataclass(frozen=True)
class BusFigures:
    """Counts since the start, and how it is now."""

    published: int
    published_bytes: int
    received: int
    received_bytes: int
    subscriptions: int
    outbox_messages: int
    outbox_bytes: int
    dropped_full: int
    """No room in the outbox."""
    dropped_old: int
    """Waited in it for too long."""
    refused: int
    """Redis answered with an error."""
    resent: int
    connects: int
    canaries_lost: int
    canary_ms: float
    """How long the last canary took; the slowest of all partitions."""


def channels_of(cluster: str, url: str) -> Channels:
    """Return the channels of a cluster on the Redis at `url`."""
    return Channels(cluster, is_sharded=parse(url).topology is Topology.CLUSTER)


class Bus:
    """The bus of the node `name`, on the Redis at `url`.  `run` must run.

    `received` gets the partition and the payload of each message.  `peers` tells the names of the other nodes, as last
    known: when Redis comes back, what waited is sent when they hear again.
    """

    def __init__(
        self,
        url: str,
        channels: Channels,
        name: str,
        limits: BusLimits,
        *,
        received: Callable[[int, bytes], None],
        peers: Callable[[], Collection[str]] = tuple,
    ) -> None:
        servers = servers_of(parse(url), channels.slot)
        self.lanes = [
            Lane(partition, servers, channels, name, limits, peers=peers, received=received, changed=self._look)
            for partition in channels.partitions
        ]
        self._publish = [lane.publisher.publish for lane in self.lanes]
        self._told: Health | None = None
        self._away_since = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self) -> None:
        """Keep the connections, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane in self.lanes:
                group.create_task(lane.run())

    # Messages

    def publish(self, channel: Channel, payload: bytes, counted: Callable[[int], None] | None = None) -> Fate:
        """Send to whoever subscribed to `channel`.  Nothing is awaited: what a handler publishes stays in order.

        `counted` gets how many have it, us included if we listen there.
        """
        return self._publish[channel.partition](channel.name, payload, counted)

    async def room(self, bytes_: int = MUCH_BYTES) -> None:
        """Return when not more than so many bytes are on their way to each server, or it is away."""
        for lane in self.lanes:
            if lane.outbox.size > bytes_:
                await lane.publisher.room(bytes_)

    @property
    def is_behind(self) -> bool:
        """Whether so much is on its way that whoever emits should await `room`."""
        return any(lane.outbox.size > MUCH_BYTES for lane in self.lanes)

    def want(self, channel: Channel) -> None:
        """As `subscribe`, without waiting."""
        self.lanes[channel.partition].subscriber.want(channel.name)

    async def subscribe(self, channel: Channel) -> bool:
        """Return True when the subscription holds, or False if Redis is away: then it will hold when it is back."""
        return await self.lanes[channel.partition].subscriber.subscribe(channel.name)

    async def settled(self) -> bool:
        """Return True when all subscriptions hold that are wanted now, or False if Redis is away."""
        return all([await lane.subscriber.settled() for lane in self.lanes])

    def holds(self, channel: Channel) -> bool:
        """Return whether the subscription holds."""
        return self.lanes[channel.partition].subscriber.holds(channel.name)

    async def listening(self, names: Collection[str]) -> set[str]:
        """Return which of these nodes hear the bus now, as Redis knows.  Raises RedisLost.

        A process that ended has no connections, whatever the registry says.
        """
        return await self.lanes[0].listening(names)

    def unsubscribe(self, channel: Channel) -> None:
        self.lanes[channel.partition].subscriber.unsubscribe(channel.name)

    # How it is

    @property
    def health(self) -> Health:
        return max(lane.health for lane in self.lanes)

    @property
    def reason(self) -> str:
        """Why it is not well, or empty."""
        return next((lane.reason for lane in self.lanes if lane.health is not Health.OK), "")

    @property
    def waiting_bytes(self) -> int:
        """What Redis has not confirmed."""
        return sum(lane.outbox.size for lane in self.lanes)

    @property
    def dropped(self) -> int:
        """Messages that other nodes did not get."""
        figures = self.figures()
        return figures.dropped_full + figures.dropped_old + figures.refused

    @property
    def canary(self) -> Histogram:
        """How long canaries took; on a Redis Cluster, those of the first partition."""
        return self.lanes[0].canary

    def figures(self) -> BusFigures:
        lanes = self.lanes
        return BusFigures(
            published=sum(lane.publisher.published for lane in lanes),
            published_bytes=sum(lane.publisher.published_bytes for lane in lanes),
            received=sum(lane.subscriber.received for lane in lanes),
            received_bytes=sum(lane.subscriber.received_bytes for lane in lanes),
            subscriptions=sum(lane.subscriber.subscriptions for lane in lanes),
            outbox_messages=sum(len(lane.outbox) for lane in lanes),
            outbox_bytes=sum(lane.outbox.size for lane in lanes),
            dropped_full=sum(lane.outbox.dropped_full for lane in lanes),
            dropped_old=sum(lane.outbox.dropped_old for lane in lanes),
            refused=sum(lane.publisher.refused for lane in lanes),
            resent=sum(lane.publisher.resent for lane in lanes),
            connects=sum(lane.publisher.connects + lane.subscriber.connects for lane in lanes),
            canaries_lost=sum(lane.deaf for lane in lanes),
            canary_ms=max(lane.canary_ms for lane in lanes),
        )

    async def up(self, within_s: float) -> bool:
        """Wait until messages go out and come in; return False if they do not within that time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                while self.health is not Health.OK:
                    waiter = loop.create_future()
                    self._waiting.append(waiter)
                    await waiter
        except TimeoutError:
            return False
        return True

    def _look(self) -> None:
        """Something changed in a lane: tell once how the whole is."""
        health, now = self.health, asyncio.get_running_loop().time()
        if health is Health.OK:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
        if health is self._told or (self._told is None and health is Health.AWAY):
            return
        before, self._told = self._told, health
        if health is Health.DEAF:
            log.error("bus is deaf: this node hears no other", extra={"reason": self.reason})
        elif health is Health.AWAY and before is Health.OK:
            self._away_since = now
            log.warning("bus lost: messages for other nodes wait", extra={"reason": self.reason})
        elif health is Health.OK and before is not None:
            log.info("bus is back", extra={"away_s": round(now - self._away_since, 3), "dropped": self.dropped})
