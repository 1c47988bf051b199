"""The classic exercise: three servers, clients on each and behind the balancer, a message to one reaches all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import CROWDS, POLLING, UPGRADE, WEBSOCKET, Client, Crowd
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually

TRANSPORTS = {"polling only": POLLING, "polling, then upgrade": UPGRADE, "websocket only": WEBSOCKET}


def port_of(client: Client) -> int:
    """Which server the client is on, as the server itself says."""
    port: int = client.heard.all("welcome")[-1]["port"]
    return port


def heard(client: Client, text: str) -> list[dict[str, Any]]:
    """All messages with this text that reached the client."""
    return [message for message in client.heard.all("message") if message["text"] == text]


async def joined(crowd: Crowd, url: str, name: str, transports: Sequence[str], **options: Any) -> Client:
    client = await crowd.connect(url, transports, **options)
    await eventually(lambda: client.heard.all("welcome"), what=f"{name} is welcomed")
    answer = await client.call("register", {"username": name})
    assert answer["ok"] is True, answer
    assert answer["port"] == port_of(client)
    return client


async def everyone_hears(sender: Client, clients: Sequence[Client], text: str, within_s: float = 30) -> None:
    answer = await sender.call("message", {"text": text})
    assert answer["ok"] is True, answer
    for client in clients:
        [message] = await eventually(
            partial(heard, client, text), within_s=within_s, what=f"a client on {port_of(client)} hears {text!r}"
        )
        assert message["port"] == port_of(sender), "the message names the server of its sender"


async def three_direct_and_three_balanced(stack: Stack, crowd: Crowd, transports: Sequence[str]) -> None:
    direct = [
        await joined(crowd, url, f"direct-{port}", transports)
        for url, port in zip(stack.node_urls, stack.ports, strict=True)
    ]
    assert [port_of(client) for client in direct] == stack.ports
    # Whom the balancer did not place it knows of from the nodes' reports.
    await eventually(lambda: _connections_are(stack, [1, 1, 1]))
    balanced = [await joined(crowd, stack.url, f"balanced-{i}", transports) for i in range(3)]
    assert {port_of(client) for client in balanced} == set(stack.ports), "three clients, one on each server"
    clients = direct + balanced
    for i, sender in enumerate(clients):
        await everyone_hears(sender, clients, f"hello {i}")
    online = await clients[0].call("online_users")
    assert online["count"] == 6
    assert {user["ports"][0] for user in online["users"]} == set(stack.ports)
    for client in clients:
        assert client.heard.disconnects == []
        assert len(client.heard.all("message")) == len(clients), "nothing twice"


@pytest.mark.parametrize("kind", CROWDS)
@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS.keys())
def test_a_message_sent_to_one_server_reaches_the_clients_of_all(
    kind: str, transports: Sequence[str], tmp_path: Path
) -> None:
    """Neither crowd keeps cookies, so that polling behind the balancer lives on the sid alone."""

    async def main() -> None:
        async with CROWDS[kind]() as crowd, running_stack(tmp_path) as stack:
            await three_direct_and_three_balanced(stack, crowd, transports)

    asyncio.run(main())


@pytest.mark.parametrize("kind", CROWDS)
def test_two_hundred_clients_all_hear_one(kind: str, tmp_path: Path) -> None:
    """200 clients behind the balancer, spread evenly; every one hears a message once."""
    # They are all one process, which has to read 40,000 lists of users before it sees a ping among them.
    patient = {"ping_timeout_s": 90, "slow_consumer_bytes": 2**26}

    async def main() -> None:
        async with CROWDS[kind]() as crowd, running_stack(tmp_path, node_options=patient) as stack:
            clients: list[Client] = []
            kinds = list(TRANSPORTS.values())
            for start in range(0, 200, 20):
                clients += await asyncio.gather(
                    *(joined(crowd, stack.url, f"user-{i}", kinds[i % 3]) for i in range(start, start + 20))
                )
            per_server = Counter(port_of(client) for client in clients)
            assert all(client.heard.disconnects == [] for client in clients), Counter(
                (client.heard.transport, *client.heard.disconnects) for client in clients
            )
            assert sum(per_server.values()) == 200
            assert min(per_server.values()) > 40, per_server
            for i, client in enumerate(clients[:3]):
                await everyone_hears(client, clients, f"to two hundred {i}", within_s=60)
            assert (await clients[-1].call("online_users"))["count"] == 200
            assert all(client.heard.disconnects == [] for client in clients), Counter(
                (client.heard.transport, *client.heard.disconnects) for client in clients
            )
            nodes = await stack.nodes()
            await eventually(
                lambda: _connections_add_up(stack, 200), what=f"/api/nodes counts 200 connections; at first {nodes}"
            )

    asyncio.run(main())


async def _connections_are(stack: Stack, counts: Sequence[int]) -> bool:
    return [node["connections"] for node in await stack.nodes()] == list(counts)


async def _connections_add_up(stack: Stack, count: int) -> bool:
    counts: list[int] = [node["connections"] for node in await stack.nodes()]
    return sum(counts) == count


@pytest.mark.parametrize("kind", CROWDS)
def test_all_clients_behind_one_address_work_under_ip_hash(kind: str, tmp_path: Path) -> None:
    """One address is one node's: polling, upgrade and WebSocket all land there, and still everybody hears everybody."""

    async def main() -> None:
        async with CROWDS[kind]() as crowd, running_stack(tmp_path, lb={"stickiness": "ip_hash"}) as stack:
            clients = [
                await joined(crowd, stack.url, f"{name} {i}", transports)
                for i in range(3)
                for name, transports in TRANSPORTS.items()
            ]
            assert len({port_of(client) for client in clients}) == 1
            elsewhere = next(port for port in stack.ports if port != port_of(clients[0]))
            other = await joined(crowd, f"http://127.0.0.1:{elsewhere}", "elsewhere", UPGRADE)
            await everyone_hears(other, [*clients, other], "across")

    asyncio.run(main())


@pytest.mark.parametrize("kind", CROWDS)
def test_addresses_behind_a_trusted_proxy_spread_under_ip_hash(kind: str, tmp_path: Path) -> None:
    """The same address always gets the same node, and many addresses use all nodes."""

    async def main() -> None:
        lb = {"stickiness": "ip_hash", "trusted_proxies": ["127.0.0.1/32"]}
        async with CROWDS[kind]() as crowd, running_stack(tmp_path, lb=lb) as stack:
            placed: dict[str, set[int]] = {}
            for i in range(24):
                address = f"198.51.100.{i % 12}"
                client = await joined(crowd, stack.url, f"user-{i}", UPGRADE, headers={"X-Forwarded-For": address})
                placed.setdefault(address, set()).add(port_of(client))
            assert all(len(ports) == 1 for ports in placed.values()), placed
            assert len(set().union(*placed.values())) == 3, placed

    asyncio.run(main())
