"""Does Redis really carry messages?  This balancer publishes one, and hears it, all the time.

A Redis that answers commands may still deliver nothing.  And when a node says that it is cut off from Redis, this tells
whose fault that is: if we hear our own words, the node's; if we do not, Redis', and no node is to blame.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from redis.asyncio.client import PubSub

from cluster.backoff import full_jitter
from cluster.config import NO_REDIS, Config
from cluster.keys import Keys
from cluster.redis_link import REDIS_AWAY, connection, reason_of

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.25
MOST_RETRY_S = 5.0


class Canary:
    """Flies through Redis each `lb.health.interval_s` while `run` runs."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = config.redis
        self._channel = Keys(config.cluster).canary(secrets.token_hex(8))
        self._every_s = config.lb.health.interval_s
        self._within_s = config.lb.health.timeout_s
        self._clock = clock
        self._heard_at: float | None = None
        self.round_trip_s: float | None = None
        """How long the last one took, None if none arrives."""

    def is_heard(self) -> bool:
        """Whether one arrived lately: Redis is there, and delivers."""
        return self._heard_at is not None and self._clock() - self._heard_at < 2 * self._every_s + self._within_s

    async def run(self) -> None:
        """Fly until cancelled; return at once where there is no Redis."""
        if self._url == NO_REDIS:
            return
        delays = full_jitter(FIRST_RETRY_S, MOST_RETRY_S)
        while True:
            try:
                async with AsyncExitStack() as stack:
                    mouth = await stack.enter_async_context(connection(self._url))
                    ears = await stack.enter_async_context(connection(self._url, blocking=True))
                    subscription = await stack.enter_async_context(ears.pubsub(ignore_subscribe_messages=True))
                    await subscription.subscribe(self._channel)
                    while True:
                        began = self._clock()
                        async with asyncio.timeout(self._within_s):
                            word = secrets.token_hex(8)
                            await mouth.publish(self._channel, word)
                            await _heard(subscription, word.encode())
                        self._heard_at = self._clock()
                        self.round_trip_s = self._heard_at - began
                        delays = full_jitter(FIRST_RETRY_S, MOST_RETRY_S)
                        await asyncio.sleep(self._every_s)
            except REDIS_AWAY as exc:
                # lb/discovery.py says that Redis is away.  Commands that work while nothing arrives are seen here only.
                if self.round_trip_s is not None:
                    log.warning("nothing is heard through Redis", extra={"reason": reason_of(exc)})
                self.round_trip_s = self._heard_at = None
            await asyncio.sleep(next(delays))


async def _heard(subscription: PubSub, word: bytes) -> None:
    while True:
        message = await subscription.get_message(timeout=None)
        if message is not None and message["data"] == word:
            return
