"""One server of the bus: what is published there, what is heard there, and whether that works.

A canary goes from here through Redis and back, again and again.  One that does not return although Redis takes messages
means that we are deaf: that looks exactly like silence, and would last for ever.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum

from cluster.channels import Channels
from node.fate import Fate
from node.lag import Histogram
from node.outbox import Outbox
from node.publisher import Publisher
from node.redis_servers import Servers
from node.redis_socket import RedisLost, RedisSocket
from node.subscriber import Subscriber

log = logging.getLogger(__name__)

ASK_AGAIN_S = 0.03
DEAF_AFTER = 2
"""Canaries lost in a row: the first may be the connection's fault, which is made anew."""


class Health(IntEnum):
    """How a lane is, or the worst of several."""

    OK = 0
    AWAY = 1
    """No Redis: messages for other nodes wait, and theirs will come when it is back."""
    DEAF = 2
    """Redis takes our messages and we do not hear it, also on a new connection: this node should not serve."""


@dataclass(frozen=True)
class BusLimits:
    """`lease_s`: a node that was not back so long after Redis is not waited for."""

    outbox_bytes: int = 1 << 24
    outbox_age_s: float = 60.0
    canary_s: float = 5.0
    lease_s: float = 5.0


class Lane:
    """The bus of the node `name` on one partition.  `peers` tells the names of the other nodes, as last known."""

    def __init__(
        self,
        partition: int,
        servers: Servers,
        channels: Channels,
        name: str,
        limits: BusLimits,
        *,
        peers: Callable[[], Collection[str]],
        received: Callable[[int, bytes], None],
        changed: Callable[[], None],
    ) -> None:
        self.partition = partition
        self._servers, self._channels, self._name, self._limits = servers, channels, name, limits
        self._peers, self._received, self._changed = peers, received, changed
        self._ear = channels.ear(name, partition).name
        sharded = len(channels.partitions) > 1
        self._count_ears = b"SHARDNUMSUB" if sharded else b"NUMSUB"
        prefix = b"S" if sharded else b""
        self.outbox = Outbox(limits.outbox_bytes, limits.outbox_age_s)
        self.publisher = Publisher(self.outbox, self._dial, self._until_heard, changed, prefix + b"PUBLISH")
        self.subscriber = Subscriber(self._ear, self._dial, self._heard, changed, prefix)
        self.canary = Histogram()
        self.canary_ms = 0.0
        """How long the last one took."""
        self.deaf = 0
        """How many did not come back."""
        self._lost_in_a_row = 0
        self._out: tuple[bytes, asyncio.Future[None]] | None = None

    @property
    def health(self) -> Health:
        if not self.publisher.is_up:
            return Health.AWAY
        if self._lost_in_a_row >= DEAF_AFTER:
            return Health.DEAF
        return Health.OK if self.subscriber.is_whole else Health.AWAY

    @property
    def reason(self) -> str:
        """Why it is not well."""
        if not self.publisher.is_up:
            return self.publisher.reason
        return self.subscriber.reason if not self.subscriber.is_whole else "the canary did not come back"

    async def run(self) -> None:
        """Keep it working, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.publisher.run())
            group.create_task(self.subscriber.run())
            group.create_task(self._keep_looking())

    async def _dial(self) -> RedisSocket:
        return await self._servers.link(self.partition)

    async def _until_heard(self, link: RedisSocket) -> None:
        """Wait until the nodes that were there before hear us: what waited is for them.

        Who died meanwhile never will; after `lease_s` they are given up.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not self.publisher.connects:
            # What a node says first, it says to whoever is there.
            return
        while peers := [peer for peer in self._peers() if peer != self._name]:
            heard = await self._listening(link, peers)
            missing = [peer for peer in peers if peer not in heard]
            if not missing:
                return
            if loop.time() - began > self._limits.lease_s:
                log.info("not waiting for nodes any longer", extra={"nodes": ", ".join(missing[:10])})
                return
            await asyncio.sleep(ASK_AGAIN_S * random.uniform(0.5, 1.5))

    async def listening(self, names: Collection[str]) -> set[str]:
        """Return which of these nodes hear this lane now.  Raises RedisLost."""
        if not names:
            return set()
        link = await self._dial()
        try:
            return await self._listening(link, names)
        finally:
            link.abort("asked")

    async def _listening(self, link: RedisSocket, names: Collection[str]) -> set[str]:
        ears = [self._channels.ear(name, self.partition).name for name in names]
        counts = await link.ask(b"PUBSUB", self._count_ears, *ears)
        return {name for name, count in zip(names, counts[1::2], strict=True) if count}

    def _heard(self, channel: bytes, payload: bytes) -> None:
        if channel != self._ear:
            self._received(self.partition, payload)
        elif self._out is not None and payload == self._out[0] and not self._out[1].done():
            self._out[1].set_result(None)

    async def _keep_looking(self) -> None:
        while True:
            # Jittered, so that canaries of nodes which started together do not fly together.
            await asyncio.sleep(self._limits.canary_s * random.uniform(0.8, 1.0))
            if not self.publisher.is_up or not await self._is_in_place():
                continue
            if not self.subscriber.is_whole:
                self._lost(self.subscriber.reason)
            elif (sent := self._fly()) is not None:
                await self._await(sent)

    async def _is_in_place(self) -> bool:
        """Return whether both connections are with the right server; make them anew if not."""
        moved = False
        for link in (self.publisher.server, self.subscriber.server):
            try:
                if link is None or await self._servers.is_at(self.partition, link.server):
                    continue
            except RedisLost as exc:
                # Those who would know are away; the server itself is not.
                log.debug("server not looked up", extra={"reason": str(exc)})
                return True
            moved = True
            link.abort(f"{link.server} is not the server any more")
        return not moved

    def _fly(self) -> asyncio.Future[None] | None:
        """Send a canary; return what is done when it is back, or None if the outbox has no room for it."""
        token, back = random.randbytes(8), asyncio.get_running_loop().create_future()
        self._out = token, back
        return None if self.publisher.publish(self._ear, token) is Fate.DROPPED else back

    async def _await(self, back: asyncio.Future[None]) -> None:
        loop, connects = asyncio.get_running_loop(), self.publisher.connects
        began = loop.time()
        try:
            async with asyncio.timeout(self._limits.canary_s):
                await back
        except TimeoutError:
            if self.publisher.is_answering and self.publisher.connects == connects:
                self._lost(f"a message through Redis did not come back within {self._limits.canary_s:g} s")
            return
        self.canary_ms = 1000 * (loop.time() - began)
        self.canary.add(self.canary_ms)
        before, self._lost_in_a_row = self._lost_in_a_row, 0
        if before >= DEAF_AFTER:
            self._changed()

    def _lost(self, reason: str) -> None:
        """Once may be the connection's fault, which is made anew.  If that does not help, this node hears nobody."""
        self.deaf += 1
        self._lost_in_a_row += 1
        log.warning("bus: subscriber is deaf, connecting anew", extra={"reason": reason, "partition": self.partition})
        self.subscriber.restart("deaf")
        if self._lost_in_a_row == DEAF_AFTER:
            self._changed()
