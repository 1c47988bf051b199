"""The shared state in Redis.  Each step is one command or one script on one key, and publishes what it changed.

Nobody is told what nobody watches: a change is published on a channel of its key, and whoever watches subscribes to it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as redis
from redis.exceptions import ResponseError

from cluster.keys import Keys
from cluster.redis_link import REDIS_AWAY, reason_of
from node.state_values import MOST_FIELDS, BadState, Kind, StateAway, WrongKind, head_of

WITHIN_S = 2.0
"""How long one step may take before Redis counts as away."""

AT_ONCE = 16
"""Steps that are under way at the same time, each on a connection of its own; further ones wait their turn."""

# ttl: milliseconds; 0 for none; -1 for the one that it has.
_SET = """
local ttl = tonumber(ARGV[2])
if ttl > 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
elseif ttl < 0 then redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
else redis.call('SET', KEYS[1], ARGV[1]) end
return redis.call('PUBLISH', ARGV[3], ARGV[4] .. ARGV[1])
"""

_SWAP = (
    """
local now = redis.call('GET', KEYS[1])
if ARGV[5] == '1' then
    if now ~= ARGV[6] then return 0 end
elseif now then return 0 end
"""
    + _SET.replace("return redis.call('PUBLISH'", "redis.call('PUBLISH'")
    + "return 1\n"
)

_REMOVE_IF = """
if redis.call('GET', KEYS[1]) ~= ARGV[3] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
"""

_DELETE = """
if redis.call('UNLINK', KEYS[1]) == 0 then return 0 end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
"""

# The count is read again as text: a number in Lua has 53 bits.
_INCR = """
local is_new = redis.call('EXISTS', KEYS[1]) == 0
redis.call('INCRBY', KEYS[1], ARGV[1])
if is_new and tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local count = redis.call('GET', KEYS[1])
redis.call('PUBLISH', ARGV[3], ARGV[4] .. count)
return count
"""

_IF_ROOM = """
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return false
end
"""

_HSET = (
    _IF_ROOM
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[5])
redis.call('PUBLISH', ARGV[3], ARGV[4] .. ARGV[5])
return '1'
"""
)

_HINCR = (
    _IF_ROOM
    + """
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[5])
local count = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[4] .. count)
return count
"""
)

_HDELETE = """
if redis.call('HDEL', KEYS[1], ARGV[3]) == 0 then return 0 end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
"""


class RedisStore:
    """The keys of one cluster, through `link`."""

    def __init__(self, link: redis.Redis, keys: Keys) -> None:
        self._link, self._keys = link, keys
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._done(key, lambda: self._link.get(self._keys.state(key)))
        return found

    async def set(self, key: str, raw: bytes, ttl: int | None) -> None:
        await self._run(_SET, key, raw, ttl or 0, self._keys.state_changed(key), head_of(Kind.SET))

    async def swap(self, key: str, expected: bytes | None, raw: bytes | None, ttl: int | None) -> bool:
        channel = self._keys.state_changed(key)
        if raw is None:
            if expected is None:
                return await self.get(key) is None
            return bool(await self._run(_REMOVE_IF, key, channel, head_of(Kind.DELETED), expected))
        was = ("0", b"") if expected is None else ("1", expected)
        return bool(await self._run(_SWAP, key, raw, ttl or -1, channel, head_of(Kind.SET), *was))

    async def delete(self, key: str) -> bool:
        return bool(await self._run(_DELETE, key, self._keys.state_changed(key), head_of(Kind.DELETED)))

    async def expire(self, key: str, ttl: int) -> bool:
        return bool(await self._done(key, lambda: self._link.pexpire(self._keys.state(key), ttl)))

    async def incr(self, key: str, by: int, ttl: int | None) -> int:
        return int(await self._run(_INCR, key, by, ttl or 0, self._keys.state_changed(key), head_of(Kind.SET)))

    async def hget(self, key: str, field: str) -> bytes | None:
        found: bytes | None = await self._done(key, lambda: self._link.hget(self._keys.state(key), field))
        return found

    async def hset(self, key: str, field: str, raw: bytes) -> None:
        await self._with_room(_HSET, key, field, raw)

    async def hdelete(self, key: str, field: str) -> bool:
        channel = self._keys.state_changed(key)
        return bool(await self._run(_HDELETE, key, channel, head_of(Kind.DELETED, field), field))

    async def hall(self, key: str) -> dict[str, bytes]:
        found = await self._done(key, lambda: self._link.hgetall(self._keys.state(key)))
        return {field.decode(errors="replace"): raw for field, raw in found.items()}

    async def hincr(self, key: str, field: str, by: int) -> int:
        return int(await self._with_room(_HINCR, key, field, by))

    async def _with_room(self, script: str, key: str, field: str, value: bytes | int) -> bytes:
        channel = self._keys.state_changed(key)
        done: bytes | None = await self._run(script, key, field, MOST_FIELDS, channel, head_of(Kind.SET, field), value)
        if done is None:
            raise BadState(f"{key!r} has {MOST_FIELDS} fields already")
        return done

    async def _run(self, script: str, key: str, *arguments: Any) -> Any:
        return await self._done(key, lambda: self._link.eval(script, 1, self._keys.state(key), *arguments))

    async def _done(self, key: str, step: Any) -> Any:
        try:
            async with asyncio.timeout(WITHIN_S), self._turns:
                return await step()
        except ResponseError as exc:
            text = str(exc)
            if "WRONGTYPE" in text:
                raise WrongKind(f"{key!r} holds something else: a hash instead of a value, or the reverse") from None
            if "not an integer" in text or "overflow" in text:
                raise WrongKind(f"{key!r} holds no whole number, or one that would not fit into 64 bits") from None
            raise StateAway(f"Redis refused a change of {key!r}: {reason_of(exc)}") from None
        except REDIS_AWAY as exc:
            raise StateAway(f"Redis is away, so {key!r} cannot be used: {reason_of(exc)}") from None
