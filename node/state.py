"""State that all nodes share: `sio.state`.  Values, counters and hashes, with lifetimes and news of changes.

For what a game or a dashboard must agree on over all nodes: some thousand small things, not a database.  It is kept in
the Redis of the cluster under the cluster's name, or, without Redis, in the memory of this process alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

from cluster.backoff import full_jitter
from node.state_values import (
    BadState,
    Contended,
    Kind,
    StateAway,
    StateChange,
    StateError,
    WrongKind,
    checked_field,
    checked_key,
    checked_step,
    decoded,
    encoded,
    ttl_ms,
)
from node.watches import Watch, Watches

__all__ = ["BadState", "Contended", "Kind", "State", "StateAway", "StateChange", "StateError", "Watch", "WrongKind"]

MOST_ATTEMPTS = 50
RETRY_FIRST_S = 0.002
RETRY_MOST_S = 0.05


class Store(Protocol):
    """Where it is kept: Redis (node/state_redis.py) or memory (node/state_memory.py).

    Each method is one step that others see whole or not at all, and tells the watches.  Raises StateAway or WrongKind.
    """

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, raw: bytes, ttl: int | None) -> None: ...

    async def swap(self, key: str, expected: bytes | None, raw: bytes | None, ttl: int | None) -> bool:
        """Set to `raw`, or delete for None, if it is `expected` now.  Without `ttl` a lifetime goes on."""

    async def delete(self, key: str) -> bool: ...

    async def expire(self, key: str, ttl: int) -> bool: ...

    async def incr(self, key: str, by: int, ttl: int | None) -> int:
        """`ttl` begins when the counter does."""

    async def hget(self, key: str, field: str) -> bytes | None: ...

    async def hset(self, key: str, field: str, raw: bytes) -> None: ...

    async def hdelete(self, key: str, field: str) -> bool: ...

    async def hall(self, key: str) -> dict[str, bytes]: ...

    async def hincr(self, key: str, field: str, by: int) -> int: ...


class State:
    """Keys with values, counters or hashes that all nodes share.

    A key has at most 512 bytes, a value 256 KiB, a hash 10,000 fields.  A value is whatever JSON can hold, or bytes;
    None is no value.  Everything raises BadState for what cannot be kept, WrongKind for a key that holds something
    else, and StateAway, within seconds, while Redis is away.
    """

    def __init__(self, store: Store, watches: Watches) -> None:
        self._store, self._watches = store, watches

    # Values

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` without one."""
        raw = await self._store.get(checked_key(key))
        return default if raw is None else decoded(key, raw)

    async def set(self, key: str, value: Any, *, ttl_s: float | None = None) -> None:
        """Set `key` to `value`, whatever it held; it is gone after `ttl_s` seconds if that is given."""
        await self._store.set(checked_key(key), encoded(value), ttl_ms(ttl_s))

    async def delete(self, key: str) -> bool:
        """Delete a value, counter or hash; False if there was none."""
        return await self._store.delete(checked_key(key))

    async def expire(self, key: str, ttl_s: float) -> bool:
        """Let a value, counter or hash live for `ttl_s` seconds from now; False if there is none."""
        ttl = ttl_ms(ttl_s)
        if ttl is None:
            raise BadState("expire() needs ttl_s")
        return await self._store.expire(checked_key(key), ttl)

    async def compare_and_set(self, key: str, expected: Any, value: Any, *, ttl_s: float | None = None) -> bool:
        """Set `key` to `value` if it is `expected` now, None being no value; say whether it was.

        A `value` of None deletes it.  Without `ttl_s` a lifetime that it had goes on.
        """
        checked_key(key)
        ttl, raw = ttl_ms(ttl_s), None if value is None else encoded(value)
        for delay in _delays():
            before = await self._store.get(key)
            if (None if before is None else decoded(key, before)) != expected:
                return False
            if await self._store.swap(key, before, raw, ttl):
                return True
            await asyncio.sleep(delay)
        raise Contended(f"{key!r} was changed by others {MOST_ATTEMPTS} times in a row")

    async def update(
        self, key: str, change: Callable[[Any], Any], *, default: Any = None, ttl_s: float | None = None
    ) -> Any:
        """Set `key` to what `change` makes of its value, or of `default` without one, and return that.

        No change of others is lost: when one comes between, `change` is called again with what is there then, so it
        should do nothing but compute.  Returns it None, the key is deleted.  What it raises is raised here, and nothing
        is changed.  Raises Contended after 50 attempts.
        """
        checked_key(key)
        ttl = ttl_ms(ttl_s)
        for delay in _delays():
            before = await self._store.get(key)
            value = change(default if before is None else decoded(key, before))
            raw = None if value is None else encoded(value)
            if (raw == before and ttl is None) or await self._store.swap(key, before, raw, ttl):
                return value
            await asyncio.sleep(delay)
        raise Contended(f"{key!r} was changed by others {MOST_ATTEMPTS} times in a row")

    # Counters

    async def incr(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        """Count up, from 0 without a value, and return the new value.  `ttl_s` begins with the counter, not again."""
        return await self._store.incr(checked_key(key), checked_step(by), ttl_ms(ttl_s))

    async def decr(self, key: str, by: int = 1, *, ttl_s: float | None = None) -> int:
        """Count down; otherwise as `incr`."""
        return await self.incr(key, -checked_step(by), ttl_s=ttl_s)

    # Hashes

    async def hget(self, key: str, field: str, default: Any = None) -> Any:
        """Return the value of a field, or `default` without one."""
        raw = await self._store.hget(checked_key(key), checked_field(field))
        return default if raw is None else decoded(key, raw)

    async def hset(self, key: str, field: str, value: Any) -> None:
        """Set a field of the hash `key`."""
        await self._store.hset(checked_key(key), checked_field(field), encoded(value))

    async def hdelete(self, key: str, field: str) -> bool:
        """Delete a field; False if there was none.  A hash without fields is gone."""
        return await self._store.hdelete(checked_key(key), checked_field(field))

    async def hall(self, key: str) -> dict[str, Any]:
        """Return all fields with their values."""
        return {field: decoded(key, raw) for field, raw in (await self._store.hall(checked_key(key))).items()}

    async def hincr(self, key: str, field: str, by: int = 1) -> int:
        """Count a field up, from 0 without a value, and return the new value."""
        return await self._store.hincr(checked_key(key), checked_field(field), checked_step(by))

    # News

    def watch(self, key: str | None = None, *, prefix: str | None = None) -> Watch:
        """Return a watch on one key, or on all keys that begin with `prefix` ("" for all).

        `async with state.watch("score") as changes:` holds it: what changes after that line, on any node, comes out of
        `async for change in changes`, in order.  A change of kind MISSED says that some may be missing: Redis was away,
        or so much waited that it was dropped; read again what matters.  The end of a lifetime is no change.
        """
        if (key is None) == (prefix is None):
            raise BadState("watch() takes a key or a prefix")
        if key is not None:
            return Watch(self._watches, checked_key(key), is_prefix=False)
        return Watch(self._watches, checked_key(prefix) if prefix else "", is_prefix=True)


def _delays() -> Iterator[float]:
    return islice(full_jitter(RETRY_FIRST_S, RETRY_MOST_S), MOST_ATTEMPTS)
