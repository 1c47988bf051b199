"""Where the pool's nodes come from: the configuration names some, and the registry in Redis says who else is there.

The registry is read whole with each heartbeat, and at once when its channel says that something changed.  While Redis
is away the pool keeps the last picture and the probes decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

from redis.asyncio.client import PubSub

from cluster.backoff import full_jitter
from cluster.config import NO_REDIS, Config
from cluster.keys import Keys
from cluster.redis_link import REDIS_AWAY, connection, reason_of, without_password
from cluster.registry import Registry
from lb.drains import Drains
from lb.picture import Admission, Picture, add_configured
from lb.pool import Pool

log = logging.getLogger(__name__)

RedisState = Literal["ok", "away", "none"]

FIRST_RETRY_S = 0.25
MOST_RETRY_S = 5.0
LISTEN_S = 10.0
"""A subscription that was silent for so long is asked whether it still hears."""
NOTICES_GAP_S = 0.05
"""A hundred nodes that change together cost a few readings of the registry, not a hundred."""


class Discovery:
    """Brings the nodes of `config` into `pool`: the configured ones at once, all others while `run` runs."""

    def __init__(
        self,
        pool: Pool,
        config: Config,
        run_dir: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        drains: Drains | None = None,
    ) -> None:
        self._pool = pool
        self._drains = drains
        self._config = config
        self._picture = Picture(pool, config.nodes.lease_s)
        self._admission = Admission(pool, discover=config.nodes.discover)
        self._clock = clock
        self._changed = asyncio.Event()
        self._noticed: set[str] = set()
        self._away_since: float | None = None
        self.read_s: float | None = None
        """How long the last reading of the registry took: two round trips, if somebody is in it."""
        self.redis: RedisState = "none" if config.redis == NO_REDIS else "away"
        add_configured(pool, config, run_dir)

    async def run(self) -> None:
        """Follow the registry until cancelled; return at once where there is no Redis."""
        if self._config.redis == NO_REDIS:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._listen())

    async def _follow(self) -> None:
        delays = full_jitter(FIRST_RETRY_S, MOST_RETRY_S)
        async with connection(self._config.redis) as link:
            registry = Registry(link, Keys(self._config.cluster))
            while True:
                self._changed.clear()
                noticed, self._noticed = self._noticed, set()
                try:
                    began = self._clock()
                    records = await registry.members()
                    self.read_s = self._clock() - began
                    if self._drains is not None:
                        await self._drains.refresh(link)
                except REDIS_AWAY as exc:
                    self._noticed |= noticed
                    self._went_away(exc)
                    await self._changed_or(next(delays))
                    continue
                if self._came_back():
                    delays = full_jitter(FIRST_RETRY_S, MOST_RETRY_S)
                self._pool.seen(self._picture.take(self._admission.admitted(records), noticed, self._clock()))
                await self._changed_or(self._config.nodes.heartbeat_s)
                if self._changed.is_set():
                    await asyncio.sleep(NOTICES_GAP_S)

    async def _changed_or(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            # Nothing was announced: it is simply time to look again.
            return

    async def _listen(self) -> None:
        """Wake `_follow` with each notice.  A deaf or lost subscription is made again; meanwhile we only hear later."""
        delays = full_jitter(FIRST_RETRY_S, MOST_RETRY_S)
        while True:
            try:
                async with AsyncExitStack() as stack:
                    link = await stack.enter_async_context(connection(self._config.redis, blocking=True))
                    registry = Registry(link, Keys(self._config.cluster))
                    subscription = await stack.enter_async_context(registry.changes())
                    delays = full_jitter(FIRST_RETRY_S, MOST_RETRY_S)
                    await self._hear(subscription)
            except REDIS_AWAY as exc:
                # `_follow` sees and says that Redis is away.
                log.debug("subscription lost", extra={"reason": reason_of(exc)})
                await asyncio.sleep(next(delays))

    async def _hear(self, subscription: PubSub) -> None:
        # What was announced before we subscribed is read now.
        self._changed.set()
        asked = False
        while True:
            message = await subscription.get_message(timeout=LISTEN_S)
            if message is not None:
                asked = False
                if message["type"] == "message":
                    self._noticed.add(message["data"].decode(errors="replace"))
                    self._changed.set()
            elif asked:
                raise ConnectionError(
                    f"the subscription heard nothing for {LISTEN_S:g} s, not even the answer to a ping"
                )
            else:
                await subscription.ping()
                asked = True

    def _went_away(self, exc: Exception) -> None:
        self.redis = "away"
        if self._away_since is None:
            self._away_since = self._clock()
            url = without_password(self._config.redis)
            log.warning("redis away, keeping the last picture", extra={"redis": url, "reason": reason_of(exc)})

    def _came_back(self) -> bool:
        self.redis = "ok"
        if self._away_since is None:
            return False
        now = self._clock()
        log.info("redis back", extra={"away_s": now - self._away_since})
        self._away_since = None
        self._picture.redis_came_back(now)
        return True
