"""Nodes and balancer agree on whose fault it is that messages do not arrive: a node's, or Redis'."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from cluster.redis_link import connection
from tests.support.between import between
from tests.support.nodes import NodeProcess, running_node
from tests.support.ports import free_port
from tests.support.stack import Stack, running_stack
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly

NODES = "bus: {canary_s: 0.3}\nnodes: {heartbeat_s: 0.2, lease_s: 2}\n"


async def _states(stack: Stack) -> dict[int, str]:
    return {node["port"]: node["state"] for node in await stack.nodes()}


async def _are(stack: Stack, expected: Mapping[int, str]) -> bool:
    states = await _states(stack)
    assert states == expected
    return True


@pytest.mark.timeout(120)
def test_a_node_that_alone_is_deaf_is_ejected_and_nobody_when_redis_hangs(tmp_path: Path, valkey: Valkey) -> None:
    """Three nodes; the first one's subscriptions lead to another Redis, from which it hears nobody."""
    other = Valkey(valkey.directory, free_port())
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "config.yaml").write_text(NODES, encoding="utf-8")

    async def main() -> None:
        async with AsyncExitStack() as parts:
            proxy = await parts.enter_async_context(between(valkey.port))
            stack = await parts.enter_async_context(running_stack(tmp_path, 0, redis=valkey.url))
            urls = [f"redis://127.0.0.1:{port}/0" for port in (proxy.port, valkey.port, valkey.port)]
            cwd = tmp_path / "nodes"
            first, *others = [
                await parts.enter_async_context(running_node(cwd, "--redis", url, cwd=cwd)) for url in urls
            ]
            well = dict.fromkeys((first.port, *(node.port for node in others)), "ready")
            await eventually(lambda: _are(stack, well))

            other.start()
            proxy.towards = other.port
            async with connection(valkey.url) as link:
                for client in await link.client_list(_type="pubsub"):
                    # The balancer's own and the other nodes' subscriptions are made anew, and work.
                    await link.client_kill_filter(_id=client["id"])
            await eventually(lambda: _are(stack, well | {first.port: "ejected"}))
            assert (await first.healthz())["http"] == 503
            proxy.towards = valkey.port
            await eventually(lambda: _are(stack, well))

            with valkey.hanging():
                for node in (first, *others):
                    await eventually(partial(_is_degraded, node))
                seen: list[dict[int, str]] = []
                looking = asyncio.ensure_future(_look(stack, seen))
                await lastingly(lambda: all(each == well for each in seen), 4)
                looking.cancel()
                assert len(seen) > 10
            await eventually(lambda: _are(stack, well))

    try:
        asyncio.run(main())
    finally:
        other.kill()


async def _is_degraded(node: NodeProcess) -> bool:
    told = await node.healthz()
    return (told["http"], told["status"]) == (200, "degraded")


async def _look(stack: Stack, seen: list[dict[int, str]]) -> None:
    while True:
        seen.append(await _states(stack))
