"""Subscriptions that are quiet for hours, and how to tell them from dead ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio.client import PubSub

QUIET_S = 5.0
"""A subscription that is silent for so long is asked for a sign of life, and given up after as long again."""


async def lively(subscription: PubSub) -> AsyncIterator[dict[str, Any]]:
    """Yield whatever comes.  Raises TimeoutError when the other end gives no sign of life."""
    loop = asyncio.get_running_loop()
    heard_at, asked = loop.time(), False
    while True:
        # None is also what it returns for the answer to SUBSCRIBE.
        message = await subscription.get_message(timeout=QUIET_S)
        now = loop.time()
        if message is not None:
            heard_at, asked = now, False
            yield message
        elif now - heard_at >= 2 * QUIET_S:
            raise TimeoutError(f"no sign of life from Redis in {2 * QUIET_S:g} s")
        elif now - heard_at >= QUIET_S and not asked:
            asked = True
            await subscription.ping()
