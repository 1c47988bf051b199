"""The access log of a real stack: switched on and off by a reload, in JSON, with nobody's credentials."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio
import yaml

from tests.support.raw_socketio import ENGINE
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually, lastingly


def lines(stack: Stack) -> Sequence[dict[str, Any]]:
    """Return the access lines so far."""
    said = [json.loads(line) for line in stack.said().splitlines() if line.startswith("{")]
    return [line for line in said if line.get("logger") == "access"]


async def reloaded(stack: Stack, directory: Path, times: int, **log: object) -> None:
    config = stack.config | {"log": {"format": "json", **log}}
    directory.joinpath("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    stack.process.send_signal(1)
    await eventually(lambda: stack.said().count("reload: done") == times, what="the reload is done")


async def visit(stack: Stack, page: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{stack.url}/{page}") as answer:
        await answer.read()


def test_a_client_from_polling_to_websocket_can_be_followed(tmp_path: Path) -> None:
    """Each request to the node that has its session, the WebSocket's opening and end; no sid in any line."""

    async def main() -> None:
        async with running_stack(tmp_path, log={"format": "json", "access": True}) as stack:
            client = socketio.AsyncClient()
            await client.connect(stack.url)
            await eventually(lambda: client.transport() == "websocket")
            sid = client.eio.sid
            await client.disconnect()
            await eventually(lambda: [line for line in lines(stack) if line["message"] == "websocket closed"])
            found = lines(stack)
            assert {line["node"] for line in found} == {sid.partition("-")[0]}
            assert {line["client"] for line in found} == {"127.0.0.1"}
            [opened] = [line for line in found if line["message"] == "websocket opened"]
            [closed] = [line for line in found if line["message"] == "websocket closed"]
            assert (opened["path"], opened["trace"]) == ("handoff", closed["trace"])
            assert [line["status"] for line in found if line["message"] == "http"][:1] == [200]
            assert sid.partition(".")[2] not in json.dumps(found)
            assert "sid=***" in opened["target"]

    asyncio.run(main())


def test_a_reload_switches_it_and_replaces_nobody(tmp_path: Path) -> None:
    """On, off; the same processes all the time."""

    async def main() -> None:
        async with running_stack(tmp_path, nodes=1, log={"format": "json"}) as stack:
            before = await stack.children()
            await visit(stack, "silence")
            await reloaded(stack, tmp_path, 1, access=True)
            await eventually(lambda: _heard(stack, "loud"), what="the worker writes lines")
            await reloaded(stack, tmp_path, 2, access=False)
            await eventually(lambda: _is_quiet(stack), what="the worker writes no more lines")
            assert "/silence" not in {line["target"] for line in lines(stack)}
            assert await stack.children() == before

    asyncio.run(main())


async def _heard(stack: Stack, page: str) -> bool:
    await visit(stack, page)
    return any(line["target"] == f"/{page}" for line in lines(stack))


async def _is_quiet(stack: Stack) -> bool:
    count = len(lines(stack))
    await visit(stack, "after")
    await lastingly(lambda: len(lines(stack)) == count, 0.5, what="no line")
    return True


def closed_lines(stack: Stack) -> Sequence[dict[str, Any]]:
    return [line for line in lines(stack) if line["message"] == "websocket closed"]


async def both_kinds(http: aiohttp.ClientSession, stack: Stack) -> list[aiohttp.ClientWebSocketResponse]:
    """Return a Socket.IO client and a WebSocket that the application serves through aiohttp."""
    sockets = [await http.ws_connect(stack.url + path) for path in (ENGINE, "/aiohttp")]
    await sockets[0].receive()
    await eventually(lambda: sum(line["message"] == "websocket opened" for line in lines(stack)) == 2)
    return sockets


async def pid_of(stack: Stack, child: str) -> int:
    return next(int(facts["pid"]) for name, facts in (await stack.children()).items() if name.startswith(child))


LOG = {"format": "json", "access": True}
APP = {"app": "tests.support.guests_app:sio"}


@pytest.mark.parametrize("handoff", ["auto", "never"])
def test_who_is_sent_away_was_closed_by_the_node_with_1001(tmp_path: Path, handoff: str) -> None:
    """A node on SIGTERM; in a tunnel as well, where the balancer reads it off the last bytes."""

    async def main() -> None:
        lb = {"handoff": handoff}
        async with running_stack(tmp_path, 1, APP, log=LOG, lb=lb) as stack, aiohttp.ClientSession() as http:
            sockets = await both_kinds(http, stack)
            os.kill(await pid_of(stack, "n"), signal.SIGTERM)
            for websocket in sockets:
                assert (await websocket.receive()).data == 1001
            await eventually(lambda: len(closed_lines(stack)) == 2)
            assert {(line["by"], line["code"]) for line in closed_lines(stack)} == {("node", 1001)}
            assert all(line["bytes_out"] > 100 for line in closed_lines(stack))

    asyncio.run(main())


def test_who_was_at_a_node_that_is_killed_is_lost(tmp_path: Path) -> None:
    """A line for each, although there was nobody to tell of their end; the metric counts them as well."""

    async def main() -> None:
        async with running_stack(tmp_path, 1, APP, log=LOG) as stack, aiohttp.ClientSession() as http:
            await both_kinds(http, stack)
            stack.kill(await pid_of(stack, "n"))
            await eventually(lambda: len(closed_lines(stack)) == 2)
            assert {(line["by"], line["code"]) for line in closed_lines(stack)} == {("lost", 1006)}
            assert {line["process"] for line in closed_lines(stack)} == {"worker-0"}
            async with http.get(f"{stack.admin_url}/metrics") as answer:
                text = await answer.text()
            [counted] = [line for line in text.splitlines() if line.startswith("flotilla_handoff_closes_total{")]
            assert ('code="1006"' in counted, counted.endswith(" 2.0")) == (True, True)

    asyncio.run(main())


def test_who_outlives_the_worker_has_a_last_line_from_the_node(tmp_path: Path) -> None:
    """One line at open and one at close, with the same trace, whatever became of the worker."""

    async def main() -> None:
        async with running_stack(tmp_path, 1, APP, log=LOG) as stack, aiohttp.ClientSession() as http:
            sockets = await both_kinds(http, stack)
            before = await pid_of(stack, "worker")
            stack.kill(before)
            await eventually(lambda: _is_replaced(stack, before), what="another worker is there")
            await sockets[1].send_str("still here")
            assert await sockets[1].receive_str() == "still here"
            for websocket in sockets:
                await websocket.close(code=4000)
            await eventually(lambda: len(closed_lines(stack)) == 2)
            found = closed_lines(stack)
            assert {(line["by"], line["code"]) for line in found} == {("client", 4000)}
            assert {line["process"] for line in found} == {line["node"] for line in found}
            opened = [line for line in lines(stack) if line["message"] == "websocket opened"]
            for name in ("trace", "target", "client"):
                assert sorted(line[name] for line in found) == sorted(line[name] for line in opened)

    asyncio.run(main())


async def _is_replaced(stack: Stack, before: int) -> bool:
    return await pid_of(stack, "worker") != before
