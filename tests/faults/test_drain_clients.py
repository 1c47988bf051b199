"""Clients of every kind on a stack of which an operator drains one node."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.support.clients import POLLING, UPGRADE, WEBSOCKET, Client, js_crowd, python_crowd
from tests.support.commands import lb, runtime_directory
from tests.support.raw_clients import raw_clients
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually

APP = "tests.support.guests_app:sio"


async def _where(client: Client) -> str:
    text, node = await client.call("say", "hello")
    assert text == "hello"
    return str(node)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("handoff", ["auto", "never"])
def test_they_talk_on_and_then_come_back_elsewhere(tmp_path: Path, handoff: str) -> None:
    """JavaScript, Python and raw clients, whatever their transport; those of other nodes do not notice."""

    async def main() -> None:
        # Without slow start: whoever comes after the end of it shall find the node at once.
        lb_options = {"workers": 2, "handoff": handoff, "stickiness": "none", "slow_start_s": 0}
        nodes = {"app": APP, "close_per_s": 10.0}
        with runtime_directory() as runtime:
            async with (
                running_stack(tmp_path, 3, nodes, lb=lb_options) as stack,
                js_crowd() as js,
                python_crowd() as py,
                raw_clients(stack.url, 6) as raw,
            ):
                options = ("--config", tmp_path / "config.yaml")
                kinds = [(crowd, transports) for crowd in (js, py) for transports in (POLLING, WEBSOCKET, UPGRADE)]
                clients = [await crowd.connect(stack.url, way) for crowd, way in kinds for _ in range(5)]
                homes = [await _where(client) for client in clients]
                drained = raw[0].nodes[0]
                index = stack.ports.index(int(drained.removeprefix("n")))
                ours = [client for client, home in zip(clients, homes, strict=True) if home == drained]
                others = [client for client, home in zip(clients, homes, strict=True) if home != drained]
                assert len(ours) >= 3

                assert (await lb("drain", drained, "--drain-s", "5", *options, runtime=runtime)).status == 0
                await eventually(lambda: _says(stack, index, "draining"))
                new = [await js.connect(stack.url, way) for way in (WEBSOCKET, POLLING, UPGRADE)]
                assert drained not in {await _where(client) for client in new}
                # Those that it has are served on, also by polls.
                assert {await _where(client) for client in ours} == {drained}
                assert all(client.heard.connects == 1 for client in clients)

                await eventually(lambda: all(client.heard.connects == 2 for client in ours), within_s=30)
                await eventually(lambda: "no client is left" in stack.said())
                await eventually(lambda: _has_no_tunnel(stack, index))
                assert drained not in {await _where(client) for client in ours}
                await eventually(lambda: all(len(one.nodes) == 1 + len(one.codes) == one.heard for one in raw))
                assert {code for one in raw for code in one.codes} == {1001}
                assert drained not in {one.nodes[-1] for one in raw}
                assert all(one.nodes[0] in (drained, "") for one in raw if one.codes)
                assert all(client.heard.connects == 1 and not client.heard.disconnects for client in others + new)

                assert (await lb("undrain", drained, *options, runtime=runtime)).status == 0
                await eventually(lambda: _says(stack, index, "ready"))
                back = [await py.connect(stack.url, WEBSOCKET) for _ in range(6)]
                assert drained in {await _where(client) for client in back}

    asyncio.run(main())


async def _says(stack: Stack, index: int, state: str) -> bool:
    """Whether all workers, and the node itself, say so."""
    shown = [await stack.node_on(stack.ports[index]) for _ in range(8)]
    async with aiohttp.ClientSession() as http, http.get(stack.node_urls[index] + "/healthz") as answer:
        said = await answer.json()
    return {each["state"] for each in shown} == {state} and said["state"] == state


async def _has_no_tunnel(stack: Stack, index: int) -> bool:
    return not any([(await stack.node_on(stack.ports[index]))["tunnels"] for _ in range(8)])
