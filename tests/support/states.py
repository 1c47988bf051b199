"""The shared state of a node for a test: in memory, or in a real Valkey with its news heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.keys import Keys
from cluster.redis_link import connection
from node.state import State
from node.state_news import shared_state

KEYS = Keys("test")


@asynccontextmanager
async def in_memory() -> AsyncIterator[State]:
    yield shared_state(None, "none", KEYS)[0]


@asynccontextmanager
async def in_redis(url: str) -> AsyncIterator[State]:
    async with connection(url) as link:
        state, news = shared_state(link, url, KEYS)
        assert news is not None
        task = asyncio.ensure_future(news.run())
        try:
            yield state
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
