"""A drill: Redis goes away while the link to a node is faulty, and the node's lease with it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.drill import APP, HEALTH, LB, Drill
from tests.support.faulty_link import HANGS, WELL, faulty_link
from tests.support.nodes import running_node
from tests.support.stack import running_stack
from tests.support.valkey import Valkey
from tests.support.visitors import visit, visitors

HERE, THERE = "127.0.0.1", "127.0.0.2"
"""The nodes listen on one address of loopback and announce another one, where the links are: on the same ports."""


def test_without_redis_probes_alone_find_a_dead_node_and_a_healed_one(tmp_path: Path, valkey: Valkey) -> None:
    """All leases end meanwhile, which takes nobody out; nor does Redis' coming back empty."""

    async def main() -> None:
        async with AsyncExitStack() as running:
            options = ("--redis", valkey.url, "--advertise", THERE, "--app", APP, "--base", ".")
            names = ["a", "b", "c"]
            nodes = [
                await running.enter_async_context(running_node(tmp_path, "--name", name, *options)) for name in names
            ]
            links = [
                await running.enter_async_context(faulty_link(node.port, node.port, at=THERE, towards_host=HERE))
                for node in nodes
            ]
            lb = {**LB, "health": HEALTH}
            stack = await running.enter_async_context(running_stack(tmp_path, 0, redis=valkey.url, lb=lb))
            scene = Drill(stack, names, [link.address for link in links], links)
            await scene.all_ready()
            stream = await running.enter_async_context(visitors(scene.port))
            valkey.kill()
            began = await links[0].becomes(HANGS)
            out = await scene.became(0, "down", began)
            assert all("no answer to GET /healthz within 1 s" in event["reason"] for event in out)
            for _ in range(6):
                assert (await visit(scene.port)).node in (scene.name(1), scene.name(2))
            healed = await links[0].becomes(WELL)
            await scene.became(0, "ready", healed)
            valkey.start()
            await scene.all_ready()
            await scene.others_were_left_alone(0, since=began)
        assert stream.failed == []

    asyncio.run(main())
