"""Limits by address: an HTTP connection, a tunnel and a handed-over WebSocket each count until they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.lb.conftest import Run
from tests.support.backends import backend, tunnel_echo
from tests.support.balancer import Balancer, balancer, upgrade_request
from tests.support.handing import adopting_node, hands_over
from tests.support.waiting import eventually

GET = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"


async def _refused(front: Balancer) -> bool:
    """Return whether one more client of this host is sent away, as it must be: whatever it asks for."""
    answers = [await front.ask(request) for request in (GET, upgrade_request("/echo"))]
    return all(
        answer.startswith(b"HTTP/1.1 429 ")
        and b"\r\nRetry-After: 1\r\n" in answer
        and b"\r\nConnection: close" in answer
        for answer in answers
    )


def test_a_handed_over_websocket_counts_for_its_address_until_it_ends(run: Run, tmp_path: Path) -> None:
    """The node tells of the end; a place at the balancer is free long before."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port, connections_per_address=2) as front:
            hands_over(front, node.path)
            callers = [await front.connect() for _ in range(2)]
            for number, caller in enumerate(callers):
                request = upgrade_request("/echo")
                if number:  # the long way
                    caller.send(request[:9])
                    await eventually(lambda: front.front.connections == 1)
                    request = request[9:]
                caller.send(request)
                assert b" 101 " in await caller.head()
            await eventually(lambda: front.front.connections == 0)
            assert await _refused(front)
            assert front.metrics.totals.rejected == {"address": 2}
            callers[0].close()
            await eventually(lambda: node.adoption.count == 1)

            async def is_let_in() -> bool:
                caller = await front.connect()
                caller.send(GET)
                return (await caller.head()).startswith(b"HTTP/1.1 200 ")

            await eventually(is_let_in)
            assert await _refused(front)

    run(main)


def test_a_tunnel_and_an_idle_connection_count_too(run: Run) -> None:
    """Ended either way, they count no more."""

    async def main() -> None:
        async with backend(tunnel_echo) as node, balancer(node.port, connections_per_address=2) as front:
            tunnel, idle = await front.connect(), await front.connect()
            tunnel.send(upgrade_request())
            await tunnel.head()
            idle.send(b"GET")
            await eventually(lambda: front.front.connections == 2)
            assert await _refused(front)
            for caller in (tunnel, idle):
                caller.close()
            await eventually(lambda: front.front.connections == 0)
            caller = await front.connect()
            caller.send(upgrade_request())
            assert b" 101 " in await caller.head()

    run(main)


def test_a_proxy_that_forwards_requests_is_not_limited(run: Run, tmp_path: Path) -> None:
    """Its connections are everybody's: one by one they say for whom, or for several, one after the other."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node:
            limits: dict[str, Any] = {"connections_per_address": 1, "trusted_proxies": ["127.0.0.1"]}
            async with balancer(node.port, **limits) as front:
                hands_over(front, node.path)
                for _ in range(3):
                    caller = await front.connect()
                    caller.send(upgrade_request("/echo", X_Forwarded_For="192.0.2.1"))
                    assert b" 101 " in await caller.head()
                for caller in front.callers:
                    caller.close()
                await eventually(lambda: node.adoption.count == 0)
                assert front.metrics.totals.rejected == {}

    run(main)


def test_who_comes_through_a_proxy_counts_as_oneself(run: Run, tmp_path: Path) -> None:
    """Not as the proxy, which brings everybody."""

    async def main() -> None:
        settings = balancer(1, connections_per_address=1, trusted_proxies=["127.0.0.1"], proxy_protocol=True)
        async with settings as front:
            for client in (b"192.0.2.1", b"192.0.2.2"):
                caller = await front.connect()
                caller.send(b"PROXY TCP4 %b 10.0.0.1 1 2\r\nGET" % client)
            await eventually(lambda: front.front.connections == 2)
            answer = await front.ask(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n" + GET)
            assert answer.startswith(b"HTTP/1.1 429 ")

    run(main)
