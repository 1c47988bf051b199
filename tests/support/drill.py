"""The scene of a drill: six real nodes, each behind a link of its own that can be faulty, and a real balancer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.balancer import SECRET
from tests.support.faulty_link import FaultyLink, faulty_link
from tests.support.nodes import NodeProcess, killed, running_node
from tests.support.ports import free_ports
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually

NODES = 6
APP = "tests.support.drill_app:sio"

HEALTH: Mapping[str, Any] = {
    "interval_s": 0.2,
    "timeout_s": 1.0,
    "rise": 1,
    "fall": 2,
    "eject_after": 3,
    "eject_s": 1.0,
    "most_eject_s": 4.0,
}
LB: Mapping[str, Any] = {
    "workers": 2,
    "handoff": "never",
    "stickiness": "none",
    "connect_timeout_s": 0.5,
    "slow_start_s": 0,
    "drain_s": 0.2,
}


@asynccontextmanager
async def six_nodes(directory: Path) -> AsyncIterator[list[NodeProcess]]:
    """Run the nodes."""
    (directory / "config.yaml").write_text(f"secret: {SECRET}\nredis: none\nnodes: {{local: 1}}\n", encoding="utf-8")
    config = ("--config", str(directory / "config.yaml"), "--base", ".", "--app", APP)
    async with AsyncExitStack() as running:
        nodes: list[NodeProcess] = []
        while len(nodes) < NODES:
            started = (running.enter_async_context(running_node(directory, *config)) for _ in range(2))
            nodes += await asyncio.gather(*started)
        yield nodes
        await killed(nodes)


@dataclass
class Drill:
    """The balancer reaches the node that is called `names[n]` at `addresses[n]`: over `links[n]`, if there are any."""

    stack: Stack
    names: Sequence[str]
    addresses: Sequence[str]
    links: Sequence[FaultyLink] = ()

    @property
    def port(self) -> int:
        return int(self.stack.config["lb"]["listen"].rpartition(":")[2])

    @property
    def workers(self) -> int:
        return int(self.stack.config["lb"]["workers"])

    def name(self, number: int) -> str:
        return self.names[number]

    async def events(self, number: int, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the events of one node after that time, the oldest first; `number` -1: those of no node."""
        told = (await self.stack.get("/api/events"))["events"]
        names = ("",) if number < 0 else (self.name(number), self.addresses[number])
        return [event for event in reversed(told) if event["node"] in names and event["at"] >= since]

    async def became(self, number: int, state: str, since: float, *, within_s: float = 60) -> list[dict[str, Any]]:
        """Wait until each worker has seen that node change to `state` after that time; return the events."""

        async def all_saw() -> list[dict[str, Any]]:
            found = {event["worker"]: event for event in await self.events(number, since) if event["state"] == state}
            return list(found.values()) if len(found) == self.workers else []

        return await eventually(all_saw, within_s=within_s, what=f"node {number} is {state}")

    async def all_ready(self) -> None:
        """Wait until all workers see all nodes ready, and have done so without a word for a whole interval."""
        for number in range(len(self.names)):

            async def is_ready(number: int = number) -> bool:
                last = {event["worker"]: event["state"] for event in await self.events(number)}
                return len(last) == self.workers and set(last.values()) == {"ready"}

            await eventually(is_ready, within_s=30, what=f"node {number} is ready")

    async def others_were_left_alone(self, *numbers: int, since: float) -> None:
        """Assert that no node but those changed its state."""
        for number in set(range(len(self.names))) - set(numbers):
            assert await self.events(number, since) == []


@asynccontextmanager
async def drill(
    directory: Path, nodes: Sequence[NodeProcess], health: Mapping[str, Any] | None = None, **sections: Any
) -> AsyncIterator[Drill]:
    """Run links to `nodes`, and a stack without nodes of its own in front of them, all ready.

    `health` and `lb` override what is in HEALTH and LB.
    """
    first = free_ports(len(nodes))
    lb = {**LB, **sections.pop("lb", {}), "health": {**HEALTH, **(health or {})}}
    async with AsyncExitStack() as running:
        links = [
            await running.enter_async_context(faulty_link(first + number, node.port))
            for number, node in enumerate(nodes)
        ]
        options = {"discover": False, "static": [f"http://{link.address}" for link in links]}
        settings = {"secret": SECRET, "redis": "none", "lb": lb} | sections
        stack = await running.enter_async_context(running_stack(directory, 0, options, **settings))
        scene = Drill(stack, [f"n{node.port}" for node in nodes], [link.address for link in links], links)
        await scene.all_ready()
        yield scene
