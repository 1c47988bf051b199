"""Messages between the nodes: python-socketio's pub/sub client manager over our own Redis link.

python-socketio delivers an emit to the clients of its own node first, without Redis, and then publishes it for the
other nodes; so local clients get everything while Redis is away.  Its documented seam for a backend is the pair
`_publish` and `_listen`, and we fill it ourselves, because its Redis backend (5.18) retries with delays of up to a
minute, holds up every emit while Redis hangs, and may listen to a dead connection for hours.

What is on the channel is python-socketio's own JSON, so an outside `socketio.RedisManager(url, channel=…,
write_only=True)` can emit to our clients.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio as redis
from redis.asyncio.client import PubSub
from socketio.async_pubsub_manager import AsyncPubSubManager

from cluster.backoff import full_jitter
from cluster.redis_link import REDIS_AWAY, connection, reason_of

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""A subscription that is silent for so long is asked for a sign of life, and given up after as long again."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 1.0


class Fanout(AsyncPubSubManager):  # type: ignore[misc]
    """Client manager of a node whose cluster talks through the Redis at `url`, on `channel`.

    `publisher` is a client for that URL and for nothing but this.  `run()` listens, and must run as long as the node
    serves; `dropped` counts messages that other nodes did not get.
    """

    name = "flotilla"

    def __init__(self, url: str, publisher: redis.Redis, channel: str) -> None:
        super().__init__(channel=channel)
        self._url = url
        self._publisher = publisher
        # One publisher at a time: on one connection two emits of a handler arrive in the order in which they left.
        self._publishing = asyncio.Lock()
        self._cannot_publish = asyncio.Event()
        self._troubles: set[str] = set()
        self.dropped = 0

    def initialize(self) -> None:
        """python-socketio calls this with the first client, to start its listener.  Ours is `run`, started earlier."""

    async def run(self) -> None:
        """Hand what other nodes publish to our clients, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._thread())
            group.create_task(self._probe())

    async def _publish(self, data: Any) -> None:
        async with self._publishing:
            if self._cannot_publish.is_set():
                self.dropped += 1
                return
            try:
                await self._publisher.publish(self.channel, self.json.dumps(data))
            except REDIS_AWAY as exc:
                # Local clients have the message already; what the others miss is counted, and told once.
                self.dropped += 1
                self._cannot_publish.set()
                self._lost("publish", exc)

    async def _probe(self) -> None:
        """Find out when Redis takes messages again: the application's own would each wait for a time-out."""
        while True:
            await self._cannot_publish.wait()
            for delay in full_jitter(RETRY_FIRST_S, RETRY_MOST_S):
                await asyncio.sleep(delay)
                try:
                    await self._publisher.ping()
                except REDIS_AWAY:
                    continue  # told already
                break
            self._cannot_publish.clear()
            self._back("publish")

    async def _listen(self) -> AsyncIterator[bytes]:
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        while True:
            try:
                async with connection(self._url, blocking=True) as link, link.pubsub() as subscription:
                    await subscription.subscribe(self.channel)
                    async for message in _lively(subscription):
                        if message["type"] == "message":
                            yield message["data"]
                        else:
                            delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
                            self._back("listen")
            except REDIS_AWAY as exc:
                self._lost("listen", exc)
            await asyncio.sleep(next(delays))

    def _lost(self, direction: str, exc: BaseException) -> None:
        if not self._troubles:
            log.warning("bus lost: messages stay on this node", extra={"reason": reason_of(exc)})
        self._troubles.add(direction)

    def _back(self, direction: str) -> None:
        if direction in self._troubles:
            self._troubles.discard(direction)
            if not self._troubles:
                log.info("bus is back", extra={"dropped": self.dropped})


async def _lively(subscription: PubSub) -> AsyncIterator[dict[str, Any]]:
    """Yield whatever comes, pongs too.  Raises TimeoutError when the other end gives no sign of life.

    A connection to a host that vanished looks exactly like a quiet one.
    """
    asked = False
    while True:
        message = await subscription.get_message(timeout=QUIET_S)
        if message is not None:
            asked = False
            yield message
        elif asked:
            raise TimeoutError(f"no sign of life from Redis in {2 * QUIET_S:g} s")
        else:
            asked = True
            await subscription.ping()
