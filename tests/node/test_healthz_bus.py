"""What a node says of its bus: without Redis it serves on, and one that is deaf says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.keys import Keys
from cluster.redis_link import connection
from cluster.registry import Registry
from tests.support.between import between
from tests.support.nodes import running_node
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

FAST = "bus: {canary_s: 0.3}\nnodes: {heartbeat_s: 0.2, lease_s: 1}\n"


@pytest.mark.timeout(60)
def test_an_outage_is_degraded_and_deafness_is_unready(tmp_path: Path, valkey: Valkey) -> None:
    """200 while Redis is away; 503 while this node alone hears nobody; then all is well again."""
    (tmp_path / "config.yaml").write_text(FAST, encoding="utf-8")
    other = Valkey(valkey.directory, free_port())

    async def main() -> None:
        async with (
            between(valkey.port) as proxy,
            running_node(tmp_path, "--redis", f"redis://127.0.0.1:{proxy.port}/0", cwd=tmp_path) as node,
        ):

            async def says(status: str, bus: str, http: int) -> bool:
                told = await node.healthz()
                assert (told["status"], told["bus"], told["http"]) == (status, bus, http), told
                return True

            await eventually(lambda: says("ok", "ok", 200))
            valkey.kill()
            await eventually(lambda: says("degraded", "away", 200))
            valkey.start()
            await eventually(lambda: says("ok", "ok", 200))
            other.start()
            # New connections lead elsewhere: whoever subscribes there hears nothing, and everything looks well.
            proxy.towards = other.port
            async with connection(valkey.url) as link:
                await link.client_kill_filter(_type="pubsub")
            await eventually(lambda: says("deaf", "deaf", 503))
            proxy.towards = valkey.port
            await eventually(lambda: says("ok", "ok", 200))

    try:
        asyncio.run(main())
    finally:
        other.kill()


@pytest.mark.timeout(60)
def test_a_redis_that_hangs_is_no_deafness_of_the_node(tmp_path: Path, valkey: Valkey) -> None:
    """However long its own canaries have not come back: Redis does not answer, so nobody could hear."""
    (tmp_path / "config.yaml").write_text(FAST, encoding="utf-8")

    async def main() -> None:
        async with running_node(tmp_path, "--redis", valkey.url, cwd=tmp_path) as node:
            told: list[dict[str, object]] = []

            async def all_well() -> bool:
                told.append(await node.healthz())
                return told[-1]["status"] == "ok"

            await eventually(all_well)
            with valkey.hanging():
                del told[:]

                async def degraded_for_a_while() -> bool:
                    await all_well()
                    return len([each for each in told if each["status"] == "degraded"]) > 150

                await eventually(degraded_for_a_while, within_s=30)
            assert {(each["status"], each["http"]) for each in told} <= {("ok", 200), ("degraded", 200)}
            await eventually(all_well)

    asyncio.run(main())


def test_the_record_tells_of_the_bus(tmp_path: Path, valkey: Valkey) -> None:
    """Balancers show it in their metrics."""
    (tmp_path / "config.yaml").write_text(FAST, encoding="utf-8")

    async def main() -> None:
        async with running_node(tmp_path, "--redis", valkey.url, cwd=tmp_path), connection(valkey.url) as link:
            registry = Registry(link, Keys("flotilla"))

            async def flew() -> bool:
                [record] = await registry.members()
                return record.bus_canary_ms > 0 and record.bus_subscriptions >= 1 and record.bus_published > 0

            await eventually(flew)
            [record] = await registry.members()
            assert record.bus_dropped == 0

    asyncio.run(main())
