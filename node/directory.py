"""The directory of users in Redis: each node's part of it, where each part is, and what changed.

A part is a hash of its own, `Keys.users_part`, that only its node writes.  Where all parts are stands in the small hash
`Keys.users_online`, so that one look at it tells which part is not in step; and each change is published.  Nothing is
ever read or removed as a whole: parts are read in pieces (HSCAN), and go by UNLINK, or by themselves when their node
does not renew them.

A part counts as long as the registry knows its node in this incarnation.  All keys share the cluster's hash tag, so
each script finds its keys in one slot of a Redis Cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson
import redis.asyncio as redis

from cluster.backoff import full_jitter
from cluster.keys import Keys
from cluster.redis_link import REDIS_AWAY, reason_of
from cluster.registry import Registry
from node.listening import lively
from node.parts import NOWHERE, BadEntry, Delta, Position, entry_of
from node.roster import Device, Seat

log = logging.getLogger(__name__)

AT_ONCE = 250
"""Entries in one command, and in one published change."""

SCAN_COUNT = 250
"""Entries in one piece of what is read; Redis takes it as a hint."""

PART_TTL_S = 300.0
"""A part whose node and neighbours are all gone outlives them for so long.  Its node renews it with each look."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 1.0

# A part is only changed from where its writer believes it to be: after a failover to a replica that lags, or in a Redis
# that came back empty, it is not, and the writer writes all of it anew.
_CHANGE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
local puts = 7 + 2 * tonumber(ARGV[7])
for i = 8, puts, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
for i = puts + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
"""

_FILL = """
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""

# A command that was stuck on a lost connection may arrive after its successor.
_BEGIN_ANEW = """
local at = redis.call('HGET', KEYS[1], ARGV[1])
if at then
    local base, version = string.match(at, '^(%d+) (%d+)$')
    if version and tonumber(version) >= tonumber(ARGV[3]) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('UNLINK', KEYS[2])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
"""

_RENEW = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if redis.call('PEXPIRE', KEYS[2], ARGV[3]) == 0 and ARGV[4] ~= '0' then return 0 end
return 1
"""

_WITHDRAW = """
redis.call('UNLINK', KEYS[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""

# Between our look at the registry and this moment the node may have come back; then its part is its own affair.
_SWEEP = """
local raw = redis.call('GET', KEYS[3])
if raw and cjson.decode(raw).incarnation == ARGV[2] then return 0 end
redis.call('UNLINK', KEYS[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""

Place = tuple[str, str]
"""Name and incarnation of a node."""


class RedisDirectory:
    """The cluster's list of users, of which the node in `seat` writes its part.  One task at a time may write.

    Every method raises one of `redis_link.REDIS_AWAY` while Redis is away, `watch` excepted.
    """

    def __init__(self, link: redis.Redis, registry: Registry, keys: Keys, seat: Seat) -> None:
        self._link, self._registry, self._keys, self._seat = link, registry, keys, seat
        self._field = f"{seat.node} {seat.incarnation}"
        self._at = NOWHERE
        self._version = NOWHERE.version
        """The highest number that was ever used: one whose fate is unknown is not used again."""
        self.unreadable = 0
        """Changes of others that could not be read."""

    # Our own part

    async def write(self, put: Collection[Device], drop: Collection[str]) -> bool:
        """Change our part; False if it is not in Redis as we left it, so that all of it must be written anew."""
        puts, drops = iter(put), iter(drop)
        while True:
            some, gone = list(islice(puts, AT_ONCE)), tuple(islice(drops, AT_ONCE))
            if not some and not gone:
                return True
            if not await self._change(some, gone):
                return False

    async def _change(self, put: list[Device], drop: tuple[str, ...]) -> bool:
        self._version += 1
        before, after = self._at, Position(self._at.base, self._version)
        entries = {device.sid: entry_of(device) for device in put}
        delta = Delta(self._seat.node, self._seat.incarnation, after, before.version, entries, drop)
        pairs = [text for sid, entry in entries.items() for text in (sid, orjson.dumps(entry))]
        done = await self._eval(
            _CHANGE,
            (self._keys.users_online, self._part(before.base)),
            self._field,
            str(before),
            str(after),
            int(PART_TTL_S * 1000),
            self._keys.users_changed,
            delta.to_json(),
            len(entries),
            *pairs,
            *drop,
        )
        if done:
            self._at = after
        return bool(done)

    async def rewrite(self, own: Sequence[Device]) -> bool:
        """Make `own` our part.  It is written beside the former one, and takes its place in one step.

        False if somebody else wrote our part: then it is tried again with a higher number.
        """
        self._version += 1
        before, after = self._at, Position(self._version, self._version)
        part = self._part(after.base)
        for some in _pieces(own):
            pairs = [text for device in some for text in (device.sid, orjson.dumps(entry_of(device)))]
            await self._eval(_FILL, (part,), int(PART_TTL_S * 1000), *pairs)
        delta = Delta(self._seat.node, self._seat.incarnation, after)
        done = await self._eval(
            _BEGIN_ANEW,
            (self._keys.users_online, self._part(before.base)),
            self._field,
            str(after),
            after.version,
            self._keys.users_changed,
            delta.to_json(),
        )
        if done:
            self._at = after
        return bool(done)

    async def renew(self, count: int) -> bool:
        """Hold our part of `count` devices for another PART_TTL_S; False if it is not in Redis as we left it."""
        at = self._at
        keys = (self._keys.users_online, self._part(at.base))
        return bool(await self._eval(_RENEW, keys, self._field, str(at), int(PART_TTL_S * 1000), count))

    async def withdraw(self) -> None:
        """Take our part away: this node leaves, and the registry tells."""
        await self._eval(_WITHDRAW, (self._keys.users_online, self._part(self._at.base)), self._field)

    # Those of others

    async def positions(self) -> dict[Place, Position]:
        """Return where each part is, ours too."""
        found: dict[Place, Position] = {}
        for field, at in (await self._link.hgetall(self._keys.users_online)).items():
            node, _, incarnation = _text(field).partition(" ")
            try:
                found[node, incarnation] = Position.from_text(_text(at))
            except BadEntry as exc:
                log.warning("part of a node ignored", extra={"node": node, "reason": str(exc)})
        return found

    async def position(self, seat: Seat) -> Position | None:
        """Return where the part of the node in `seat` is."""
        raw = await self._link.hget(self._keys.users_online, f"{seat.node} {seat.incarnation}")
        try:
            return None if raw is None else Position.from_text(_text(raw))
        except BadEntry:
            return None  # `positions` tells of it

    async def seats(self) -> set[Seat]:
        """Return the nodes that are alive."""
        return {Seat(record.name, record.incarnation, record.port) for record in await self._registry.members()}

    async def entries(self, seat: Seat, base: int) -> AsyncIterator[list[tuple[str, Any]]]:
        """Read the part of the node in `seat`, in pieces; an entry may come twice."""
        key, cursor = self._keys.users_part(seat.node, seat.incarnation, base), 0
        while True:
            piece: Any
            cursor, piece = await self._link.hscan(key, cursor, count=SCAN_COUNT)
            yield [(_text(sid), _parsed(raw)) for sid, raw in piece.items()]
            if int(cursor) == 0:
                return

    async def sweep(self, place: Place, base: int) -> None:
        """Remove the part of a node that is gone, unless it is back."""
        node, incarnation = place
        keys = (
            self._keys.users_online,
            self._keys.users_part(node, incarnation, base),
            self._keys.node(node),
        )
        if await self._eval(_SWEEP, keys, f"{node} {incarnation}", incarnation):
            log.info("users of a lost node removed", extra={"node": node})

    async def watch(self, heard: Callable[[Delta], None], stir: Callable[[], None]) -> None:
        """Pass on what other nodes changed, until cancelled.

        Call `stir` when nodes came or went, or when something may have been missed.
        """
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        while True:
            try:
                async with self._registry.changes() as subscription:
                    await subscription.subscribe(self._keys.users_changed)
                    stir()
                    async for message in lively(subscription):
                        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
                        self._pass_on(message, heard, stir)
            except REDIS_AWAY as exc:
                # Whoever reads and writes meets the same fault and reports it.
                log.debug("changes not heard", extra={"reason": reason_of(exc)})
            await asyncio.sleep(next(delays))

    def _pass_on(self, message: Mapping[str, Any], heard: Callable[[Delta], None], stir: Callable[[], None]) -> None:
        if message["type"] != "message":
            return
        if _text(message["channel"]) != self._keys.users_changed:
            stir()
            return
        try:
            delta = Delta.from_json(message["data"])
        except BadEntry as exc:
            self.unreadable += 1
            log.warning("change of users ignored", extra={"reason": str(exc)})
            stir()
            return
        if (delta.node, delta.incarnation) != (self._seat.node, self._seat.incarnation):
            heard(delta)

    def _part(self, base: int) -> str:
        return self._keys.users_part(self._seat.node, self._seat.incarnation, base)

    async def _eval(self, script: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        return await self._link.eval(script, len(keys), *keys, *arguments)


def _pieces(devices: Sequence[Device]) -> Iterator[Sequence[Device]]:
    return (devices[start : start + AT_ONCE] for start in range(0, len(devices), AT_ONCE))


def _parsed(raw: bytes | str) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return None  # no entry: node/parts.py counts it


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw
