"""The drill once more, with six nodes on hosts of their own: cut, half open and lossy as the kernel makes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.balancer import SECRET
from tests.support.drill import APP, HEALTH, LB, NODES, Drill
from tests.support.namespaces import Namespace, namespaces, need_loss
from tests.support.nodes import killed, running_node
from tests.support.stack import running_stack
from tests.support.visitors import Visitors, visitors
from tests.support.waiting import eventually


@asynccontextmanager
async def _on_hosts(directory: Path, hosts: list[Namespace], lb: Mapping[str, Any] = LB) -> AsyncIterator[Drill]:
    (directory / "config.yaml").write_text(f"secret: {SECRET}\nredis: none\nnodes: {{local: 1}}\n", encoding="utf-8")
    options = ("--config", str(directory / "config.yaml"), "--base", ".", "--app", APP, "--host", "0.0.0.0")
    names = [f"host{number}" for number in range(len(hosts))]
    async with AsyncExitStack() as running:
        nodes = [
            await running.enter_async_context(running_node(directory, *options, "--name", name, under=host.under))
            for name, host in zip(names, hosts, strict=True)
        ]
        addresses = [f"{host.address}:{node.port}" for host, node in zip(hosts, nodes, strict=True)]
        static = {"discover": False, "static": [f"http://{address}" for address in addresses]}
        sections: dict[str, Any] = {"secret": SECRET, "redis": "none", "lb": {"health": HEALTH, **lb}}
        stack = await running.enter_async_context(running_stack(directory, 0, static, **sections))
        scene = Drill(stack, names, addresses)
        await scene.all_ready()
        yield scene
        await killed(nodes)


async def _is_known(scene: Drill, stream: Visitors, number: int, since: float) -> float:
    """Wait until the node is out and visitors came who were sent elsewhere; return when it was out."""
    gone_at = float(max(event["at"] for event in await scene.became(number, "down", since)))
    await eventually(lambda: stream.all_over(gone_at), what="nobody waits for the dead node")
    await eventually(lambda: sum(made.began > gone_at for made in stream.visits) >= 15, what="visitors come")
    assert scene.name(number) not in {made.node for made in stream.visits if made.began > gone_at}
    return gone_at


def test_a_cable_that_is_pulled_and_one_that_carries_one_way_only_cost_no_client_anything(tmp_path: Path) -> None:
    """No RST, no FIN, no answer to a SYN: the balancer finds out by itself, and finds the node again."""

    async def main(hosts: list[Namespace]) -> None:
        async with _on_hosts(tmp_path, hosts) as scene, visitors(scene.port) as stream:
            began = time.time()
            with hosts[0].cut():
                gone_at = await _is_known(scene, stream, 0, began)
            await scene.became(0, "ready", gone_at)
            with hosts[1].half_open():
                gone_at = await _is_known(scene, stream, 1, gone_at)
            await scene.became(1, "ready", gone_at)
            await scene.others_were_left_alone(0, 1, since=began)
        assert stream.failed == []

    with namespaces(NODES) as hosts:
        asyncio.run(main(hosts))


def test_five_lost_packets_in_a_hundred_take_nobody_out(tmp_path: Path) -> None:
    """TCP sends them again, a SYN after one second and once more after two: `connect_timeout_s` is longer."""
    need_loss()
    lb = {**LB, "connect_timeout_s": 5, "health": {**HEALTH, "timeout_s": 5.0, "fall": 3}}

    async def main(hosts: list[Namespace]) -> None:
        async with _on_hosts(tmp_path, hosts, lb) as scene:
            began = time.time()
            with ExitStack() as lossy:
                for host in hosts:
                    lossy.enter_context(host.losing(0.05))
                async with visitors(scene.port) as stream:
                    await eventually(lambda: len(stream.visits) >= 80, within_s=30)
                    await scene.others_were_left_alone(since=began)
            assert stream.failed == []

    with namespaces(NODES) as hosts:
        asyncio.run(main(hosts))
