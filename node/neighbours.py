"""The other nodes of the cluster, as the registry tells."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection
from typing import Protocol

from cluster.member import NodeRecord
from cluster.redis_link import REDIS_AWAY, reason_of

log = logging.getLogger(__name__)


MANY = 50
"""With more nodes each looks less often: all of them read about all of them."""


class Members(Protocol):
    """The registry (cluster/registry.py)."""

    async def members(self) -> list[NodeRecord]: ...


class Neighbours:
    """Reads the registry with each heartbeat, or less often if there are MANY; `run` must run."""

    def __init__(self, registry: Members, name: str, *, heartbeat_s: float, lease_s: float) -> None:
        self._registry, self._name = registry, name
        self._heartbeat_s, self._lease_s = heartbeat_s, lease_s
        self._records: dict[str, NodeRecord] = {}
        self._seen_at: dict[str, float] = {}
        self._is_away = False

    @property
    def records(self) -> Collection[NodeRecord]:
        """All other nodes whose lease held at the last reading."""
        return self._records.values()

    def expected(self) -> Collection[str]:
        """The names of those that may still be there: a registry that was just emptied does not know them yet."""
        return self._seen_at.keys()

    async def run(self) -> None:
        """Follow the registry, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._heartbeat_s * random.uniform(0.9, 1.0) * max(1.0, len(self._records) / MANY))

    async def refresh(self) -> bool:
        """Read the registry now; return False, and keep the last picture, if Redis is away."""
        try:
            found = await self._registry.members()
        except REDIS_AWAY as exc:
            # The heartbeat reports the outage.
            log.debug("registry not read", extra={"reason": reason_of(exc)})
            self._is_away = True
            return False
        self._records = {record.name: record for record in found if record.name != self._name}
        self._remember(asyncio.get_running_loop().time())
        return True

    def _remember(self, now: float) -> None:
        if self._is_away:
            # Whoever was there before may need a lease's time to be in the registry again.
            self._is_away = False
            self._seen_at = dict.fromkeys(self._seen_at, now)
        self._seen_at |= dict.fromkeys(self._records, now)
        self._seen_at = {name: at for name, at in self._seen_at.items() if now - at <= self._lease_s}
