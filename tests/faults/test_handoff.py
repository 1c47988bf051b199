"""Faults under WebSockets that were handed over, in a whole stack.  Each has one outcome: its test's name."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.closing import CloseCode
from tests.e2e.test_classic import everyone_hears, joined, port_of
from tests.support.balancer import Caller, upgrade_request
from tests.support.clients import CROWDS, WEBSOCKET, Client, python_crowd
from tests.support.handing import frame, payload_from
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually, lastingly

SOCKET_IO = "/socket.io/?EIO=4&transport=websocket"


@asynccontextmanager
async def websocket(url: str, **headers: str) -> AsyncIterator[tuple[Caller, dict[str, Any]]]:
    """Open a bare Engine.IO WebSocket; gives it, and its open packet with the name of the node added."""
    host, _, port = url.removeprefix("http://").partition(":")
    caller = Caller(*await asyncio.open_connection(host, int(port)))
    try:
        caller.send(upgrade_request(SOCKET_IO, **headers))
        async with asyncio.timeout(30):
            head = await caller.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        opened = json.loads((await payload_from(caller.reader))[1:])
        yield caller, opened | {"node": opened["sid"].partition("-")[0]}
    finally:
        caller.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP a process; it goes on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def pid_of(stack: Stack, name: str) -> int:
    return int((await stack.children())[name]["pid"])


async def handed_over(stack: Stack) -> int:
    """Return how many connections the nodes have from the workers that live."""
    return sum(node["handoffs"] for node in await stack.nodes())


async def has_handed_over(stack: Stack, count: int) -> bool:
    return await handed_over(stack) == count


def test_a_hanging_node_gets_nobody_and_serves_nobody_twice(tmp_path: Path) -> None:
    """SIGSTOP: its clients-to-be are another node's before any probe says so, and stay so when it wakes up."""

    async def main() -> None:
        lb = {"health": {"interval_s": 600, "timeout_s": 300}}
        async with running_stack(tmp_path, 2, lb=lb) as stack:
            first, second = (f"n{port}" for port in stack.ports)
            with stopped(await pid_of(stack, first)):
                callers = []
                for _ in range(6):
                    entered = websocket(stack.url)
                    caller, opened = await entered.__aenter__()
                    callers.append((entered, caller))
                    assert opened["node"] == second
            await eventually(lambda: "read too late" in stack.said(), what="it refuses what it finds")
            for _, caller in callers:
                caller.send(frame(b"2probe", opcode=1))
            await lastingly(lambda: not any(caller.reader.at_eof() for _, caller in callers), 0.2)
            assert await handed_over(stack) == 6
            for entered, _ in callers:
                await entered.__aexit__(None, None, None)
            await eventually(partial(has_handed_over, stack, 0))

    asyncio.run(main())


def test_a_node_without_descriptors_refuses_and_another_takes_the_client(tmp_path: Path) -> None:
    """RLIMIT_NOFILE: the kernel drops the descriptor on the way.  With more room it takes clients again."""

    async def main() -> None:
        async with running_stack(tmp_path, 2) as stack:
            first, second = (f"n{port}" for port in stack.ports)
            pid = await pid_of(stack, first)
            async with websocket(stack.url), websocket(stack.url):
                used = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
                limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
                seen = set()
                for _ in range(4):
                    async with websocket(stack.url) as (_, opened):
                        seen.add(opened["node"])
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
                assert second in seen
            assert "handoff refused" in stack.said()
            assert "out of descriptors" in stack.said()
            assert "Traceback" not in stack.said()

    asyncio.run(main())


def test_a_worker_killed_five_times_costs_its_talking_clients_nothing(tmp_path: Path) -> None:
    """kill -9 under load, both kinds of clients: no disconnect, no message lost, no connection refused."""

    async def main() -> None:
        async with (
            CROWDS["python"]() as python,
            CROWDS["javascript"]() as javascript,
            running_stack(tmp_path, restart={"first_delay_s": 0.01, "give_up_after": 100}) as stack,
        ):
            clients = [await joined(python, stack.url, f"python-{i}", WEBSOCKET) for i in range(4)]
            clients += [await joined(javascript, stack.url, f"javascript-{i}", WEBSOCKET) for i in range(4)]
            sent = 0
            for round_ in range(5):
                pid = await pid_of(stack, "worker-0")
                stack.kill(pid)
                newcomer = asyncio.create_task(joined(python, stack.url, f"newcomer-{round_}", WEBSOCKET))
                for _ in range(4):
                    for client in clients:
                        assert (await client.call("message", {"text": str(sent)}))["ok"]
                        sent += 1
                await newcomer
                await eventually(partial(_is_another, stack, pid))
            for client in clients:
                await eventually(partial(_heard_all, client, sent), what="every message reached everybody")
                assert (client.heard.connects, client.heard.disconnects) == (1, [])

    asyncio.run(main())


async def _is_another(stack: Stack, pid: int) -> bool:
    worker = (await stack.children())["worker-0"]
    return bool(worker["state"] == "ready" and worker["pid"] != pid)


def _heard_all(client: Client, sent: int) -> bool:
    # Each node publishes in order, but two nodes are not ordered against each other.
    return sorted(int(message["text"]) for message in client.heard.all("message")) == list(range(sent))


def test_new_workers_after_a_reload_touch_no_connection_that_was_handed_over(tmp_path: Path) -> None:
    """SIGHUP with a changed `lb`: two new workers take over, the old one ends, nobody reconnects."""

    async def main() -> None:
        async with python_crowd() as crowd, running_stack(tmp_path, 2) as stack:
            clients = [await joined(crowd, stack.url, f"user-{i}", WEBSOCKET) for i in range(4)]
            old = await pid_of(stack, "worker-0")
            config = dict(stack.config, lb=stack.config["lb"] | {"workers": 2})
            (tmp_path / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
            stack.process.send_signal(signal.SIGHUP)
            await eventually(lambda: not psutil.pid_exists(old), what="the old worker is gone")
            more = [await joined(crowd, stack.url, f"more-{i}", WEBSOCKET) for i in range(4)]
            await everyone_hears(clients[0], [*clients, *more], "after the reload")
            assert all(client.heard.disconnects == [] for client in [*clients, *more])
            await eventually(partial(has_handed_over, stack, 4), what="the workers of now count their own")

    asyncio.run(main())


@pytest.mark.parametrize("kind", sorted(CROWDS))
def test_clients_of_a_node_that_is_told_to_stop_come_back_elsewhere(tmp_path: Path, kind: str) -> None:
    """SIGTERM: those that were handed over are closed with 1001 like all others, and reconnect by themselves."""

    async def main() -> None:
        async with CROWDS[kind]() as crowd, running_stack(tmp_path, 2) as stack:
            clients = [await joined(crowd, stack.url, f"user-{i}", WEBSOCKET) for i in range(4)]
            leaving = port_of(clients[0])
            theirs = [client for client in clients if port_of(client) == leaving]
            async with _on(stack, leaving) as caller:
                os.kill(await pid_of(stack, f"n{leaving}"), signal.SIGTERM)
                rest = await caller.rest()
                assert rest.endswith(b"\x88\x02" + int(CloseCode.GOING_AWAY).to_bytes(2, "big"))
            for client in theirs:
                await eventually(lambda client=client: client.heard.connects == 2, what="reconnected")  # type: ignore[misc]
            assert all(client.heard.connects == 1 for client in clients if client not in theirs)
            assert "Traceback" not in stack.said()

    asyncio.run(main())


@asynccontextmanager
async def _on(stack: Stack, port: int) -> AsyncIterator[Caller]:
    """Open a bare WebSocket that lands on the node at `port`."""
    while True:
        async with websocket(stack.url) as (caller, opened):
            if opened["node"] == f"n{port}":
                yield caller
                return


def test_two_workers_hand_over_to_the_same_nodes_and_add_up(tmp_path: Path) -> None:
    """`lb.workers: 2`: counts of both in the API and in /metrics; they go down together when clients leave."""

    async def main() -> None:
        async with running_stack(tmp_path, 2, lb={"workers": 2}) as stack:
            entered = [websocket(stack.url) for _ in range(40)]
            for each in entered:
                await each.__aenter__()
            await eventually(partial(has_handed_over, stack, 40))
            assert all([await _has_links(stack, f"worker-{index}") for index in range(2)]), "both took part"
            for each in entered:
                await each.__aexit__(None, None, None)
            await eventually(partial(has_handed_over, stack, 0))
            nodes = await stack.nodes()
            assert {node["path"] for node in nodes} == {"handoff"}
            assert all(node["tunnels"] == 0 for node in nodes)

    asyncio.run(main())


async def _has_links(stack: Stack, name: str) -> bool:
    """Return whether a worker has a connection to a handoff socket: an unnamed one, beside those it listens on."""
    pid = await pid_of(stack, name)
    return any(each.family == socket.AF_UNIX for each in psutil.Process(pid).net_connections(kind="unix"))


def test_after_a_workers_death_the_nodes_counts_still_balance(tmp_path: Path) -> None:
    """`least_connections` goes by what nodes say, so that a new worker does not begin at zero."""

    async def main() -> None:
        async with running_stack(tmp_path, 2) as stack:
            first, second = stack.ports
            async with AsyncExitStack() as clients:
                await clients.enter_async_context(_many(f"http://127.0.0.1:{first}", 10))
                await eventually(partial(_has, stack, first, 10))
                await clients.enter_async_context(_many(stack.url, 4))
                pid = await pid_of(stack, "worker-0")
                stack.kill(pid)
                await eventually(partial(_is_another, stack, pid))
                await eventually(partial(_has, stack, second, 4))
                async with _many(stack.url, 5) as opened:
                    assert {each["node"] for each in opened} == {f"n{second}"}

    asyncio.run(main())


async def _has(stack: Stack, port: int, count: int) -> bool:
    return bool((await stack.node_on(port))["connections"] == count)


@asynccontextmanager
async def _many(url: str, count: int) -> AsyncIterator[list[dict[str, Any]]]:
    entered = [websocket(url) for _ in range(count)]
    try:
        yield [(await each.__aenter__())[1] for each in entered]
    finally:
        for each in entered:
            await each.__aexit__(None, None, None)


def test_the_memory_of_two_thousand_connections_is_the_nodes_alone(tmp_path: Path) -> None:
    """A worker keeps a number and a time of each; they all go at once, and its descriptors were never taken."""

    async def main() -> None:
        async with running_stack(tmp_path, 1, redis="none") as stack:
            process = psutil.Process(await pid_of(stack, "worker-0"))
            node = psutil.Process(await pid_of(stack, f"n{stack.ports[0]}"))
            async with _many(stack.url, 200):
                pass
            await eventually(partial(has_handed_over, stack, 0))
            memory, descriptors, the_nodes = process.memory_info().rss, process.num_fds(), node.num_fds()
            async with _many(stack.url, 2000):
                await eventually(partial(has_handed_over, stack, 2000))
                assert process.num_fds() <= descriptors + 10
                assert process.memory_info().rss - memory < 2000 * 1024
            await eventually(partial(has_handed_over, stack, 0), what="2,000 ends that came at once")
            await eventually(lambda: node.num_fds() <= the_nodes + 10, what="the node's descriptors are free again")
            assert re.search(r"Traceback|never retrieved", stack.said()) is None

    asyncio.run(main())
