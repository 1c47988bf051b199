"""`sio.state` and `sio.presence` in whole nodes, as an application uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.keys import Keys
from cluster.redis_link import connection
from cluster.registry import Registry
from node import Server
from tests.node.test_docs import EXAMPLES
from tests.support.clients import WEBSOCKET, python_crowd
from tests.support.nodes import node_here, running_node
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "redis"])
def test_the_guides_example_of_state_runs(tmp_path: Path, valkey: Valkey, shared: bool) -> None:
    """Counted, updated, taken once, and watched, by clients of one node or of two."""
    (tmp_path / "game.py").write_text(EXAMPLES["game.py"])
    arguments = ("--app", "game:sio", "--redis", valkey.url if shared else "none")

    async def main() -> None:
        async with (
            python_crowd() as crowd,
            running_node(tmp_path, *arguments, cwd=tmp_path) as first,
            running_node(tmp_path, *arguments, cwd=tmp_path) as second,
        ):
            ann = await crowd.connect(first.url, WEBSOCKET)
            bob = await crowd.connect((second if shared else first).url, WEBSOCKET)
            assert await ann.call("score", 5) == 5
            assert await bob.call("score", 2) == 7
            seats = await asyncio.gather(ann.call("take_seat", 1), bob.call("take_seat", 1))
            assert sorted(seats) == [False, True]
            waiting = asyncio.ensure_future(ann.call("next_score"))
            await eventually(lambda: _scored(bob, waiting))
            assert await waiting > 7

    asyncio.run(main())


async def _scored(client: object, waiting: asyncio.Future[int]) -> bool:
    await client.call("score", 1)  # type: ignore[attr-defined]
    return waiting.done()


def test_a_client_that_disconnects_leaves_after_its_handler(valkey: Valkey) -> None:
    """Whatever the handler does: nobody is online without a connection."""
    sio = Server(always_connect=True)
    seen: list[str | None] = []

    @sio.event
    async def login(sid: str, name: str) -> None:
        await sio.presence.join(sid, name)

    @sio.event
    async def disconnect(sid: str, reason: str) -> None:
        seen.append(sio.presence.user_of(sid))
        raise RuntimeError("of the application")

    async def main() -> None:
        async with node_here(sio, redis=valkey.url) as url, python_crowd() as crowd:
            ann = await crowd.connect(url, WEBSOCKET)
            await ann.call("login", "ann")
            assert sio.presence.is_online("ann")
            await ann.close()
            await eventually(lambda: seen == ["ann"] and not sio.presence.is_online("ann"))

    asyncio.run(main())


def test_users_of_a_killed_node_are_gone_within_a_second_of_its_sign_off(tmp_path: Path, valkey: Valkey) -> None:
    """Its lease would last for an hour; its supervisor saw it die.  In the list, and in the event after the grace."""
    (tmp_path / "config.yaml").write_text("nodes: {lease_s: 3600, presence_grace_s: 0.2}\n")
    arguments = ("--config", str(tmp_path / "config.yaml"), "--redis", valkey.url)

    async def main() -> None:
        async with (
            python_crowd() as crowd,
            running_node(tmp_path, *arguments) as one,
            running_node(tmp_path, *arguments) as two,
            connection(valkey.url) as link,
        ):
            ann, bob = await crowd.connect(one.url, WEBSOCKET), await crowd.connect(two.url, WEBSOCKET)
            await ann.call("register", "ann")
            await bob.call("register", "bob")
            await eventually(lambda: _count(ann, 2))
            bob.stay_away()
            two.kill()
            registry = Registry(link, Keys("flotilla"))
            [dead] = [record for record in await registry.members() if record.port == two.port]
            assert await registry.withdraw(dead.name, dead.incarnation)
            await eventually(lambda: _count(ann, 1))
            await eventually(lambda: [each["username"] for each in ann.heard.all("user_left")] == ["bob"])

    asyncio.run(main())


async def _count(client: object, count: int) -> bool:
    return bool((await client.call("online_users"))["count"] == count)  # type: ignore[attr-defined]
