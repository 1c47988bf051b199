"""The cluster's secret: one value that every balancer and node of a cluster must have alike.

It signs the sticky cookie and the tag in each sid.  Configured as `secret`, or else agreed on through Redis: the first
process to ask makes one up, all others read it.  Who can read the cluster's Redis can therefore forge placement,
which is less than what access to that Redis allows anyway.
"""

from __future__ import annotations

import secrets

import redis.asyncio as redis

from cluster.config import Config
from cluster.keys import Keys


async def agree_on_secret(config: Config, link: redis.Redis | None) -> bytes:
    """Return the cluster's secret.  Without configuration and without Redis it is this process's own."""
    if config.secret:
        return config.secret.encode()
    made_up = secrets.token_hex(32).encode()
    if link is None:
        return made_up
    key = Keys(config.cluster).secret
    # Two commands: Redis 6.2 takes no SET with both NX and GET.
    if await link.set(key, made_up, nx=True):
        return made_up
    kept = await link.get(key)
    return kept if isinstance(kept, bytes) else made_up
