"""The chat's contract, end to end: real node processes, a real Valkey, real clients on each transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.tag import claimed_slot_of
from tests.support.clients import POLLING, UPGRADE, WEBSOCKET, Client, Crowd, python_crowd
from tests.support.nodes import NodeProcess, running_node
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

QUICK = """
nodes:
  heartbeat_s: 0.3
  lease_s: 1.5
  drain_s: 1
  metrics_interval_s: 1
"""


@asynccontextmanager
async def running_nodes(directory: Path, valkey: Valkey, count: int = 2) -> AsyncIterator[list[NodeProcess]]:
    config = directory / "config.yaml"
    config.write_text(QUICK)
    arguments = ("--config", str(config), "--redis", valkey.url)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_node(directory, *arguments)) for _ in range(count)]


async def joined(crowd: Crowd, node: NodeProcess, username: object, transports: tuple[str, ...] = WEBSOCKET) -> Client:
    client = await crowd.connect(node.url, transports)
    answer = await client.call("register", {"username": username})
    assert answer["ok"], answer
    return client


def said(client: Client, event: str, key: str) -> list[Any]:
    return [data[key] for data in client.heard.all(event)]


def hears(client: Client, text: str) -> bool:
    return text in said(client, "message", "text")


@pytest.mark.parametrize("transports", [POLLING, WEBSOCKET, UPGRADE], ids=["polling", "websocket", "upgrade"])
def test_two_users_on_two_nodes_chat(tmp_path: Path, valkey: Valkey, transports: tuple[str, ...]) -> None:
    """Every event of the contract, with the serving node's name and port in each."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as (one, two):
            ann = await crowd.connect(one.url, transports)
            names = {node.port: (await node.healthz())["name"] for node in (one, two)}
            here, there = ({"node": names[node.port], "port": node.port} for node in (one, two))
            assert claimed_slot_of(ann.heard.engine_sid) == names[one.port]
            await eventually(lambda: ann.heard.all("welcome") == [{**here, "cluster": "flotilla"}])

            answer = await ann.call("register", {"username": " ann "})
            [user] = answer["online"]["users"]
            since = user.pop("since")
            assert abs(since - time.time()) < 5
            assert user == {"username": "ann", "devices": 1, "nodes": [here["node"]], "ports": [one.port]}
            assert (answer["ok"], answer["username"], answer["online"]["count"]) == (True, "ann", 1)
            assert {key: answer[key] for key in here} == here

            bob = await joined(crowd, two, "bob", transports)
            await eventually(lambda: "bob" in said(ann, "user_joined", "username"), what="ann sees bob come")
            [event] = [event for event in ann.heard.all("user_joined") if event["username"] == "bob"]
            assert abs(event.pop("at") - time.time()) < 5
            assert event == {"username": "bob", **there, "count": 2}
            await eventually(lambda: ann.heard.all("online_users")[-1]["count"] == 2)
            assert {key: ann.heard.all("online_users")[-1][key] for key in here} == here

            assert await bob.call("message", {"text": "hello\nworld"}) == {"ok": True}
            await eventually(lambda: all(hears(client, "hello\nworld") for client in (ann, bob)))
            [message] = ann.heard.all("message")
            assert abs(message.pop("at") - time.time()) < 5
            assert message == {"username": "bob", "text": "hello\nworld", **there}

            answer = await ann.call("online_users")
            assert [user["username"] for user in answer["users"]] == ["ann", "bob"]
            assert (answer["count"], answer["port"]) == (2, one.port)

            await bob.close()
            await eventually(lambda: said(ann, "user_left", "username") == ["bob"])
            assert ann.heard.all("user_left")[0]["port"] == two.port

    asyncio.run(main())


def test_what_is_refused_is_answered_with_a_reason(tmp_path: Path) -> None:
    """Without Redis as well; the connection lives on."""

    async def main() -> None:
        async with python_crowd() as crowd, running_node(tmp_path, "--redis", "none") as node:
            client = await crowd.connect(node.url, WEBSOCKET)
            refusals: list[tuple[tuple[Any, ...], str]] = [
                (("message", {"text": "hi"}), "register"),
                (("register", {"username": ""}), "username"),
                (("register", 7), "username"),
                (("register",), "username"),
            ]
            for call, reason in refusals:
                answer = await client.call(*call)
                assert answer["ok"] is False
                assert reason in answer["error"]
            assert (await client.call("register", "ann"))["ok"]
            assert "2000" in (await client.call("message", "x" * 2001))["error"]
            assert (await client.call("message", "plain"))["ok"]
            assert (await client.call("message", {"message": "also"}))["ok"]
            await eventually(lambda: said(client, "message", "text") == ["plain", "also"])

    asyncio.run(main())


def test_a_user_with_several_devices_comes_and_goes_once(tmp_path: Path, valkey: Valkey) -> None:
    """Two windows on two nodes are one user; the list shows both ports."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as (one, two):
            watcher = await joined(crowd, one, "watcher")
            first = await joined(crowd, one, "ann")
            second = await joined(crowd, two, "ann")
            answer = await watcher.call("online_users")
            assert answer["count"] == 2
            [ann] = [user for user in answer["users"] if user["username"] == "ann"]
            assert (ann["devices"], ann["ports"]) == (2, [one.port, two.port])
            await first.close()
            await eventually(partial(_devices, watcher, "ann", 1))
            await second.close()
            await eventually(partial(_devices, watcher, "ann", 0))
            await eventually(lambda: said(watcher, "user_left", "username") == ["ann"])
            assert said(watcher, "user_joined", "username").count("ann") == 1

    asyncio.run(main())


async def _devices(client: Client, username: str, count: int) -> bool:
    users = (await client.call("online_users"))["users"]
    return bool(sum(user["devices"] for user in users if user["username"] == username) == count)


def test_users_of_a_node_killed_with_9_are_gone_in_seconds_and_its_clients_return_elsewhere(
    tmp_path: Path, valkey: Valkey
) -> None:
    """Nobody said goodbye for them: the lease did, and the other node noticed."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as (one, two):
            watcher = await joined(crowd, one, "watcher")
            bob = await joined(crowd, two, "bob")
            bob.stay_away()
            await joined(crowd, two, "cid")
            assert (await watcher.call("online_users"))["count"] == 3
            two.kill()
            await eventually(lambda: set(said(watcher, "user_left", "username")) == {"bob", "cid"})
            assert (await watcher.call("online_users"))["count"] == 1
            await joined(crowd, one, "bob")
            await eventually(lambda: said(watcher, "user_joined", "username").count("bob") == 2)

    asyncio.run(main())


def test_five_seconds_without_redis_cost_remote_messages_and_nothing_else(tmp_path: Path, valkey: Valkey) -> None:
    """Local clients talk on, healthz says degraded, nobody is said to have left, and messages cross again."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as (one, two):
            ann, neighbour = await joined(crowd, one, "ann"), await joined(crowd, one, "neighbour")
            bob = await joined(crowd, two, "bob")
            await eventually(lambda: _crosses(ann, bob))
            assert (await ann.call("online_users"))["count"] == 3
            valkey.kill()
            until = time.monotonic() + 5
            while time.monotonic() < until:
                text = f"away {time.monotonic()}"
                assert (await ann.call("message", text))["ok"]
                await eventually(partial(hears, neighbour, text))
                await eventually(lambda: _health(one, "degraded"))
            late = await joined(crowd, one, "late")
            assert (await ann.call("online_users"))["count"] == 4
            valkey.start()
            for sender, receiver in ((ann, bob), (bob, ann)):
                await eventually(partial(_crosses, sender, receiver), what="messages cross again")
            await eventually(lambda: _health(one, "ok"))
            await eventually(lambda: "late" in said(bob, "user_joined", "username"))
            assert (await bob.call("online_users"))["count"] == 4
            for client in (ann, neighbour, bob, late):
                assert client.heard.disconnects == []
                assert client.heard.all("user_left") == []

    asyncio.run(main())


async def _crosses(sender: Client, receiver: Client) -> bool:
    text = f"crossing {time.monotonic()}"
    await sender.call("message", text)
    await eventually(lambda: hears(receiver, text), within_s=1)
    return True


async def _health(node: NodeProcess, status: str) -> bool:
    health = await node.healthz()
    return bool(health["status"] == status and health["http"] == 200)


def test_a_crowd_that_arrives_at_once_is_complete_on_every_node(tmp_path: Path, valkey: Valkey) -> None:
    """60 users on two nodes at the same time: each registration is answered, and everybody ends with the whole list."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as nodes:
            clients = await asyncio.gather(
                *(joined(crowd, nodes[number % 2], f"user-{number}") for number in range(60))
            )
            for client in (clients[0], clients[1]):
                assert (await client.call("online_users"))["count"] == 60
            complete: Callable[[], bool] = lambda: all(  # noqa: E731
                client.heard.all("online_users")[-1]["count"] == 60 for client in clients
            )
            await eventually(complete)

    asyncio.run(main())
