"""The shared state of a node for a test: in memory, or in a real Valkey with its news heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from cluster.keys import Keys
from cluster.redis_link import connection
from node.state import State
from node.state_memory import state_in_memory
from node.state_news import state_in_redis

KEYS = Keys("test")


@asynccontextmanager
async def in_memory() -> AsyncIterator[State]:
    yield state_in_memory()


@asynccontextmanager
async def in_redis(url: str) -> AsyncIterator[State]:
    async with connection(url) as link:
        state, news = state_in_redis(link, partial(connection, url, blocking=True), KEYS)
        task = asyncio.ensure_future(news.run())
        try:
            yield state
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
