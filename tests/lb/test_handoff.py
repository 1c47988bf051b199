"""The worker's side of a handoff: when it lets go, when it does not, and what it does with nodes that misbehave."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import lb.handoff
import lb.upgrade
from cluster import handoff
from cluster.handoff import Handoff, Refused, Taken
from lb.metrics import NodeCounts
from tests.lb.conftest import Run
from tests.support.balancer import Balancer, balancer, upgrade_request
from tests.support.handing import (
    BareLink,
    BareNode,
    adopting_node,
    bare_node,
    closed,
    echoes,
    frame,
    hands_over,
    open_descriptors,
    payload_from,
)
from tests.support.waiting import eventually, lastingly

SHORT = LONG = 1
"""How often a node is asked on each way: the long one begins anew with all of them."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up no handoff because this machine is slow; a test whose node is silent sets a short deadline for it."""
    monkeypatch.setattr(handoff, "VALID_S", 30.0)
    monkeypatch.setattr(lb.handoff, "ANSWER_MARGIN_S", 0.05)


def was_not_asked(link: BareLink) -> bool:
    """Return whether nothing waits to be read by the node."""
    try:
        handoff.receive(link.sock)
    except BlockingIOError:
        return True
    return False


@asynccontextmanager
async def one_bare_node(directory: Path) -> AsyncIterator[tuple[Balancer, BareNode]]:
    """Run a balancer in front of a node that the test plays at its handoff socket; nothing listens on its port."""
    async with bare_node(directory / "n0.sock") as node, balancer(1) as front:
        hands_over(front, node.path)
        yield front, node


def count(front: Balancer, name: str = "n0") -> tuple[int, int, int]:
    """Return how many connections the node has from us by the pool, and by the metrics: open, and ever."""
    counts = front.metrics.totals.nodes.get(name, NodeCounts())
    return front.node(name).handed_over, counts.handoffs_open, counts.handoffs


def _busier(front: Balancer, name: str) -> None:
    """Let the other nodes be chosen first."""
    front.node(name).handed_over += 100


def test_until_the_node_has_answered_nothing_is_read_and_nothing_is_sent(run: Run, tmp_path: Path) -> None:
    """What the client says meanwhile stays in its socket, whole, for the node; the worker keeps its copy."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with one_bare_node(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request() + b"behind the head")
            link = await node.link()
            given = await link.packet()
            assert given.received.endswith(b"\r\n\r\nbehind the head")
            with link.client() as client:
                caller.send(b"before the answer")
                assert await loop.sock_recv(client, 100) == b"before the answer"
                assert front.front.connections == 1
                link.say(Taken(given.id))
                await eventually(lambda: front.front.connections == 0, what="the worker lets go")
                caller.send(b"after it")
                assert await loop.sock_recv(client, 100) == b"after it"
                # The worker's copy was closed, not shut down: both directions still work.
                await loop.sock_sendall(client, b"from the node")
                assert await caller.reader.readexactly(13) == b"from the node"
                assert count(front) == (1, 1, 1)
            assert await caller.rest() == b"", "ours was the last copy but the node's"
            link.say(closed(given.id))
            await eventually(lambda: count(front) == (0, 0, 1))

    run(main)


def test_a_connection_that_ends_before_the_worker_has_read_the_answer_is_not_counted_for_ever(
    run: Run, tmp_path: Path
) -> None:
    """`Taken` and `Closed` arrive together; so does the end of the link."""

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            (await front.connect()).send(upgrade_request())
            link = await node.link()
            given = await link.packet()
            link.say(Taken(given.id), closed(given.id))
            await eventually(lambda: count(front) == (0, 0, 1))
            (await front.connect()).send(upgrade_request())
            given = await link.packet()
            link.say(Taken(given.id))
            link.sock.close()
            await eventually(lambda: count(front) == (0, 0, 2))
            await eventually(lambda: front.front.connections == 0)

    run(main)


def test_a_silent_node_loses_the_client_to_another_and_its_late_answer_counts_for_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline and a margin.  The next clients do not wait for it at all."""
    monkeypatch.setattr(handoff, "VALID_S", 0.2)
    monkeypatch.setattr(lb.handoff, "SILENT_S", 600.0)

    async def main() -> None:
        async with (
            bare_node(tmp_path / "n0.sock") as silent,
            adopting_node(tmp_path, "n1") as good,
            balancer(1, good.port) as front,
        ):
            hands_over(front, silent.path, good.path)
            _busier(front, "n1")
            caller = await front.connect()
            caller.send(upgrade_request("/echo"))
            link = await silent.link()
            given = await link.packet()
            monkeypatch.setattr(handoff, "VALID_S", 30.0)
            assert b"101 Switching" in await caller.head()
            assert time.monotonic_ns() > given.valid_until_ns
            for _ in range(3):
                another = await front.connect()
                another.send(upgrade_request("/echo"))
                assert b"101 Switching" in await another.head()
            assert was_not_asked(link)
            assert good.adoption.count == 4
            link.say(Taken(given.id))  # as no node of ours does
            assert await echoes(caller, b"still one node's")
            await lastingly(lambda: front.node("n0").handed_over == 0, 0.1)

    run(main)


def test_a_node_that_was_silent_is_not_asked_before_it_speaks_or_some_time_has_gone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client waits for it, not everybody who comes while it hangs."""
    monkeypatch.setattr(handoff, "VALID_S", 0.2)
    monkeypatch.setattr(lb.handoff, "SILENT_S", 600.0)

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request())
            link = await node.link()
            given = await link.packet()
            monkeypatch.setattr(handoff, "VALID_S", 30.0)
            await caller.answer()
            caller = await front.connect()
            caller.send(upgrade_request())
            head, _ = await caller.answer()
            assert head.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: 1\r\n" in head
            assert was_not_asked(link)
            link.say(Refused(given.id, "read too late"))
            await eventually(lambda: _the_link(front).silent_since is None)
            caller = await front.connect()
            caller.send(upgrade_request())
            given = await link.packet()
            link.say(Taken(given.id))
            await eventually(lambda: count(front)[0] == 1)
            _the_link(front).silent_since = asyncio.get_running_loop().time() - lb.handoff.SILENT_S
            caller = await front.connect()
            caller.send(upgrade_request())
            link.say(Taken((await link.packet()).id))
            await eventually(lambda: count(front)[0] == 2)

    run(main)


def _the_link(front: Balancer) -> lb.handoff._Link:
    (link,) = front.front._handoffs._links.values()
    return link


def test_a_refusal_means_the_next_node_and_a_wait_before_503(run: Run, tmp_path: Path) -> None:
    """Nothing was sent to the client; its connection serves the answer, and the next request."""

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request())
            link = await node.link()
            for _ in range(SHORT + LONG + LONG):
                link.say(Refused((await link.packet()).id, "leaving"))
            head, _ = await caller.answer()
            assert head.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: 1\r\n" in head
            assert front.metrics.totals.rejected == {"no_node": 1}
            caller.send(upgrade_request())
            given = await link.packet()
            link.say(Taken(given.id))
            await eventually(lambda: count(front) == (1, 1, 1))

    run(main)


def test_a_full_socket_is_overloaded_not_broken(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node does not read: others take its clients, and it is still handed to once it reads again."""
    monkeypatch.setattr(handoff, "VALID_S", 1.0)  # for what fits
    connected = lb.handoff._connected

    def cramped(path: str) -> socket.socket:
        sock = connected(path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return sock

    async def main() -> None:
        async with (
            bare_node(tmp_path / "n0.sock") as full,
            adopting_node(tmp_path, "n1") as good,
            balancer(1, good.port) as front,
        ):
            hands_over(front, full.path, good.path)
            _busier(front, "n1")
            monkeypatch.setattr(lb.handoff, "_connected", cramped)
            callers = [await front.connect() for _ in range(8)]
            for caller in callers:
                caller.send(upgrade_request("/echo"))
            for caller in callers:
                assert b"101 Switching" in await caller.head()
            assert front.node("n0").path == "handoff"
            assert good.adoption.count == 8

    run(main)


def test_a_socket_that_is_not_there_means_the_tunnel_and_one_line_in_the_log(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's port still serves, and `path` says so; when the socket is there it is found again."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port) as front:
            for path in (tmp_path / "gone.sock", tmp_path / ("long" * 50)):
                caplog.clear()
                hands_over(front, path)
                front.node().handoff_broken = False
                for _ in range(3):
                    caller = await front.connect()
                    caller.send(upgrade_request("/echo"))
                    assert b"101 Switching" in await caller.head()
                    assert await echoes(caller, b"through the tunnel")
                assert front.node().path == "tunnel"
                [record] = [
                    record for record in caplog.records if record.getMessage() == "handoff impossible: tunnelling"
                ]
                assert "No such file" in record.reason or "too long" in record.reason  # type: ignore[attr-defined]
            assert front.node().tunnels == 6
            assert node.adoption.count == 0
            monkeypatch.setattr(lb.upgrade, "BROKEN_S", 0.05)
            front.node().handoff_broken = False
            (await front.connect()).send(upgrade_request("/echo"))
            await eventually(lambda: front.node().tunnels == 7)
            hands_over(front, node.path)
            await eventually(lambda: front.node().path == "handoff")
            caller = await front.connect()
            caller.send(upgrade_request("/echo"))
            assert b"101 Switching" in await caller.head()
            assert node.adoption.count == 1

    run(main)


def test_a_node_that_dies_with_the_request_in_its_hands_costs_the_client_nothing(run: Run, tmp_path: Path) -> None:
    """The link ends without an answer: a successor at the same socket is asked, else its port, else another node."""

    async def main() -> None:
        async with adopting_node(tmp_path, "n1") as good, balancer(1, good.port) as front:
            async with bare_node(tmp_path / "n0.sock") as node:
                hands_over(front, node.path, good.path)
                _busier(front, "n1")
                caller = await front.connect()
                caller.send(upgrade_request("/echo"))
                for _ in range(SHORT + LONG + LONG):
                    link = await node.link()
                    await link.packet()
                    link.close()
                assert b"101 Switching" in await caller.head()
                assert front.node("n0").path == "handoff"
                caller = await front.connect()
                caller.send(upgrade_request("/echo"))
                await (await node.link()).packet()
            assert b"101 Switching" in await caller.head()
            assert await echoes(caller, b"unharmed")
            assert good.adoption.count == 2
            assert front.node("n0").state == "down", "its port refused"

    run(main)


def test_a_node_that_talks_nonsense_loses_its_link(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A packet that is none, a handoff from a node: the link is closed, its descriptors as well; no traceback."""
    caplog.set_level("INFO")

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            for nonsense in (b"?", Handoff(1, 2, "", b"").to_bytes()):
                caller = await front.connect()
                caller.send(upgrade_request())
                link = await node.link()
                given = await link.packet()
                link.say(Taken(given.id), Taken(12345), closed(99))
                await eventually(lambda: count(front)[0] == 1)
                before = open_descriptors()
                socket.send_fds(link.sock, [nonsense], [link.sock.fileno()])
                await eventually(lambda: count(front)[0] == 0, what="what it had is not ours to count any more")
                assert open_descriptors() == before - 1
                link.close()

    run(main)


def test_another_users_socket_is_not_talked_to(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could put a socket there must not get our clients."""
    monkeypatch.setattr(handoff, "is_ours", lambda _: False)

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request())
            assert (await caller.head()).startswith(b"HTTP/1.1 503")
            assert front.node().handoff_broken
            link = await node.link()
            assert handoff.receive(link.sock) == (b"", [])

    run(main)


def test_more_early_data_than_a_packet_holds_goes_through_the_tunnel(run: Run, tmp_path: Path) -> None:
    """Whatever its size, every byte arrives, in order."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port) as front:
            hands_over(front, node.path)
            for size in (0, 100, 60_000, 90_000, 150_000, 1_000_000):
                payload = bytes(range(256)) * (size // 256 + 1)
                caller = await front.connect()
                caller.send(upgrade_request("/echo") + frame(payload))
                assert b"101 Switching" in await caller.head()
                assert await payload_from(caller.reader) == payload
                assert await echoes(caller, b"and on")

    run(main)


def test_early_data_beyond_the_limit_is_not_tried(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our own limit, and by that of a host with small socket buffers."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port) as front:
            hands_over(front, node.path)
            monkeypatch.setattr(handoff, "MOST_BYTES", 100)
            caller = await front.connect()
            caller.send(upgrade_request("/echo"))
            assert b"101 Switching" in await caller.head()
            assert front.node().tunnels == 1
            monkeypatch.setattr(handoff, "MOST_BYTES", 2**20)
            link = next(iter(front.front._handoffs._links.values()))
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            caller = await front.connect()
            caller.send(upgrade_request("/echo", X_Long="x" * 7000))
            assert b"101 Switching" in await caller.head()
            assert (front.node().tunnels, front.node().handed_over) == (2, 0)
            assert front.node().path == "handoff"

    run(main)


def test_a_worker_that_stops_in_the_middle_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    """The client's connection ends, the node's answer finds nobody, no future is left unread."""

    async def main() -> None:
        async with bare_node(tmp_path / "n0.sock") as node, balancer(1) as front:
            hands_over(front, node.path)
            caller = await front.connect()
            caller.send(upgrade_request())
            link = await node.link()
            await link.packet()
            await front.front.stop(0)
            assert handoff.receive(link.sock) == (b"", [])
            link.client().close()
            assert await caller.rest() == b""

    run(main)


def test_a_client_that_leaves_during_the_handoff_is_the_nodes_to_find(run: Run, tmp_path: Path) -> None:
    """Reset or closed: the worker does not read, so the node hears of it, and reports the end."""

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request())
            link = await node.link()
            given = await link.packet()
            caller.close()
            await lastingly(lambda: front.front.connections == 1, 0.05)
            link.say(Taken(given.id))
            await eventually(lambda: count(front) == (1, 1, 1))
            with link.client() as client:
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
            link.say(closed(given.id))
            await eventually(lambda: count(front) == (0, 0, 1))

    run(main)


def test_thousands_of_ends_in_one_packet_are_counted(run: Run, tmp_path: Path) -> None:
    """Unknown numbers among them, twice named ones as well."""

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            numbers = []
            link = None
            for _ in range(20):
                (await front.connect()).send(upgrade_request())
                link = link or await node.link()
                given = await link.packet()
                numbers.append(given.id)
                link.say(Taken(given.id))
            await eventually(lambda: count(front)[0] == 20)
            assert link is not None
            link.say(closed(*numbers, *numbers, *range(10_000, 17_000)))
            await eventually(lambda: count(front) == (0, 0, 20))

    run(main)


def test_descriptors_are_given_back_whatever_happens(run: Run, tmp_path: Path) -> None:
    """Taken, refused, tunnelled, left: afterwards this process has as many as before."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port) as front:
            hands_over(front, node.path)
            warm = await front.connect()
            warm.send(upgrade_request("/echo"))
            await warm.head()
            before = open_descriptors()
            for leaving in (False, True):
                node.adoption.leaving = leaving
                for target in ("/echo", "/no", "/missing", "/who"):
                    caller = await front.connect()
                    caller.send(upgrade_request(target))
                    await caller.head()
                    caller.close()
            await eventually(lambda: open_descriptors() == before)
            assert node.adoption.count == 1

    run(main)


def test_a_worker_that_was_stopped_itself_hears_what_was_said_in_time(run: Run, tmp_path: Path) -> None:
    """Its deadline is over when it goes on, but the answer is there, behind many others: the node has the client."""

    async def main() -> None:
        async with one_bare_node(tmp_path) as (front, node):
            (await front.connect()).send(upgrade_request())
            link = await node.link()
            given = await link.packet()
            link.say(*[closed(10_000 + number) for number in range(250)], Taken(given.id))
            late = _the_link(front)
            for offer in late.offers.values():
                offer.due = time.monotonic() - 1
            assert late.watch is not None
            late.watch.cancel()
            front.front._handoffs._look(late)  # as its timer does, before anything was read
            await eventually(lambda: front.front.connections == 0)
            assert count(front) == (1, 1, 1)

    run(main)
