"""Nodes of a whole stack are drained by an operator, while workers and nodes die."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.support.clients import WEBSOCKET, python_crowd
from tests.support.commands import lb, runtime_directory
from tests.support.stack import Stack, running_stack
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


async def _states_of(stack: Stack, name: str) -> set[str]:
    """Return all states that workers show for a node: any of them may answer."""
    try:
        shown = [node for _ in range(8) for node in await stack.nodes()]
    except aiohttp.ClientError as exc:  # a worker was killed while it answered
        raise ConnectionError(str(exc)) from None
    return {node["state"] for node in shown if node["name"] == name}


def test_a_drained_node_gets_nobody_whichever_worker_is_asked_and_whatever_dies(tmp_path: Path) -> None:
    """`drain`, kill -9 of both workers, kill -9 of the node: drained all the while; `undrain`, and it serves again."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with python_crowd() as crowd, running_stack(tmp_path, nodes=2, lb={"workers": 2}) as stack:
                name = f"n{stack.ports[0]}"
                options = ("--config", tmp_path / "config.yaml")

                async def drains() -> bool:
                    return await _states_of(stack, name) == {"draining"}

                ended = await lb("drain", name, "--drain-s", "600", *options, runtime=runtime)
                assert (ended.status, ended.err) == (0, "")
                assert ended.out.startswith(f"{name} drains: ")
                await eventually(drains)

                for child, facts in (await stack.children()).items():
                    if child.startswith("worker"):
                        stack.kill(facts["pid"])
                await eventually(drains)
                for _ in range(6):
                    await crowd.connect(stack.url, WEBSOCKET)
                await eventually(lambda: _counts(stack, 6), what="all clients are counted")
                assert (await stack.node_on(stack.ports[0]))["connections"] == 0

                pid = (await stack.node_on(stack.ports[0]))["pid"]
                stack.kill(pid)
                await eventually(lambda: _replaced(stack, pid))
                await eventually(drains)
                assert await drains()

                assert (await lb("undrain", name, *options, runtime=runtime)).status == 0
                await eventually(lambda: _serves(stack, name))
                events = (await stack.get("/api/events"))["events"]
                reasons = {event["reason"] for event in events if event["node"] == name}
                assert {"drained by an operator", "no longer drained by an operator"} <= reasons

    asyncio.run(main())


def test_an_order_survives_the_stack_where_redis_does(tmp_path: Path, valkey: Valkey) -> None:
    """Stopped and started again: the node begins drained, gets nobody, and serves when the order is taken back."""

    async def main() -> None:
        with runtime_directory() as runtime:
            options = ("--config", tmp_path / "config.yaml")
            async with running_stack(tmp_path, nodes=2, redis=valkey.url) as stack:
                drained = (await stack.node_on(stack.ports[0]))["name"]
                assert (await lb("drain", drained, "--drain-s", "600", *options, runtime=runtime)).status == 0
                assert await stack.stop() == 0
            lb_options, nodes = stack.config["lb"], stack.config["nodes"]
            async with (
                python_crowd() as crowd,
                running_stack(tmp_path, 2, nodes, at_first=1, redis=valkey.url, lb=lb_options) as stack,
            ):
                await eventually(lambda: _drains(stack, drained))
                for _ in range(4):
                    await crowd.connect(stack.url, WEBSOCKET)
                await eventually(lambda: _counts(stack, 4), what="all clients are counted")
                assert (await stack.node_on(stack.ports[0]))["connections"] == 0
                events = (await stack.get("/api/events"))["events"]
                assert not [each for each in events if each["node"] == drained and each["state"] == "ready"]
                assert (await lb("undrain", drained, *options, runtime=runtime)).status == 0
                await eventually(lambda: _serves(stack, drained))

    asyncio.run(main())


async def _drains(stack: Stack, name: str) -> bool:
    """Whether the balancer and the node itself say so."""
    async with aiohttp.ClientSession() as http, http.get(stack.node_urls[0] + "/healthz") as answer:
        said = await answer.json()
    return await _states_of(stack, name) == {"draining"} and said["state"] == "draining"


async def _counts(stack: Stack, clients: int) -> bool:
    return bool((await stack.node_on(stack.ports[1]))["connections"] == clients)


async def _replaced(stack: Stack, pid: int) -> bool:
    return bool((await stack.node_on(stack.ports[0]))["pid"] not in (pid, None))


async def _serves(stack: Stack, name: str) -> bool:
    return await _states_of(stack, name) == {"ready"}


def test_a_mistake_at_the_command_line_is_one_line(tmp_path: Path) -> None:
    """Status 2 for what is no command, 1 for what the stack does not know, or where there is none."""

    async def main() -> None:
        with runtime_directory() as runtime:
            for words in (("drain",), ("undrain",), ("status", "n1"), ("undrain", "n1", "--drain-s", "5")):
                ended = await lb(*words, runtime=runtime)
                assert (ended.status, len(ended.errors)) == (2, 1)
            ended = await lb("drain", "n1", "--drain-s", "soon", runtime=runtime)
            assert ended.status == 2
            assert "'soon' is no time; allowed: 0 to" in ended.err
            async with running_stack(tmp_path, nodes=1) as stack:
                options = ("--config", tmp_path / "config.yaml")
                ended = await lb("drain", "n1", *options, runtime=runtime)
                assert (ended.status, ended.errors) == (1, [f"no node is called 'n1'; there are: n{stack.ports[0]}"])
            ended = await lb("drain", "n1", *options, runtime=runtime)
            assert ended.status == 1
            assert ended.errors[0].endswith("connection refused; is the stack running?")

    asyncio.run(main())
