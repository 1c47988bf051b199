"""The shared state of a node without Redis: in this process' memory, and for it alone."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from node.state_values import MOST_FIELDS, BadState, Kind, WrongKind, head_of

_INTEGER = re.compile(rb"-?\d{1,19}")


@dataclass(slots=True)
class _Kept:
    held: bytes | dict[str, bytes]
    until: float | None = None


@dataclass(slots=True, order=True)
class _End:
    at: float
    key: str = field(compare=False)


class MemoryStore:
    """Does what node/state_redis.py does; `tell` hears of each change."""

    def __init__(self, tell: Callable[[str, bytes], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._kept: dict[str, _Kept] = {}
        self._ends: list[_End] = []

    async def get(self, key: str) -> bytes | None:
        return self._value(key)

    async def set(self, key: str, raw: bytes, ttl: int | None) -> None:
        self._kept[key] = _Kept(raw, self._until(key, ttl))
        self._tell(key, head_of(Kind.SET) + raw)

    async def swap(self, key: str, expected: bytes | None, raw: bytes | None, ttl: int | None) -> bool:
        if self._value(key) != expected:
            return False
        if raw is None:
            return await self.delete(key) or True
        kept = self._kept.setdefault(key, _Kept(raw))
        kept.held = raw
        if ttl is not None:
            kept.until = self._until(key, ttl)
        self._tell(key, head_of(Kind.SET) + raw)
        return True

    async def delete(self, key: str) -> bool:
        self._forget_ended()
        if self._kept.pop(key, None) is None:
            return False
        self._tell(key, head_of(Kind.DELETED))
        return True

    async def expire(self, key: str, ttl: int) -> bool:
        self._forget_ended()
        kept = self._kept.get(key)
        if kept is not None:
            kept.until = self._until(key, ttl)
        return kept is not None

    async def incr(self, key: str, by: int, ttl: int | None) -> int:
        before = self._value(key)
        count = _counted(key, before, by)
        kept = self._kept.setdefault(key, _Kept(b""))
        kept.held = b"%d" % count
        if before is None:
            kept.until = self._until(key, ttl)
        self._tell(key, head_of(Kind.SET) + kept.held)
        return count

    async def hget(self, key: str, field: str) -> bytes | None:
        return self._hash(key).get(field)

    async def hset(self, key: str, field: str, raw: bytes) -> None:
        fields = self._hash(key)
        if field not in fields and len(fields) >= MOST_FIELDS:
            raise BadState(f"{key!r} has {MOST_FIELDS} fields already")
        fields[field] = raw
        self._kept.setdefault(key, _Kept(fields))
        self._tell(key, head_of(Kind.SET, field) + raw)

    async def hdelete(self, key: str, field: str) -> bool:
        fields = self._hash(key)
        if fields.pop(field, None) is None:
            return False
        if not fields:
            del self._kept[key]
        self._tell(key, head_of(Kind.DELETED, field))
        return True

    async def hall(self, key: str) -> dict[str, bytes]:
        return dict(self._hash(key))

    async def hincr(self, key: str, field: str, by: int) -> int:
        count = _counted(key, self._hash(key).get(field), by)
        await self.hset(key, field, b"%d" % count)
        return count

    def _value(self, key: str) -> bytes | None:
        self._forget_ended()
        kept = self._kept.get(key)
        if kept is not None and isinstance(kept.held, dict):
            raise WrongKind(f"{key!r} holds a hash")
        return None if kept is None else kept.held  # type: ignore[return-value]

    def _hash(self, key: str) -> dict[str, bytes]:
        self._forget_ended()
        kept = self._kept.get(key)
        if kept is None:
            return {}
        if not isinstance(kept.held, dict):
            raise WrongKind(f"{key!r} holds no hash")
        return kept.held

    def _until(self, key: str, ttl: int | None) -> float | None:
        self._forget_ended()
        if ttl is None:
            return None
        until = self._clock() + ttl / 1000
        heapq.heappush(self._ends, _End(until, key))
        return until

    def _forget_ended(self) -> None:
        now = self._clock()
        while self._ends and self._ends[0].at <= now:
            key = heapq.heappop(self._ends).key
            kept = self._kept.get(key)
            if kept is not None and kept.until is not None and kept.until <= now:
                del self._kept[key]


def _counted(key: str, before: bytes | None, by: int) -> int:
    if before is not None and not _INTEGER.fullmatch(before):
        raise WrongKind(f"{key!r} holds no whole number")
    count = int(before or 0) + by
    if not -(2**63) <= count < 2**63:
        raise WrongKind(f"{key!r} would not fit into 64 bits")
    return count
