"""The directory of users in Redis: the hash `Keys.users_online`, one field for each device.

Entries have no lease of their own: one counts as long as the registry knows the node, and the incarnation, that wrote
it.  Who finds entries of a node that is gone takes them out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

import redis.asyncio as redis

from cluster.backoff import full_jitter
from cluster.keys import Keys
from cluster.redis_link import REDIS_AWAY, reason_of
from cluster.registry import Registry
from node.roster import BadEntry, Device

log = logging.getLogger(__name__)

# Between our look at the registry and this moment the node may have come back; then its entries are its own affair.
_SWEEP = """
local raw = redis.call('GET', KEYS[2])
if raw and cjson.decode(raw).incarnation == ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
"""

SWEEP_AT_ONCE = 1000
"""Fields in one command: Lua's unpack has a limit of some thousands."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 1.0

Seat = tuple[str, str]
"""Name and incarnation of a node."""


class RedisDirectory:
    """The part of `node` in this `incarnation` of the cluster's list of users.

    The whole list is read when somebody says that it changed, when a node came or went, and each `reread_s` seconds.
    """

    def __init__(
        self, link: redis.Redis, registry: Registry, keys: Keys, *, node: str, incarnation: str, reread_s: float
    ) -> None:
        self._link, self._registry, self._keys = link, registry, keys
        self._seat: Seat = (node, incarnation)
        self._reread_s = reread_s
        self._read_at = float("-inf")
        self._stale = True
        self._alive: set[Seat] = set()
        self._found: list[Device] = []

    async def write(self, put: Collection[Device], drop: Collection[Device]) -> None:
        async with self._link.pipeline(transaction=True) as pipe:
            if drop:
                pipe.hdel(self._keys.users_online, *(device.field for device in drop))
            if put:
                pipe.hset(self._keys.users_online, mapping={device.field: device.to_json() for device in put})
            pipe.publish(self._keys.users_changed, self._seat[1])
            await pipe.execute()

    async def replace(self, own: Collection[Device]) -> None:
        kept = {device.field for device in own}
        ours = [device for device in await self._read() if (device.node, device.incarnation) == self._seat]
        await self.write(own, [device for device in ours if device.field not in kept])

    async def others(self, *, fresh: bool) -> list[Device] | None:
        now = asyncio.get_running_loop().time()
        known = not fresh and not self._stale and now - self._read_at < self._reread_s
        if known and await self._seats() == self._alive:
            return self._found
        self._stale = False
        # The list before the registry: a node announces itself first, so its entries are never seen without it.
        devices = await self._read()
        self._alive, self._read_at = await self._seats(), now
        if self._seat not in self._alive:
            # A registry that does not know us has just been emptied: nor does it know the others.
            self._stale = True
            return None
        await self._sweep([device for device in devices if (device.node, device.incarnation) not in self._alive])
        self._found = [
            device
            for device in devices
            if (device.node, device.incarnation) in self._alive and (device.node, device.incarnation) != self._seat
        ]
        return self._found

    async def watch(self, stir: Callable[[], None]) -> None:
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        while True:
            try:
                async with self._registry.changes() as subscription:
                    await subscription.subscribe(self._keys.users_changed)
                    self._stir(stir)
                    delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
                    while True:
                        message = await subscription.get_message(timeout=self._reread_s)
                        if message is not None and message["data"] != self._seat[1].encode():
                            self._stir(stir)
            except REDIS_AWAY as exc:
                # Whoever exchanges entries meets the same fault and reports it.
                log.debug("changes not heard", extra={"reason": reason_of(exc)})
            await asyncio.sleep(next(delays))

    def _stir(self, stir: Callable[[], None]) -> None:
        self._stale = True
        stir()

    async def _seats(self) -> set[Seat]:
        return {(record.name, record.incarnation) for record in await self._registry.members()}

    async def _read(self) -> list[Device]:
        devices = []
        for field, text in (await self._link.hgetall(self._keys.users_online)).items():
            name = field.decode(errors="replace") if isinstance(field, bytes) else field
            try:
                devices.append(Device.from_entry(name, text))
            except BadEntry as exc:
                # One unreadable entry must not hide the others; a newer version's are not ours to delete.
                log.warning("entry ignored", extra={"reason": str(exc)})
        return devices

    async def _sweep(self, dead: list[Device]) -> None:
        by_seat: dict[Seat, list[str]] = {}
        for device in dead:
            by_seat.setdefault((device.node, device.incarnation), []).append(device.field)
        for (node, incarnation), fields in by_seat.items():
            keys = (self._keys.users_online, self._keys.node(node))
            for start in range(0, len(fields), SWEEP_AT_ONCE):
                some = fields[start : start + SWEEP_AT_ONCE]
                await self._link.eval(_SWEEP, len(keys), *keys, incarnation, *some)
            log.info("users of a lost node removed", extra={"node": node, "devices": len(fields)})
