"""The access log of a real stack: switched on and off by a reload, in JSON, with nobody's credentials."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import socketio
import yaml

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
