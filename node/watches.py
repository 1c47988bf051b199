"""Who wants to hear of changes of the shared state, and what waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from node.state_values import BadState, Kind, StateChange, WrongKind, change_from

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Changes that wait for one watch.  With more, all of them go, and MISSED is what waits."""

Topic = tuple[str, bool]
"""A key, or a prefix of keys, and whether it is a prefix."""


class Source(Protocol):
    """Who hears the changes of other nodes."""

    async def hear(self, topic: Topic) -> None:
        """Return when changes of `topic` are heard.  Raises StateAway."""

    async def ignore(self, topic: Topic) -> None:
        """Nobody listens to `topic` any more."""


class Watches:
    """All watches of this node, by what they watch.  Without a `source` there are no changes but our own."""

    def __init__(self, source: Source | None = None) -> None:
        self.source = source
        self.topics: dict[Topic, set[Watch]] = {}

    async def add(self, watch: Watch) -> None:
        """Let `watch` hear of its topic when this returns.  Raises StateAway."""
        self.topics.setdefault(watch.topic, set()).add(watch)
        if self.source is not None:
            try:
                await self.source.hear(watch.topic)
            except BaseException:
                await self.remove(watch)
                raise

    async def remove(self, watch: Watch) -> None:
        watches = self.topics.get(watch.topic, set())
        watches.discard(watch)
        if not watches and self.topics.pop(watch.topic, None) is not None and self.source is not None:
            await self.source.ignore(watch.topic)

    def tell(self, key: str, raw: bytes) -> None:
        """Tell every watch of a change of `key` as it is published."""
        for topic in [topic for topic in self.topics if (key.startswith(topic[0]) if topic[1] else key == topic[0])]:
            self.tell_topic(topic, key, raw)

    def tell_topic(self, topic: Topic, key: str, raw: bytes) -> None:
        """Tell the watches of one topic."""
        try:
            change = change_from(key, raw)
        except (BadState, WrongKind) as exc:
            log.warning("change of shared state ignored", extra={"key": key, "reason": str(exc)})
            return
        for watch in self.topics.get(topic, ()):
            watch.offer(change)

    def miss(self, topic: Topic) -> None:
        """Changes of `topic` may have been missed."""
        for watch in self.topics.get(topic, ()):
            watch.miss()


class Watch(AsyncIterator[StateChange]):
    """Changes of a key, or of the keys with a prefix, in order: `async with` it, then `async for` over it."""

    def __init__(self, watches: Watches, name: str, *, is_prefix: bool) -> None:
        self.topic: Topic = (name, is_prefix)
        self._watches = watches
        self._waiting: deque[StateChange] = deque()
        self._arrived = asyncio.Event()
        self._is_open = False

    async def __aenter__(self) -> Self:
        await self._watches.add(self)
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._arrived.set()
        await self._watches.remove(self)

    async def __anext__(self) -> StateChange:
        while not self._waiting:
            if not self._is_open:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def offer(self, change: StateChange) -> None:
        """Let a change wait to be read."""
        if len(self._waiting) >= MOST_WAITING:
            log.warning("a watch reads too slowly: changes dropped", extra={"watched": self.topic[0]})
            self._waiting.clear()
            self.miss()
        self._waiting.append(change)
        self._arrived.set()

    def miss(self) -> None:
        """Say that changes may be missing here."""
        if not self._waiting or self._waiting[-1].kind is not Kind.MISSED:
            self._waiting.append(StateChange(Kind.MISSED, self.topic[0]))
            self._arrived.set()
