"""The short way of a new connection, and that nobody can tell which way it took."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.handoff import Taken
from lb.arrivals import ACCEPT_AGAIN_S
from lb.arrived import Arrived
from lb.reception import Reception
from tests.lb.conftest import Run
from tests.support.balancer import Balancer, balancer, upgrade_request
from tests.support.descriptors import no_descriptor_left
from tests.support.handing import BareNode, adopting_node, bare_node, frame, hands_over, payload_from
from tests.support.waiting import eventually, lastingly


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the connections that went the long way had brought."""
    seen: list[bytes] = []
    receive = Reception.receive

    def received(reception: Reception, arrived: Arrived) -> None:
        seen.append(arrived.received)
        receive(reception, arrived)

    monkeypatch.setattr(Reception, "receive", received)
    return seen


@asynccontextmanager
async def one_bare_node(directory: Path) -> AsyncIterator[tuple[Balancer, BareNode]]:
    async with (
        bare_node(directory / "n0.sock") as node,
        balancer(1, trusted_proxies=["127.0.0.1"], traceparent="pass") as front,
    ):
        hands_over(front, node.path)
        yield front, node


async def given_for(front: Balancer, node: BareNode, *pieces: bytes) -> tuple[bytes, str]:
    """Send `pieces` one by one; return what the node gets: all that was received, and the cookie."""
    caller = await front.connect()
    caller.send(pieces[0])
    for piece in pieces[1:]:
        await eventually(lambda: front.front.connections == 1)
        caller.send(piece)
    link = node.links[0] if node.links else await node.link()
    packet = await link.packet()
    link.say(Taken(packet.id))
    await eventually(lambda: front.front.connections == 0)
    return packet.received, packet.cookie


@pytest.mark.parametrize(
    "request_",
    [
        upgrade_request(),
        upgrade_request("/ws?a=%20b") + frame(b"did not wait"),
        upgrade_request(Cookie="flotilla=n0.forged; a=b"),
        upgrade_request(**{"X-Forwarded-For": "10.1.2.3, 9.8.7.6", "X-Forwarded-Proto": "https"}),
        upgrade_request(**{"X-Hop": "1", "Proxy-Authorization": "no"}).replace(
            b"keep-alive, Upgrade", b"Upgrade, X-Hop"
        ),
        upgrade_request().replace(b"websocket", b"WebSocket"),
    ],
)
def test_the_node_gets_the_same_whichever_way_the_connection_went(
    run: Run, tmp_path: Path, long_way: list[bytes], request_: bytes
) -> None:
    """Head, early data and cookie; the short way is taken when all is there at the first look."""

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            short = await given_for(front, node, request_)
            assert not long_way
            assert await given_for(front, node, request_[:30], request_[30:]) == short
            assert long_way == [request_[:30]]
            assert front.metrics.totals.nodes["n0"].handoffs == 2

    run(main)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
        (b"GET /page HTTP/1.1\r\nHost: a\r\nX: websocket\r\n\r\n", b"200"),
        (b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: xwebsocket\r\n\r\n", b"200"),
        (b"GET /page HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: websocket\r\n\r\n", b"400"),
        (b"GET /page HTTP/1.1\r\nHost: a\r\nX-websocket : a\r\n\r\n", b"400"),
        (b"GET /page HTTP/1.1\r\nHost: a\r\nX-websocket: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
        (upgrade_request("/page").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"), b"200"),
        (upgrade_request("/page").replace(b"GET", b"POST", 1), b"405"),
        (upgrade_request("/page").replace(b"HTTP/1.1", b"HTTP/1.0", 1), b"200"),
        (upgrade_request("/echo", Connection="Upgrade, X-Hop", **{"X-Hop": "1"}), b"101"),
        (upgrade_request("/echo", Upgrade="WebSocket"), b"101"),
        (upgrade_request("/echo", Upgrade="h2c"), b"101"),
    ],
)
def test_what_is_no_plain_upgrade_takes_the_long_way(
    run: Run, tmp_path: Path, long_way: list[bytes], request_: bytes, status: bytes
) -> None:
    """And is answered as ever."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port) as front:
            hands_over(front, node.path)
            caller = await front.connect()
            caller.send(request_)
            head = await caller.head()
            assert head.split()[1] == status
            assert long_way == [request_]

    run(main)


def test_what_is_behind_a_first_look_stays_for_the_node(run: Run, tmp_path: Path, long_way: list[bytes]) -> None:
    """More frames at once than one look takes: the rest is read by the node, from the socket."""
    payloads = [bytes([number]) * 5000 for number in range(12)]

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port) as front:
            hands_over(front, node.path)
            caller = await front.connect()
            caller.send(upgrade_request("/echo") + b"".join(map(frame, payloads)))
            await caller.head()
            for payload in payloads:
                assert await payload_from(caller.reader) == payload
            assert not long_way

    run(main)


def test_a_node_that_cannot_have_sockets_gets_its_turns_all_the_same(run: Run, tmp_path: Path) -> None:
    """One node is handed connections, the other tunnelled to: a choice that was made counts, and is not made twice."""

    async def main() -> None:
        async with (
            adopting_node(tmp_path) as near,
            adopting_node(tmp_path, "far") as far,
            balancer(near.port, far.port, balance="round_robin", stickiness="none") as front,
        ):
            hands_over(front, near.path)
            for _ in range(6):
                caller = await front.connect()
                caller.send(upgrade_request("/echo"))
                assert b"101 Switching" in await caller.head()
            assert (near.adoption.count, front.node("n1").tunnels) == (3, 3)

    run(main)


def test_a_connection_that_is_over_before_it_is_looked_at_leaves_nothing(run: Run) -> None:
    """Closed or reset, with or without a word: what load balancers in front of us do to see whether we are there."""

    async def main() -> None:
        async with balancer(1) as front:
            before = front.front.connections
            for reset in (False, True):
                sock = socket.create_connection(("127.0.0.1", front.port))
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
            answer = await front.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 5")
            await eventually(lambda: front.front.connections == before)

    run(main)


def test_without_descriptors_connections_wait_and_the_log_names_the_limit(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however many wait; they are served when there is room."""
    waiting = [socket.socket() for _ in range(3)]
    line = "connections wait to be accepted: out of the limit of open files of this process (ulimit -n, LimitNOFILE=)"

    def said() -> int:
        return [record.getMessage() for record in caplog.records].count(line)

    async def main() -> None:
        async with balancer(1) as front:
            with no_descriptor_left():
                for sock in waiting:
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", front.port))
                    sock.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await eventually(lambda: said() == 1)
                await lastingly(lambda: said() == 1, 3 * ACCEPT_AGAIN_S)
            for sock in waiting:
                answer = await asyncio.get_running_loop().sock_recv(sock, 100)
                assert answer.startswith(b"HTTP/1.1 5")

    try:
        run(main)
    finally:
        for sock in waiting:
            sock.close()
