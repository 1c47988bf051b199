"""The registry: who is a member of the cluster, kept in Redis under leases.

A node writes its record with each heartbeat and is gone when its lease ends or when it signs off.  Readers take a
whole picture at once; a channel tells them early that it changed.  Nothing here scans, and nothing sweeps: the set of
names is only a list of where to look, and whoever finds a name without a record takes the name out.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis
from redis.asyncio.client import PubSub

from cluster.keys import Keys
from cluster.member import BadRecord, NodeRecord

log = logging.getLogger(__name__)

# Only the incarnation that wrote a record may take it away: a node that was replaced must not sign off its successor.
_WITHDRAW = """
local raw = redis.call('GET', KEYS[1])
if not raw or cjson.decode(raw).incarnation ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return 1
"""


class Registry:
    """The members of the cluster named by `keys`, through the Redis client `link`.

    Every method raises one of `redis_link.REDIS_AWAY` while Redis is away.  An `agreed` secret is kept there with each
    announcement: a Redis that came back empty would let newcomers agree on another, whose sids nobody else can read.
    """

    def __init__(self, link: redis.Redis, keys: Keys, agreed: bytes = b"") -> None:
        self._link = link
        self._keys = keys
        self._agreed = agreed
        self._complaints: dict[str, str] = {}

    async def announce(self, record: NodeRecord, lease_s: float, *, changed: bool) -> NodeRecord | None:
        """Write `record` under a lease of `lease_s`; with `changed`, tell everybody at once.

        Returns the record that stood there before, if any: None tells a node that Redis had forgotten it, another
        incarnation that somebody else uses its name.
        """
        async with self._link.pipeline(transaction=True) as pipe:
            pipe.set(self._keys.node(record.name), record.to_json(), px=int(lease_s * 1000), get=True)
            pipe.sadd(self._keys.nodes, record.name)
            if changed:
                pipe.publish(self._keys.nodes_changed, record.name)
            if self._agreed:
                pipe.set(self._keys.secret, self._agreed, nx=True)
            before, *_ = await pipe.execute()
        return self._read(record.name, before)

    async def withdraw(self, name: str, incarnation: str) -> bool:
        """Take the record of `incarnation` away and tell everybody; False if the record is not (or no longer) its."""
        keys = self._keys
        script_keys = (keys.node(name), keys.nodes)
        return bool(
            await self._link.eval(_WITHDRAW, len(script_keys), *script_keys, incarnation, name, keys.nodes_changed)
        )

    async def members(self) -> list[NodeRecord]:
        """Return the records of all nodes whose lease holds, by name."""
        names = sorted(_text(raw) for raw in await self._link.smembers(self._keys.nodes))
        self._complaints = {name: text for name, text in self._complaints.items() if name in names}
        if not names:
            return []
        found, ended = [], []
        for name, raw in zip(names, await self._link.mget([self._keys.node(name) for name in names]), strict=True):
            if raw is None:
                ended.append(name)
            elif (record := self._read(name, raw)) is not None:
                found.append(record)
        if ended:
            # A node that renews right now adds its name again with its next heartbeat.
            await self._link.srem(self._keys.nodes, *ended)
        return found

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[PubSub]:
        """Hold a subscription to the names of nodes that changed; read it with `get_message`."""
        async with self._link.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(self._keys.nodes_changed)
            yield subscription

    def _read(self, name: str, raw: bytes | str | None) -> NodeRecord | None:
        if raw is None:
            return None
        try:
            record = NodeRecord.from_json(raw)
            if record.name != name:
                raise BadRecord(f"it is called {record.name}")
        except BadRecord as exc:
            # One unreadable node must not hide the others, nor fill the log with each heartbeat.
            if self._complaints.get(name) != str(exc):
                self._complaints[name] = str(exc)
                log.warning("record ignored", extra={"node": name, "reason": str(exc)})
            return None
        self._complaints.pop(name, None)
        return record


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw
