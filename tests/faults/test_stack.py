"""Faults under a whole stack while clients talk.  Each has one defined outcome, which is what the test's name says."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.e2e.test_classic import everyone_hears, heard, joined, port_of
from tests.support.clients import UPGRADE, WEBSOCKET, Client, python_crowd
from tests.support.stack import Stack, running_stack
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


async def _restarted(stack: Stack, port: int, old_pid: int) -> bool:
    node = await stack.node_on(port)
    return node["state"] == "ready" and node["pid"] not in (0, None, old_pid)


def test_a_killed_node_costs_its_own_clients_one_reconnect_and_nobody_else_anything(tmp_path: Path) -> None:
    """kill -9: its clients come back on the other nodes, are heard again, and who is online is right in seconds."""

    async def main() -> None:
        async with python_crowd() as crowd, running_stack(tmp_path) as stack:
            clients = [await joined(crowd, stack.url, f"user-{i}", WEBSOCKET) for i in range(6)]
            victim = port_of(clients[0])
            theirs = [client for client in clients if port_of(client) == victim]
            others = [client for client in clients if port_of(client) != victim]
            pid = (await stack.node_on(victim))["pid"]
            stack.kill(pid)

            for client in theirs:
                await eventually(partial(_connected_twice, client), what="reconnected")
            for i, client in enumerate(theirs):
                assert (await client.call("register", {"username": f"user-{clients.index(client)}"}))["ok"], i
            await everyone_hears(theirs[0], clients, "back again")
            await everyone_hears(others[0], clients, "welcome back")
            assert all(client.heard.disconnects == [] for client in others)

            await eventually(lambda: _restarted(stack, victim, pid), what="the node is back under its name")
            await eventually(lambda: _online(others[0], 6), what="six users online, none of them a ghost")

    asyncio.run(main())


def _connected_twice(client: Client) -> bool:
    return client.heard.connects == 2


async def _online(client: Client, count: int) -> bool:
    answer = await client.call("online_users")
    devices = sum(user["devices"] for user in answer["users"])
    return bool(answer["count"] == count == devices)


def test_users_of_a_killed_node_who_do_not_return_are_offline_in_seconds(tmp_path: Path) -> None:
    """The dead node cannot say goodbye for them; the others find out and tell everybody once."""

    async def main() -> None:
        async with python_crowd() as crowd, running_stack(tmp_path) as stack:
            doomed, witness = stack.node_urls[:2]
            for name in ("ann", "bob"):
                (await joined(crowd, doomed, name, WEBSOCKET)).stay_away()
            watcher = await joined(crowd, witness, "watcher", WEBSOCKET)
            assert await _online(watcher, 3)
            pid = (await stack.node_on(stack.ports[0]))["pid"]
            stack.kill(pid)
            await eventually(lambda: _online(watcher, 1), what="only the watcher is online")
            await eventually(lambda: len(watcher.heard.all("user_left")) == 2, what="both are said to have left")
            assert {left["username"] for left in watcher.heard.all("user_left")} == {"ann", "bob"}

    asyncio.run(main())


async def _crosses(clients: Sequence[Client]) -> bool:
    """One more message of the first client reaches all."""
    text = f"crossing at {time.monotonic()}"
    assert (await clients[0].call("message", {"text": text}))["ok"]
    await eventually(lambda: all(heard(client, text) for client in clients), within_s=1)
    return True


def test_while_redis_is_away_local_clients_talk_on_and_afterwards_all_hear_all(tmp_path: Path, valkey: Valkey) -> None:
    """Five seconds without Redis: no client is dropped, no node is ejected, and messages cross again by themselves."""

    async def main() -> None:
        async with python_crowd() as crowd, running_stack(tmp_path, redis=valkey.url) as stack:
            clients = [await joined(crowd, url, f"user-{url[-1]}", WEBSOCKET) for url in stack.node_urls]
            neighbour = await joined(crowd, stack.node_urls[0], "neighbour", WEBSOCKET)
            balanced = await joined(crowd, stack.url, "balanced", UPGRADE)
            clients += [neighbour, balanced]
            await everyone_hears(clients[0], clients, "before")

            valkey.kill()
            away_until = time.monotonic() + 5
            talked = 0
            while time.monotonic() < away_until:
                await everyone_hears(clients[0], [clients[0], neighbour], f"while it is away {talked}")
                talked += 1
                assert len(await stack.ready_nodes()) == 3, "no node is ejected for Redis's sake"
            newcomer = await crowd.connect(stack.url, WEBSOCKET)
            await eventually(lambda: newcomer.heard.all("welcome"), what="a newcomer gets in")

            valkey.start()

            await eventually(partial(_crosses, clients), what="messages cross again")
            assert all(client.heard.disconnects == [] for client in [*clients, newcomer])
            await eventually(lambda: _online(clients[1], 5), what="who is online is right again")

    asyncio.run(main())


def test_a_killed_embedded_valkey_comes_back_and_messages_cross_again(tmp_path: Path) -> None:
    """The supervisor restarts it at the same socket; nodes register and presence is asserted anew."""

    async def main() -> None:
        async with python_crowd() as crowd, running_stack(tmp_path) as stack:
            clients = [await joined(crowd, url, f"user-{url[-1]}", WEBSOCKET) for url in stack.node_urls]
            await everyone_hears(clients[0], clients, "before")
            stack.kill((await stack.children())["valkey"]["pid"])

            await eventually(partial(_crosses, clients), what="messages cross again")
            assert all(client.heard.disconnects == [] for client in clients)
            await eventually(lambda: _online(clients[1], 3), what="who is online is right again")

    asyncio.run(main())


@pytest.mark.parametrize(("handoff", "connects"), [("auto", 1), ("never", 2)])
def test_a_killed_balancer_worker_refuses_nobody(tmp_path: Path, handoff: str, connects: int) -> None:
    """Connections that arrive while there is no worker wait in the socket's backlog and are served by the next one.

    A WebSocket that was handed over to its node does not notice; one in a tunnel reconnects.
    """

    async def main() -> None:
        async with python_crowd() as crowd, running_stack(tmp_path, lb={"handoff": handoff}) as stack:
            first = await joined(crowd, stack.url, "first", WEBSOCKET)
            pid = (await stack.children())["worker-0"]["pid"]
            host, port = "127.0.0.1", int(stack.url.rpartition(":")[2])
            stack.kill(pid)
            # Refused would raise at once; each of these is accepted by the kernel and answered by the next worker.
            answers = await asyncio.gather(*(_status_of_page(host, port) for _ in range(20)))
            assert answers == [b"HTTP/1.1 200 OK"] * 20
            await eventually(lambda: first.heard.connects == connects, what="a tunnelled client reconnects")
            second = await joined(crowd, stack.url, "second", UPGRADE)
            assert (await first.call("register", {"username": "first"}))["ok"]
            await everyone_hears(second, [first, second], "after the crash")
            assert first.heard.connects == connects

    asyncio.run(main())


@pytest.mark.parametrize("workers", [1, 2])
def test_rolling_two_nodes_costs_no_request(tmp_path: Path, workers: int) -> None:
    """The second node goes only when every worker sends clients to the first one's successor."""

    async def main() -> None:
        async with running_stack(tmp_path, nodes=2, lb={"workers": workers}) as stack:
            host, port = "127.0.0.1", int(stack.url.rpartition(":")[2])
            answers: Counter[bytes] = Counter()

            async def rolled() -> bool:
                answers[await _status_of_page(host, port)] += 1
                return stack.said().count("node replaced") == 2

            changed = {**stack.config, "nodes": {**stack.config["nodes"], "ping_interval_s": 11}}
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
            stack.process.send_signal(signal.SIGHUP)
            await eventually(rolled, within_s=30, what="both nodes are replaced")
            assert set(answers) == {b"HTTP/1.1 200 OK"}, answers

    asyncio.run(main())


async def _status_of_page(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            return (await reader.readline()).strip()
    finally:
        writer.close()
        await writer.wait_closed()
