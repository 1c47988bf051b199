"""What a node says of itself: its record in the registry with each heartbeat, its metrics in the log and in Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import random
import socket
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

import redis.asyncio as redis

from cluster.keys import Keys
from cluster.member import NodeRecord, State
from cluster.redis_link import REDIS_AWAY, reason_of
from cluster.registry import Registry

log = logging.getLogger(__name__)

RedisState = Literal["ok", "away", "none"]

SLOW_S = 1.0
"""A Redis that does not answer a heartbeat within that is not there just now."""

SIGN_OFF_S = 1.0
"""Limit on each of the last words to Redis; the lease ends without them too."""

ANY_ADDRESS = ("", "0.0.0.0", "::")


class Announcer:
    """Keeps the node's record in the registry (None: there is no Redis).

    `measure` gives a fresh record, all but its state.  `forgotten` is called when Redis did not know us any more:
    whatever else we keep there is gone as well.
    """

    def __init__(
        self,
        registry: Registry | None,
        measure: Callable[[], NodeRecord],
        *,
        heartbeat_s: float,
        lease_s: float,
        forgotten: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._measure = measure
        self._heartbeat_s, self._lease_s = heartbeat_s, lease_s
        self._forgotten = forgotten
        self._state = State.JOINING
        self._rival = ""
        self._announced = False
        self._saying = asyncio.Lock()
        """What is said last must be what is heard last."""
        self._said_at = math.inf
        """When a heartbeat went out that is not answered yet."""
        self.redis: RedisState = "none" if registry is None else "away"
        self.record = measure()
        """What we said last."""

    @property
    def state(self) -> State:
        return self._state

    @property
    def hears_redis(self) -> bool:
        """Whether Redis answers us, as far as we know."""
        return self.redis == "ok" and asyncio.get_running_loop().time() - self._said_at < SLOW_S

    async def enter(self, state: State) -> None:
        """Be in `state` from now on, and tell everybody at once."""
        self._state = state
        await self._beat(changed=True)

    async def run(self) -> None:
        """Announce with each heartbeat, until cancelled."""
        while True:
            # Jittered, so that nodes which started together do not beat together for ever.
            await asyncio.sleep(self._heartbeat_s * random.uniform(0.9, 1.0))
            await self._beat(changed=False)

    async def withdraw(self) -> None:
        """Sign off.  If Redis does not take it, the lease ends by itself."""
        if self._registry is None:
            return
        try:
            async with asyncio.timeout(SIGN_OFF_S):
                await self._registry.withdraw(self.record.name, self.record.incarnation)
        except REDIS_AWAY as exc:
            log.info("not signed off: the lease will end", extra={"reason": reason_of(exc)})

    async def _beat(self, *, changed: bool) -> None:
        async with self._saying:
            self._said_at = asyncio.get_running_loop().time()
            try:
                await self._say(changed=changed)
            finally:
                self._said_at = math.inf

    async def _say(self, *, changed: bool) -> None:
        self.record = dataclasses.replace(self._measure(), state=self._state)
        if self._registry is None:
            return
        try:
            # After an outage everybody must hear of us again, not only those who look.
            before = await self._registry.announce(
                self.record, self._lease_s, changed=changed or self.redis == "away" or not self._announced
            )
        except REDIS_AWAY as exc:
            if self.redis == "ok" or not self._announced:
                log.warning("Redis is away: serving on, not announced", extra={"reason": reason_of(exc)})
            self.redis, self._announced = "away", True
            return
        if self.redis == "away" and self._announced:
            log.info("Redis is back: announced again")
        first, self.redis, self._announced = not self._announced, "ok", True
        if before is None and not first:
            self._forgotten()
        self._watch_rival(before, first=first)

    def _watch_rival(self, before: NodeRecord | None, *, first: bool) -> None:
        """Tell the process that was here before us from one that uses our name at the same time."""
        if before is None or before.incarnation == self.record.incarnation:
            return
        facts = {"node": before.name, "host": before.host, "port": before.port, "pid": before.pid}
        if first:
            log.info("name taken over", extra=facts | {"state": str(before.state)})
        elif self._rival != before.incarnation:
            self._rival = before.incarnation
            log.error("another process uses this node's name: give one of them another --name", extra=facts)


async def report_metrics(
    link: redis.Redis | None, keys: Keys, measure: Callable[[], NodeRecord], interval_s: float
) -> None:
    """Log the node's metrics each `interval_s`, and publish them as JSON on `Keys.metrics`, until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        record = measure()
        log.info(
            "metrics",
            extra={
                "node": record.name,
                "clients": record.connections,
                "users": record.users,
                "memory_mib": round(record.memory_bytes / 2**20, 1),
                "cpu_percent": record.cpu_percent,
                "loop_lag_ms": record.loop_lag_ms,
                "messages_in": record.messages_in,
                "messages_out": record.messages_out,
                "uptime_s": round(record.uptime_s),
            },
        )
        if link is None:
            continue
        try:
            await link.publish(keys.metrics, record.to_json())
        except REDIS_AWAY as exc:
            # The heartbeat reports the outage; these figures are in the log.
            log.debug("metrics not published", extra={"reason": reason_of(exc)})


def advertised_host(listen_host: str, redis_url: str | None) -> str:
    """Return the address under which others reach what listens on `listen_host`.

    For 0.0.0.0 and :: that is our own address on the route to Redis: where Redis is, the others are.
    """
    if listen_host not in ANY_ADDRESS:
        return listen_host
    loopback = "::1" if listen_host == "::" else "127.0.0.1"
    if redis_url is None or redis_url.startswith("unix:"):
        return loopback
    first = urlsplit(redis_url).netloc.rpartition("@")[2].split(",")[0]
    host = urlsplit(f"//{first}").hostname or "localhost"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Connecting a UDP socket sends nothing; it only asks the kernel for the route.
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as exc:
        log.warning("own address not found: set nodes.advertise", extra={"towards": host, "reason": str(exc)})
        return loopback
