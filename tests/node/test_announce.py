"""Heartbeats: what happens when Redis forgets, goes away, or knows somebody else by our name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cluster.keys import Keys
from cluster.member import NodeRecord, State
from cluster.redis_link import connection
from cluster.registry import Registry
from node.announce import Announcer, advertised_host
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

KEYS = Keys("test")


@asynccontextmanager
async def announcing(
    url: str, incarnation: str = "i1", port: int = 3000, measured: list[int] | None = None
) -> AsyncIterator[tuple[Announcer, list[int]]]:
    record = NodeRecord(name="n1", host="127.0.0.1", port=port, incarnation=incarnation, pid=port)
    forgotten: list[int] = []

    def measure() -> NodeRecord:
        if measured is not None:
            measured.append(1)
        return record

    async with connection(url) as link:
        announcer = Announcer(
            Registry(link, KEYS),
            measure,
            heartbeat_s=0.05,
            lease_s=5.0,
            forgotten=lambda: forgotten.append(1),
        )
        await announcer.enter(State.READY)
        task = asyncio.ensure_future(announcer.run())
        try:
            yield announcer, forgotten
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_an_outage_is_told_once_and_the_node_announced_again(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Redis comes back empty: whoever keeps things there is told that they are gone."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        measured: list[int] = []
        async with announcing(valkey.url, measured=measured) as (announcer, forgotten):
            assert (announcer.redis, forgotten) == ("ok", [])
            valkey.kill()
            await eventually(lambda: announcer.redis == "away")
            beats = len(measured)
            await eventually(lambda: len(measured) > beats + 3, what="more heartbeats while it is away")
            valkey.start()
            await eventually(lambda: announcer.redis == "ok")
            assert forgotten == [1]
            async with connection(valkey.url) as link:
                assert [record.name for record in await Registry(link, KEYS).members()] == ["n1"]

    asyncio.run(main())
    assert messages(caplog, logging.WARNING) == ["Redis is away: serving on, not announced"]
    assert messages(caplog, logging.INFO) == ["Redis is back: announced again"]


def test_a_start_without_redis_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And signing off does not hang on it."""

    async def main() -> None:
        measured: list[int] = []
        async with announcing(f"redis://127.0.0.1:{free_port()}/0", measured=measured) as (announcer, _):
            await eventually(lambda: len(measured) > 4)
            await announcer.withdraw()

    asyncio.run(main())
    assert len(messages(caplog, logging.WARNING)) == 1


def test_a_successor_takes_the_name_over_quietly(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """A node that was killed and started again finds its own old record."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        measured: list[int] = []
        async with announcing(valkey.url, "i1"):
            pass
        async with announcing(valkey.url, "i2", measured=measured) as (_, forgotten):
            await eventually(lambda: len(measured) > 4)
            assert forgotten == []

    asyncio.run(main())
    assert messages(caplog, logging.INFO) == ["name taken over"]
    assert messages(caplog, logging.ERROR) == []


def test_two_processes_of_one_name_say_so_loudly_and_who_the_other_is(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Each tells once of the other."""

    async def main() -> None:
        async with announcing(valkey.url, "i1", 3001), announcing(valkey.url, "i2", 3002):
            await eventually(lambda: len(messages(caplog, logging.ERROR)) == 2)

    asyncio.run(main())
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert {record.__dict__["port"] for record in errors} == {3001, 3002}


def test_withdrawing_takes_only_our_own_record(valkey: Valkey) -> None:
    """Our successor is not signed off by us."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            async with announcing(valkey.url, "i1") as (old, _):
                pass
            async with announcing(valkey.url, "i2"):
                pass
            async with connection(valkey.url) as other:
                old._registry = Registry(other, KEYS)
                await old.withdraw()
            assert [record.incarnation for record in await Registry(link, KEYS).members()] == ["i2"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("listen", "url", "advertised"),
    [
        ("10.1.2.3", "redis://elsewhere/0", "10.1.2.3"),
        ("0.0.0.0", None, "127.0.0.1"),
        ("::", None, "::1"),
        ("0.0.0.0", "unix:///run/valkey.sock", "127.0.0.1"),
        ("0.0.0.0", "redis://user:pass@127.0.0.1:6379/0", "127.0.0.1"),
        ("0.0.0.0", "redis+sentinel://:pass@127.0.0.1:26379,10.0.0.1:26379/0/main", "127.0.0.1"),
        ("0.0.0.0", "redis://no-such-host.invalid/0", "127.0.0.1"),
    ],
)
def test_the_announced_address_is_ours_on_the_way_to_redis(listen: str, url: str | None, advertised: str) -> None:
    """A specific address is announced as it is; without a way to Redis it is loopback."""
    assert advertised_host(listen, url) == advertised
