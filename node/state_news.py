"""News of the shared state from Redis: one subscription for all watches of this node, while there are any."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import redis.asyncio as redis
from redis.asyncio.client import PubSub

from cluster.backoff import full_jitter
from cluster.keys import Keys
from cluster.redis_link import REDIS_AWAY, connection, reason_of
from node.listening import lively
from node.state import State
from node.state_memory import MemoryStore
from node.state_redis import RedisStore
from node.state_values import StateAway
from node.watches import Topic, Watches

log = logging.getLogger(__name__)

WITHIN_S = 2.0
"""How long a watch may take to begin before Redis counts as away."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 1.0

Connect = Callable[[], AbstractAsyncContextManager[redis.Redis]]


class StateNews:
    """Hears what is published of the keys that `watches` watch, on a connection of its own from `connect`."""

    def __init__(self, connect: Connect, keys: Keys, watches: Watches) -> None:
        self._connect, self._keys, self._watches = connect, keys, watches
        self._subscription: PubSub | None = None
        self._wanted = asyncio.Event()
        self._held: dict[Topic, asyncio.Event] = {}
        self._topics: dict[tuple[str, bool], Topic] = {}
        self._missing: set[Topic] = set()
        """What was heard before the subscription was lost."""
        self._asked: Counter[tuple[str, bool]] = Counter()
        """How many subscriptions to a channel, or pattern, are not confirmed yet: there may be some of earlier watches,
        given up since."""
        self._turn = asyncio.Lock()
        """Who has it may speak to the subscription.  Two at once would open a connection each for it, and one of them
        would hear nobody; and whoever speaks to one that is being closed would open another."""
        self._away = False

    async def hear(self, topic: Topic) -> None:
        """Return when changes of `topic` are heard.  Raises StateAway."""
        held = self._held.get(topic)
        if held is None:
            held = self._held[topic] = asyncio.Event()
            self._topics[self._channel(topic), topic[1]] = topic
            self._wanted.set()
        try:
            async with asyncio.timeout(WITHIN_S):
                async with self._turn:
                    if self._subscription is not None and not held.is_set():
                        await self._subscribe(self._subscription, [topic])
                await held.wait()
        except REDIS_AWAY as exc:
            raise StateAway(f"Redis is away, so {topic[0]!r} cannot be watched: {reason_of(exc)}") from None

    async def ignore(self, topic: Topic) -> None:
        """Nobody listens to `topic` any more."""
        self._held.pop(topic, None)
        self._topics.pop((self._channel(topic), topic[1]), None)
        self._missing.discard(topic)
        try:
            async with asyncio.timeout(WITHIN_S), self._turn:
                if self._subscription is not None and topic not in self._held:
                    await self._unsubscribe(self._subscription, topic)
        except REDIS_AWAY as exc:
            # Whoever listens meets the same fault; what still comes is for nobody.
            log.debug("not unsubscribed", extra={"reason": reason_of(exc)})

    async def run(self) -> None:
        """Listen while anything is watched, until cancelled."""
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        while True:
            await self._wanted.wait()
            try:
                async with self._connect() as link, self._subscribed(link) as subscription:
                    async for message in self._messages(subscription):
                        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
                        self._take(message)
                    continue
            except REDIS_AWAY as exc:
                self._lost(exc)
            finally:
                self._missing.update(topic for topic, held in self._held.items() if held.is_set())
                for held in self._held.values():
                    held.clear()
            await asyncio.sleep(next(delays))

    @asynccontextmanager
    async def _subscribed(self, link: redis.Redis) -> AsyncIterator[PubSub]:
        """Subscribe to all that is watched; whoever watches more meanwhile subscribes to that."""
        async with link.pubsub() as subscription:
            try:
                async with self._turn:
                    self._asked.clear()
                    await self._subscribe(subscription, [*self._held])
                    self._subscription = subscription
                yield subscription
            finally:
                async with self._turn:
                    self._subscription = None

    async def _messages(self, subscription: PubSub) -> Any:
        """Yield what comes, until nothing is watched any more."""
        async for message in lively(subscription):
            yield message
            if not self._held:
                self._wanted.clear()
                return

    async def _subscribe(self, subscription: PubSub, topics: list[Topic]) -> None:
        keys = [self._channel(topic) for topic in topics if not topic[1]]
        prefixes = [self._channel(topic) for topic in topics if topic[1]]
        self._asked.update([*((key, False) for key in keys), *((prefix, True) for prefix in prefixes)])
        if keys:
            await subscription.subscribe(*keys)
        if prefixes:
            await subscription.psubscribe(*prefixes)

    async def _unsubscribe(self, subscription: PubSub, topic: Topic) -> None:
        leave = subscription.punsubscribe if topic[1] else subscription.unsubscribe
        await leave(self._channel(topic))

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribe" | "psubscribe" as kind:
                self._begin((_text(message["channel"]), kind == "psubscribe"))
            case "message":
                self._tell(self._topics.get((_text(message["channel"]), False)), message)
            case "pmessage":
                self._tell(self._topics.get((_text(message["pattern"]), True)), message)

    def _begin(self, name: tuple[str, bool]) -> None:
        self._asked[name] -= 1
        if self._asked[name] > 0:
            return  # that was for an earlier watch, which has unsubscribed since
        del self._asked[name]
        topic = self._topics.get(name)
        if topic is None:
            return
        self._held[topic].set()
        if topic in self._missing:
            self._missing.discard(topic)
            self._watches.miss(topic)
        if self._away:
            self._away = False
            log.info("shared state is heard again")

    def _tell(self, topic: Topic | None, message: dict[str, Any]) -> None:
        if topic is not None:
            key = _text(message["channel"]).removeprefix(self._keys.state_changed(""))
            self._watches.tell_topic(topic, key, message["data"])

    def _channel(self, topic: Topic) -> str:
        name, is_prefix = topic
        channel = self._keys.state_changed(name)
        return re.sub(r"([*?\[\]\\])", r"\\\1", channel) + "*" if is_prefix else channel

    def _lost(self, exc: BaseException) -> None:
        if not self._away:
            self._away = True
            log.warning("shared state is not heard: watches may miss changes", extra={"reason": reason_of(exc)})


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def shared_state(link: redis.Redis | None, url: str, keys: Keys) -> tuple[State, StateNews | None]:
    """Return the state of a node, and what must run so that its watches hear of changes.

    It is kept through `link`, whose Redis is at `url`, or in memory without one.
    """
    watches = Watches()
    if link is None:
        return State(MemoryStore(watches.tell), watches), None
    watches.source = news = StateNews(partial(connection, url, blocking=True), keys, watches)
    return State(RedisStore(link, keys), watches), news
