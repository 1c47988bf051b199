"""Draining without Redis: a stack of one node, beside a node of another host that the configuration names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.support.clients import POLLING, UPGRADE, WEBSOCKET, Client, python_crowd
from tests.support.commands import Ended, lb, runtime_directory
from tests.support.nodes import NodeProcess, running_node
from tests.support.raw_clients import Raw, raw_clients
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually, lastingly

APP = "tests.support.guests_app:sio"
SECRET = "of two who have no Redis to agree on one"


@dataclass
class Scene:
    """`stack` runs the node that is drained, `other` is the other one."""

    stack: Stack
    other: NodeProcess
    command: Callable[..., Any]

    @property
    def drained(self) -> str:
        return f"n{self.stack.ports[0]}"

    async def told(self, *words: str) -> None:
        """Say `drain` or `undrain` at the command line."""
        ended: Ended = await self.command(*words)
        assert (ended.status, ended.err) == (0, "")

    async def says(self, state: str) -> bool:
        """Whether the node itself says so, and every worker."""
        try:
            shown = [await self.stack.node_on(self.stack.ports[0]) for _ in range(4)]
            async with aiohttp.ClientSession() as http, http.get(self.stack.node_urls[0] + "/healthz") as answer:
                said = await answer.json()
        except aiohttp.ClientError as exc:  # somebody was killed while it answered
            raise ConnectionError(str(exc)) from None
        return {each["state"] for each in shown} == {state} and said["state"] == state

    async def pid(self) -> Any:
        return (await self.stack.children())[self.drained]["pid"]


@asynccontextmanager
async def two_nodes(directory: Path, handoff: str = "auto", workers: int = 2, **nodes: Any) -> AsyncIterator[Scene]:
    file = directory / "other.yaml"
    file.write_text(
        yaml.safe_dump({"secret": SECRET, "redis": "none", "nodes": {"app": APP, "local": 1}}), encoding="utf-8"
    )
    with runtime_directory() as runtime:
        async with running_node(directory, "--config", str(file)) as other:
            options = {"app": APP, "static": [other.url], **nodes}
            balancer = {"workers": workers, "handoff": handoff, "stickiness": "none", "balance": "round_robin"}
            async with running_stack(directory, 1, options, redis="none", secret=SECRET, lb=balancer) as stack:
                await eventually(lambda: _both_ready(stack))

                def command(*words: str) -> Any:
                    return lb(*words, "--config", directory / "config.yaml", runtime=runtime)

                yield Scene(stack, other, command)


async def _both_ready(stack: Stack) -> bool:
    return all([len(await stack.ready_nodes()) == 2 for _ in range(8)])


async def _where(client: Client) -> str:
    return str((await client.call("say", "hello"))[1])


async def _connected(scene: Scene, raw: list[Raw]) -> None:
    await eventually(lambda: all(len(one.nodes) == 1 + len(one.codes) == one.heard for one in raw))


@pytest.mark.parametrize("handoff", ["auto", "never"])
def test_the_node_itself_sends_its_clients_elsewhere(tmp_path: Path, handoff: str) -> None:
    """With 1001 and 503, handed over, tunnelled or polling; not before their time."""

    async def main() -> None:
        async with (
            two_nodes(tmp_path, handoff, workers=1, close_per_s=20.0) as scene,
            python_crowd() as crowd,
            raw_clients(scene.stack.url, 4) as raw,
        ):
            ways = (POLLING, WEBSOCKET, UPGRADE) * 4
            clients = [await crowd.connect(scene.stack.url, way) for way in ways]
            homes = [await _where(client) for client in clients]
            ours = [client for client, home in zip(clients, homes, strict=True) if home == scene.drained]
            assert len(ours) >= 2
            assert any(one.nodes[0] == scene.drained for one in raw)

            await scene.told("drain", scene.drained, "--drain-s", "3")
            await eventually(lambda: scene.says("draining"))
            assert {await _where(client) for client in ours} == {scene.drained}
            assert all(client.heard.connects == 1 for client in clients)

            await eventually(lambda: "no client is left" in scene.stack.said(), within_s=30)
            await eventually(lambda: all(client.heard.connects == 2 for client in ours), within_s=30)
            assert scene.drained not in {await _where(client) for client in clients}
            await _connected(scene, raw)
            assert {code for one in raw for code in one.codes} == {1001}
            assert scene.drained not in {one.nodes[-1] for one in raw}
            assert "tunnels end" not in scene.stack.said(), "the balancer leaves it to the node"

            await scene.told("undrain", scene.drained)
            await eventually(lambda: scene.says("ready"))

    asyncio.run(main())


def test_an_order_that_is_taken_back_keeps_the_rest(tmp_path: Path) -> None:
    """Those who were not sent away yet."""

    async def main() -> None:
        async with two_nodes(tmp_path, close_per_s=4.0) as scene, raw_clients(scene.stack.url, 12) as raw:
            await scene.told("drain", scene.drained, "--drain-s", "0")
            await eventually(lambda: sum(len(one.codes) for one in raw) >= 2)
            await scene.told("undrain", scene.drained)
            await eventually(lambda: scene.says("ready"))
            await _connected(scene, raw)
            closed = sum(len(one.codes) for one in raw)
            stayed = sum(one.nodes == [scene.drained] or one.nodes == [""] for one in raw)
            assert stayed
            await lastingly(lambda: sum(len(one.codes) for one in raw) == closed, 1.0)

    asyncio.run(main())


def test_the_order_survives_workers_and_the_node(tmp_path: Path) -> None:
    """kill -9 of each: the next one obeys from its first moment on; and whoever takes it back is heard."""

    async def main() -> None:
        async with two_nodes(tmp_path) as scene, python_crowd() as crowd:
            stack = scene.stack
            await scene.told("drain", scene.drained, "--drain-s", "600")
            await eventually(lambda: scene.says("draining"))
            for child, facts in (await stack.children()).items():
                if child.startswith("worker"):
                    stack.kill(facts["pid"])
            await eventually(lambda: scene.says("draining"))

            pid = await scene.pid()
            stack.kill(pid)
            await eventually(lambda: _has_another(scene, pid))
            await eventually(lambda: scene.says("draining"))
            clients = [await crowd.connect(stack.url, WEBSOCKET) for _ in range(4)]
            assert scene.drained not in {await _where(client) for client in clients}

            await scene.told("undrain", scene.drained)
            await eventually(lambda: scene.says("ready"))
            events = (await stack.get("/api/events"))["events"]
            reasons = {event["reason"] for event in events if event["node"] == scene.drained}
            assert {"drained by an operator", "no longer drained by an operator"} <= reasons

    asyncio.run(main())


async def _has_another(scene: Scene, pid: int) -> bool:
    return await scene.pid() not in (pid, None)
