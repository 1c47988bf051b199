"""cluster/secret.py: one secret for a whole cluster."""

from __future__ import annotations

import asyncio

import pytest

from cluster.config import Config
from cluster.keys import Keys
from cluster.redis_link import REDIS_AWAY, connection
from cluster.secret import agree_on_secret
from tests.support.valkey import Valkey


def test_a_configured_secret_is_the_secret(valkey: Valkey) -> None:
    """Redis is not even asked, and learns nothing of it."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            assert await agree_on_secret(Config(secret="mine"), link) == b"mine"
            assert await agree_on_secret(Config(secret="mine"), None) == b"mine"
            assert await link.keys() == []

    asyncio.run(main())


def test_processes_that_start_together_agree(valkey: Valkey) -> None:
    """Fifty at once, each with a connection of its own: one of them made it up."""

    async def ask() -> bytes:
        async with connection(valkey.url) as link:
            return await agree_on_secret(Config(), link)

    async def main() -> None:
        found = set(await asyncio.gather(*(ask() for _ in range(50))))
        assert len(found) == 1
        async with connection(valkey.url) as link:
            assert await link.get(Keys("flotilla").secret) in found

    asyncio.run(main())


def test_two_clusters_in_one_redis_have_two_secrets(valkey: Valkey) -> None:
    """A sid of one is worthless in the other."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            one = await agree_on_secret(Config(cluster="one"), link)
            assert await agree_on_secret(Config(cluster="two"), link) != one
            assert await agree_on_secret(Config(cluster="one"), link) == one

    asyncio.run(main())


def test_without_redis_a_process_has_a_secret_of_its_own() -> None:
    """256 random bits."""

    async def main() -> None:
        one, two = await agree_on_secret(Config(), None), await agree_on_secret(Config(), None)
        assert one != two
        assert len(bytes.fromhex(one.decode())) == 32

    asyncio.run(main())


def test_a_redis_that_is_away_is_said(valkey: Valkey) -> None:
    """The caller decides whether to wait: a secret of one's own would split the cluster silently."""

    async def main() -> None:
        valkey.kill()
        async with connection(valkey.url) as link:
            with pytest.raises(REDIS_AWAY):
                await agree_on_secret(Config(), link)

    asyncio.run(main())
