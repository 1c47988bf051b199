"""Connections to Redis: one place that knows URLs, timeouts and what a lost Redis looks like."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError

from cluster.errors import StartError
from cluster.redis_address import RedisAddress, parse
from cluster.slot_link import client_of

REDIS_AWAY = (RedisError, OSError, TimeoutError)
"""What a command raises while Redis is away: refused, reset, timed out, loading, failed over."""

CONNECT_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 3.0


def connect(url: str, *, blocking: bool = False) -> redis.Redis:
    """Return a client for `url` (redis, rediss, unix, redis+sentinel or redis+cluster); nothing is sent yet.

    With `blocking` no limit is set on the wait for an answer: that is for a subscriber, which hears nothing for hours.
    Commands are not retried by the library: our callers know whether a retry is right, and how long to wait.
    """
    options: dict[str, Any] = {
        "socket_timeout": None if blocking else COMMAND_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 15,
        "decode_responses": False,
    }
    if not url.startswith("unix:"):
        options |= {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive": True}
    if url.startswith("redis+cluster:"):
        return _cancellable(_to_cluster(parse(url), options))
    if url.startswith("redis+sentinel:"):
        client = _through_sentinel(parse(url), options)
        for sentinel in _sentinels_of(client):
            _cancellable(sentinel)
        return _cancellable(client)
    return _cancellable(redis.Redis.from_url(url, **options))


@asynccontextmanager
async def connection(url: str, *, blocking: bool = False) -> AsyncIterator[redis.Redis]:
    """Take a client for `url` and give it back, whatever happens."""
    client = connect(url, blocking=blocking)
    try:
        yield client
    finally:
        for each in (client, *_sentinels_of(client)):
            await each.aclose()


async def check(url: str) -> None:
    """Raise StartError, one readable line, unless Redis at `url` answers a PING."""
    async with connection(url) as client:
        try:
            await client.ping()
        except REDIS_AWAY as exc:
            raise StartError(f"no Redis at {without_password(url)}: {reason_of(exc)}") from None


def reason_of(exc: BaseException) -> str:
    """Return why Redis is away, for a log line: some errors of the library have no text, others a full stop."""
    text = str(exc)
    if isinstance(exc, MasterNotFoundError):
        # Behind the colon the library prints its client objects, one for each sentinel that it asked.
        text = text.partition(" : ")[0] + ": no sentinel that was asked names one"
    return text.rstrip(".") or type(exc).__name__


def without_password(url: str) -> str:
    """Return `url` as a log line may show it."""
    return re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", url)


def _through_sentinel(address: RedisAddress, options: dict[str, Any]) -> redis.Redis:
    options |= {"db": address.database, "username": address.username or None, "password": address.password or None}
    # One sentinel that hangs or is gone must not keep us from asking the next.
    asking = {
        "socket_timeout": COMMAND_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": options["retry"],
    }
    sentinels = [(server.host, server.port) for server in address.servers]
    sentinel = Sentinel(sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(address.service, **options)
    return client


def _to_cluster(address: RedisAddress, options: dict[str, Any]) -> redis.Redis:
    options |= {"username": address.username or None, "password": address.password or None}
    return client_of(address.servers, **options)


def _sentinels_of(client: redis.Redis) -> list[redis.Redis]:
    """Return the clients through which `client` finds its master, if it does: they are closed by nobody else."""
    pool = client.connection_pool
    return list(pool.sentinel_manager.sentinels) if isinstance(pool, SentinelConnectionPool) else []


def _cancellable(client: redis.Redis) -> redis.Redis:
    client.connection_pool.connection_class = _cancellable_kind(client.connection_pool.connection_class)  # type: ignore[arg-type]
    return client


@cache
def _cancellable_kind(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return `kind` without a fault of Python 3.11: a task that uses it and is cancelled always ends.

    redis-py writes under `asyncio.wait_for`, which loses a cancellation that arrives as the write is done (CPython
    issue 86296, mended in 3.12); the task then waits for the next message as if nothing had happened.
    """

    class Cancellable(kind):  # type: ignore[valid-type,misc]
        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            task = asyncio.current_task()
            before = task.cancelling() if task else 0
            try:
                await super().send_packed_command(*args, **kwargs)
            except RuntimeError as exc:
                # uvloop's word for a transport that was closed under redis-py; asyncio's is an OSError.
                raise LostConnection(str(exc)) from None
            if task and task.cancelling() > before:
                # Its answer would be taken for that to the next command.
                await self.disconnect(nowait=True)
                raise asyncio.CancelledError

    return Cancellable
