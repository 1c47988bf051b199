"""Questions to all nodes while a node dies, or hangs: an answer in time, that names who is missing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.clients import WEBSOCKET, Client, Crowd, js_crowd, python_crowd
from tests.support.nodes import NodeProcess, running_node
from tests.support.redises import redis_cluster
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)


class Member:
    """A node, and a client of it."""

    def __init__(self, node: NodeProcess, client: Client, sid: str, name: str) -> None:
        self.node, self.client, self.sid, self.name = node, client, sid, name


@asynccontextmanager
async def members(directory: Path, redis: str, crowd: Crowd, count: int = 4) -> AsyncIterator[list[Member]]:
    """Run nodes that know each other, each with a client that does not come back."""
    async with AsyncExitStack() as stack:
        arguments = ("--app", "tests.support.everywhere_app:sio", "--redis", redis)
        nodes = [await stack.enter_async_context(running_node(directory, *arguments)) for _ in range(count)]
        found = []
        for node in nodes:
            client = await crowd.connect(node.url, WEBSOCKET)
            client.stay_away()
            sid, name = await client.call("whoami")
            found.append(Member(node, client, sid, name))
        for member in found:
            await eventually(partial(_counts, member, count), what="they know each other")
        yield found


async def _counts(member: Member, count: int) -> bool:
    return bool(await member.client.call("count") == count)


def test_a_node_that_dies_while_it_is_asked_costs_no_timeout(tmp_path: Path, valkey: Valkey) -> None:
    """It is gone, and so are its clients: nobody waits for either, nor are they missing."""

    async def main() -> None:
        async with js_crowd() as crowd, members(tmp_path, valkey.url, crowd) as [one, two, three, four]:
            # A client that never answers keeps the question open.
            both = [two.sid, three.sid]
            asking = asyncio.ensure_future(one.client.call("ask_all", both, "silence", {}, 600, timeout_s=60))
            calling = asyncio.ensure_future(one.client.call("ask", three.sid, "silence", {}, 600, timeout_s=60))
            await eventually(lambda: len(three.client.heard.all("silence")) == 2)
            await two.client.close()
            three.node.kill()
            assert await asking == {"given": {}, "missing": [two.sid], "nodes": []}
            assert await calling == "no answer"
            assert (await one.client.call("fetch", four.sid, 30))["sids"] == [four.sid]

    asyncio.run(main())


def test_a_node_that_died_just_now_is_not_asked(tmp_path: Path, valkey: Valkey) -> None:
    """Its lease still holds; Redis knows better."""

    async def main() -> None:
        async with python_crowd() as crowd, members(tmp_path, valkey.url, crowd) as [one, two, three, four]:
            three.node.kill()
            await three.node.process.wait()
            rest = sorted(member.sid for member in (one, two, four))
            for to in (None, "all", ["all", three.name]):
                found = await one.client.call("fetch", to, 600, timeout_s=60)
                assert found == {"sids": rest, "missing": [], "failed": {}}
            found = await one.client.call("fetch", three.sid, 600, timeout_s=60)
            assert found == {"sids": [], "missing": [], "failed": {}}
            assert await one.client.call("count") == 3

    asyncio.run(main())


def test_a_node_that_hangs_is_named(tmp_path: Path, valkey: Valkey) -> None:
    """Only that one, although Redis does not know who listens; when it goes on it answers again."""

    async def main() -> None:
        async with python_crowd() as crowd, members(tmp_path, valkey.url, crowd) as [one, two, three, _]:
            os.kill(three.node.process.pid, signal.SIGSTOP)
            try:
                for to in ("all", three.sid, [three.name, two.name]):
                    assert (await one.client.call("fetch", to, 2))["missing"] == [three.name]
                found = await one.client.call("fetch", two.name, 600, timeout_s=60)
                assert found == {"sids": [two.sid], "missing": [], "failed": {}}
            finally:
                os.kill(three.node.process.pid, signal.SIGCONT)

            async def all_answer() -> bool:
                return len((await one.client.call("fetch", "all", 1))["sids"]) == 4

            await eventually(all_answer)

    asyncio.run(main())


def test_javascript_clients_of_other_nodes_acknowledge(tmp_path: Path, valkey: Valkey) -> None:
    """To a callback, to `call`, to `broadcast_call`."""

    async def main() -> None:
        async with js_crowd() as crowd, members(tmp_path, valkey.url, crowd, 3) as [one, two, three]:
            data = {"list": [1, [2], None], "text": "ü"}
            await one.client.call("with_callback", two.sid, data)
            await eventually(lambda: one.client.heard.all("answered") == [[data]])
            assert await one.client.call("ask", three.sid, "question", data, 5) == data
            answers = await one.client.call("ask_all", "all", "question", data, 5)
            assert answers == {"given": dict.fromkeys([one.sid, two.sid, three.sid], data), "missing": [], "nodes": []}

    asyncio.run(main())


def test_questions_cross_a_redis_cluster(tmp_path: Path) -> None:
    """Rooms are on different servers there, and one question goes to several."""

    async def main() -> None:
        async with (
            redis_cluster() as servers,
            python_crowd() as crowd,
            members(tmp_path, servers.url, crowd, 3) as [one, two, three],
        ):
            everybody = sorted(member.sid for member in (one, two, three))
            for to in (None, "all", [two.name, three.sid, "all", "nobody's"]):
                found = await one.client.call("fetch", to, 600, timeout_s=60)
                assert found == {"sids": everybody, "missing": [], "failed": {}}
            three.node.kill()
            await three.node.process.wait()
            found = await one.client.call("fetch", "all", 600, timeout_s=60)
            assert found == {"sids": sorted([one.sid, two.sid]), "missing": [], "failed": {}}

    asyncio.run(main())
