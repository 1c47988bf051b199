"""The Redis of a stack: embedded, somebody else's or none, and each reason why there is none in one line."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from cluster import embedded
from cluster.config import Config
from cluster.errors import StartError
from cluster.host import host_id
from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import connection
from cluster.registry import Registry
from cluster.rundir import RunDir
from lb import stack_redis
from lb.stack_redis import Redis
from tests.support.children import QUICK, supervising
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


def test_a_server_that_does_not_start_is_one_readable_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said last is the reason; it is not tried ten times before a user hears of it."""
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'no memory' >&2; exit 1; }\n", encoding="ascii")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "binary", lambda: broken)

    async def main() -> None:
        async with supervising(tmp_path, QUICK) as (supervisor, _):
            redis = Redis(Config())
            await redis.check()
            with pytest.raises(StartError, match=r"^redis: the embedded Valkey does not start: .*no memory$"):
                await redis.start(supervisor, redis.spec(RunDir(tmp_path), 0.0))

    asyncio.run(main())


def test_a_redis_that_goes_away_before_the_secret_is_agreed_on_is_one_readable_line() -> None:
    """Its password is not told."""
    port = free_port()
    with pytest.raises(StartError, match=rf"^no Redis at redis://:\*\*\*@127.0.0.1:{port}/0: "):
        asyncio.run(Redis(Config(redis=f"redis://:hidden@127.0.0.1:{port}/0")).secret())


def test_the_secret_is_one_for_the_cluster(valkey: Valkey) -> None:
    """Whoever asks second reads what the first made up."""

    async def main() -> None:
        config = Config(redis=valkey.url)
        first, second = await Redis(config).secret(), await Redis(config).secret()
        assert first == second
        assert len(first) == 64

    asyncio.run(main())


def test_the_agreed_secret_outlives_a_redis_that_forgot_it(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a node that comes later would sign its sids with another one, and no balancer could route them."""
    monkeypatch.setattr(stack_redis, "KEEP_SECRET_S", 0.05)
    caplog.set_level(logging.DEBUG, "lb.stack_redis")

    async def main() -> None:
        kept = Redis(Config(redis=valkey.url))
        secret = await kept.secret()
        keeping = asyncio.create_task(kept.keep_secret(secret))
        await asyncio.sleep(0)
        valkey.kill()
        await eventually(lambda: "secret not kept" in caplog.messages)
        valkey.start()

        async def is_there() -> bool:
            async with connection(valkey.url) as link:
                return bool(await link.get(Keys("flotilla").secret) == secret.encode())

        await eventually(is_there)
        keeping.cancel()
        await asyncio.wait([keeping])
        assert keeping.cancelled()

    asyncio.run(main())


def test_a_secret_that_running_nodes_have_is_kept(valkey: Valkey) -> None:
    """What they have signed must stay readable; but what is configured, or agreed on with others, goes first."""

    async def main() -> None:
        assert await Redis(Config()).secret("theirs") == "theirs"
        assert await Redis(Config(redis="none")).secret("theirs") == "theirs"
        assert await Redis(Config(secret="configured")).secret("theirs") == "configured"
        shared = Redis(Config(redis=valkey.url))
        assert await shared.secret("theirs") == "theirs"
        assert await shared.secret("another's") == "theirs"

    asyncio.run(main())


@pytest.mark.parametrize("config", [Config(), Config(redis="none"), Config(redis="redis://h", secret="s")])
def test_a_secret_that_nobody_agreed_on_there_is_not_put_into_redis(config: Config) -> None:
    """It returns at once."""
    asyncio.run(asyncio.wait_for(Redis(config).keep_secret("s"), 30))


def test_only_the_process_that_died_is_signed_off(valkey: Valkey) -> None:
    """Not its successor, and not a node of that name and pid on another host."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            registry = Registry(link, Keys("flotilla"))
            for name, pid, host in (("a", 7, host_id()), ("b", 8, host_id()), ("c", 7, "other")):
                record = NodeRecord(name=name, host="127.0.0.1", port=3000, incarnation=name, pid=pid, host_id=host)
                await registry.announce(record, 60, changed=True)
            redis = Redis(Config(redis=valkey.url))
            for name in ("a", "b", "c"):
                await redis.sign_off(name, 7)
            assert [record.name for record in await registry.members()] == ["b", "c"]

    asyncio.run(main())


def test_signing_off_without_redis_is_no_error() -> None:
    """The lease ends anyway; with `redis: none` there is nothing to do."""

    async def main() -> None:
        await Redis(Config(redis=f"redis://127.0.0.1:{free_port()}/0")).sign_off("n3000", 7)
        await Redis(Config(redis="none")).sign_off("n3000", 7)

    asyncio.run(main())
