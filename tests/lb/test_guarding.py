"""The guards of docs/guards.md through a real balancer: both ways of a request, what a client sees, what is counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lb.downstream import Downstream
from lb.guards import MOST_LINE_BYTES
from tests.lb.conftest import Run
from tests.support.access_lines import Lines
from tests.support.backends import OK, Backend, Conversation, answering, backend, tunnel_echo
from tests.support.balancer import Balancer, Caller, balancer, upgrade_request
from tests.support.handing import adopting_node, echoes, hands_over
from tests.support.waiting import eventually, lastingly

GET = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"


def post(*headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST /page HTTP/1.1", "Host: a", *headers]).encode() + b"\r\n\r\n" + body


@pytest.fixture(params=["short", "long", "tunnel"])
def way(request: pytest.FixtureRequest) -> str:
    """How an upgrade goes: at one look, in two pieces, or to a node that cannot have the socket."""
    return str(request.param)


@asynccontextmanager
async def guarded(directory: Path, way: str = "tunnel", **lb: Any) -> AsyncIterator[Balancer]:
    """Run a balancer with these limits in front of one node with pages and WebSockets."""
    async with adopting_node(directory) as node, balancer(node.port, **lb) as front:
        if way != "tunnel":
            hands_over(front, node.path)
        yield front


async def asked(front: Balancer, request: bytes, way: str = "tunnel") -> Caller:
    """Send `request` on a connection of its own."""
    caller = await front.connect()
    if way == "long":
        before = front.front.connections
        caller.send(request[:9])
        await eventually(lambda: front.front.connections > before)
        request = request[9:]
    caller.send(request)
    return caller


async def refused(caller: Caller, status: int) -> bytes:
    """Read our own answer with this status, and the end of the connection; return the head."""
    head, _ = await caller.answer()
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"\r\nConnection: close" in head
    assert await caller.rest() == b""
    return head


async def upgraded(caller: Caller) -> None:
    """See that the WebSocket is open."""
    head = await caller.head()
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert await echoes(caller, b"open")


def upgrade_of(size: int) -> bytes:
    """Return an upgrade request of so many bytes, in lines that are not too long."""
    request, number = upgrade_request("/echo"), 0
    while size - len(request) > 3000:
        request = request[:-2] + b"X%02d: " % number + b"a" * 2000 + b"\r\n\r\n"
        number += 1
    return request[:-2] + b"Y: " + b"a" * (size - len(request) - 5) + b"\r\n\r\n"


@pytest.mark.parametrize("limit", [4096, 20_000])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_an_upgrade_with_too_large_a_head_is_a_431(run: Run, tmp_path: Path, way: str, limit: int, more: int) -> None:
    """Whichever way it goes, be the limit below or above what a first look takes."""

    async def main() -> None:
        async with guarded(tmp_path, way, max_head_bytes=limit) as front:
            request = upgrade_of(limit + more)
            assert len(request) == limit + more
            caller = await asked(front, request, way)
            if more <= 0:
                await upgraded(caller)
            else:
                await refused(caller, 431)
                assert front.metrics.totals.rejected == {"head_size": 1}

    run(main)


def with_fields(count: int) -> bytes:
    request = upgrade_request("/echo")
    fields = b"".join(b"X%d: a\r\n" % number for number in range(count - request.count(b"\r\n") + 2))
    return request[:-2] + fields + b"\r\n"


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_an_upgrade_with_too_many_fields_is_a_431(run: Run, tmp_path: Path, way: str, more: int) -> None:
    """RFC 6585 5; also as a plain request."""

    async def main() -> None:
        async with guarded(tmp_path, way, max_headers=40) as front:
            request = with_fields(40 + more)
            assert request.count(b"\r\n") == 40 + more + 2
            plain = request.replace(b"/echo", b"/page").replace(b"Upgrade: websocket", b"X: y")
            if more <= 0:
                assert b" 200 " in (await (await asked(front, plain, way)).answer())[0]
                await upgraded(await asked(front, request, way))
            else:
                await refused(await asked(front, request, way), 431)
                await eventually(lambda: front.front.connections == 0)
                await refused(await asked(front, plain, way), 431)
                assert front.metrics.totals.rejected == {"head_size": 2}

    run(main)


def test_as_many_fields_as_can_be_allowed_reach_a_node(run: Run, tmp_path: Path, way: str) -> None:
    """Ours come on top, and a node has a limit, too."""

    async def main() -> None:
        async with guarded(tmp_path, way, max_headers=120) as front:
            await upgraded(await asked(front, with_fields(120), way))

    run(main)


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("way", ["short", "long"], indirect=True)
def test_a_plain_request_is_held_to_the_same_limits(run: Run, tmp_path: Path, way: str, more: int) -> None:
    """On a connection that was taken at one look, and on one that came in pieces."""

    async def main() -> None:
        async with guarded(tmp_path, way, max_headers=12, max_head_bytes=2000) as front:
            many = GET[:-2] + b"X: a\r\n" * (11 + more) + b"\r\n"
            large = GET[:-2] + b"X: " + b"a" * (2000 + more - len(GET) - 5) + b"\r\n\r\n"
            for request in (many, large):
                await eventually(lambda: front.front.connections == 0)
                caller = await asked(front, GET, way)
                assert b" 200 " in (await caller.answer())[0]
                caller.send(request)
                if more:
                    await refused(caller, 431)
                else:
                    assert b" 200 " in (await caller.answer())[0]
                    caller.close()
            assert front.metrics.totals.rejected == ({"head_size": 2} if more else {})

    run(main)


@pytest.mark.parametrize("more", [0, 1])
def test_a_line_has_a_limit_of_its_own(run: Run, tmp_path: Path, way: str, more: int) -> None:
    """As much as a node of ours reads; how much of it a name takes is the parser's affair."""

    async def main() -> None:
        async with guarded(tmp_path, way) as front:
            caller = await asked(
                front, upgrade_request("/echo", X="a" * (MOST_LINE_BYTES - 100 * (1 - more) + more)), way
            )
            if more:
                await refused(caller, 431)
            else:
                await upgraded(caller)

    run(main)


def test_a_head_that_never_ends_is_refused_when_it_is_too_large(run: Run, tmp_path: Path) -> None:
    """And not kept until it does: memory and time are limited for themselves."""

    async def main() -> None:
        async with guarded(tmp_path, max_head_bytes=4096) as front:
            caller = await front.connect()
            answer = asyncio.create_task(caller.answer())

            async def trickled() -> bool:
                caller.send(b"X: " + b"a" * 500 + b"\r\n")
                return answer.done()

            caller.send(b"GET / HTTP/1.1\r\n")
            await eventually(trickled)
            assert answer.result()[0].startswith(b"HTTP/1.1 431 ")
            assert front.metrics.totals.rejected == {"head_size": 1}
            await eventually(lambda: front.front.connections == 0)

    run(main)


def test_a_head_that_is_too_large_does_not_speak_into_the_answer_before_it(run: Run) -> None:
    """As with one that is late: the connection is reset."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        await conversation.until_closed()

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port, max_head_bytes=1024) as front:
            caller = await asked(front, GET)
            await caller.head()
            caller.send(b"GET / HTTP/1.1\r\n" + b"X: a field of a head\r\n" * 60)
            with pytest.raises(ConnectionResetError):
                await caller.rest()
            assert front.metrics.totals.rejected == {"head_size": 1}
            await eventually(lambda: front.front.connections == 0)

    run(main)


async def _count_body(conversation: Conversation, head: bytes) -> None:
    """Answer with how much of a body came, when it has."""
    if b"Transfer-Encoding: chunked" in head:
        size = len(await conversation.reader.readuntil(b"\r\n0\r\n\r\n")) if b"empty" not in head else 5
    else:
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        size = len(await conversation.reader.readexactly(length))
    await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n%7d" % size)


@asynccontextmanager
async def taking_bodies(**lb: Any) -> AsyncIterator[tuple[Balancer, Backend]]:
    limits: dict[str, Any] = {"max_body_bytes": 5000} | lb
    async with backend(_count_body) as node, balancer(node.port, **limits) as front:
        yield front, node


@pytest.mark.parametrize("expects", [[], ["Expect: 100-continue"]])
def test_a_body_whose_length_is_too_large_is_a_413_before_a_node_hears_of_it(run: Run, expects: list[str]) -> None:
    """Also in place of the 100 that its client waits for (RFC 9110 10.1.1)."""

    async def main() -> None:
        async with taking_bodies() as (front, node):
            caller = await asked(front, post("Content-Length: 5001", *expects))
            await refused(caller, 413)
            assert front.metrics.totals.rejected == {"body_size": 1}
            assert not node.heads
            caller = await asked(front, post("Content-Length: 5000", body=b"a" * 5000))
            assert (await caller.answer())[1] == b"   5000"

    run(main)


def test_a_client_that_sends_on_after_a_413_can_read_it(run: Run) -> None:
    """Closing under what is on its way would reset the connection, and the answer would be lost with it."""

    async def main() -> None:
        async with taking_bodies() as (front, _):
            caller = await asked(front, post("Content-Length: 1000000", body=b"a" * 500_000))
            assert (await caller.answer())[0].startswith(b"HTTP/1.1 413 ")
            caller.send(b"a" * 500_000)
            assert await caller.rest() == b""

    run(main)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("more", [0, 1])
def test_a_chunked_body_that_becomes_too_large_is_a_413(run: Run, more: int, whole: bool) -> None:
    """With its head, or after a while: the node's connection is cut, so that it takes nothing for the whole body."""
    chunks = [b"9c4\r\n" + b"a" * 2500 + b"\r\n"] * 2 + ([b"1\r\na\r\n"] if more else [])

    async def main() -> None:
        async with taking_bodies() as (front, node):
            caller = await front.connect()
            head = post("Transfer-Encoding: chunked")
            if whole:
                caller.send(head + b"".join(chunks) + b"0\r\n\r\n")
            else:
                caller.send(head)
                await eventually(lambda: node.heads)
                for piece in (*chunks, b"0\r\n\r\n"):
                    caller.send(piece)
                    await asyncio.sleep(0)
            if more:
                await refused(caller, 413)
                assert front.metrics.totals.rejected == {"body_size": 1}
                assert all(conversation.ended.is_set() for conversation in node.conversations)
                assert bool(node.heads) is not whole
            else:
                assert b" 200 " in (await caller.answer())[0]

    run(main)


def test_a_body_that_becomes_too_large_behind_an_answer_cuts_it(run: Run) -> None:
    """A 413 would be taken for a part of it."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nbegun")
        await conversation.until_closed()

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port, max_body_bytes=1_000_000) as front:
            caller = await asked(front, post("Transfer-Encoding: chunked"))
            await caller.head()
            assert await caller.reader.readexactly(5) == b"begun"
            caller.send(b"f4241\r\n" + b"a" * 1_000_001)
            with pytest.raises(ConnectionError):
                await caller.rest()
            assert front.metrics.totals.rejected == {"body_size": 1}
            await eventually(lambda: node.conversations[0].ended.is_set())

    run(main)


def test_no_limit_on_bodies_is_none(run: Run) -> None:
    """If that is wanted."""

    async def main() -> None:
        async with taking_bodies(max_body_bytes=0) as (front, _):
            caller = await asked(front, post("Content-Length: 900000", body=b"a" * 900_000))
            assert (await caller.answer())[1] == b" 900000"

    run(main)


def test_a_body_that_trickles_is_a_408(run: Run) -> None:
    """However regularly its bytes come (R-U-Dead-Yet): the node's connection is cut, the client's ends."""

    async def main() -> None:
        async with taking_bodies(body_timeout_s=0.3, min_body_bytes_per_s=1_000_000) as (front, node):
            caller = await asked(front, post("Content-Length: 4000"))
            answer = asyncio.create_task(caller.answer())

            async def trickled() -> bool:
                caller.send(b"a")
                return answer.done()

            await eventually(trickled)
            assert answer.result()[0].startswith(b"HTTP/1.1 408 ")
            assert await caller.rest() == b""
            assert front.metrics.totals.rejected == {"body_timeout": 1}
            await eventually(lambda: node.conversations[0].ended.is_set())

    run(main)


def test_a_body_that_comes_fast_enough_may_take_its_time(run: Run) -> None:
    """What came in time gains time; and a node that is slow to take it is not its client's fault."""

    async def slow(conversation: Conversation, head: bytes) -> None:
        await go.wait()
        await _count_body(conversation, head)

    go = asyncio.Event()

    async def main() -> None:
        limits: dict[str, Any] = {"body_timeout_s": 0.2, "min_body_bytes_per_s": 100, "max_body_bytes": 0}
        async with backend(slow) as node, balancer(node.port, **limits) as front:
            size = 8_000_000  # more than all buffers on the way take
            go.clear()
            caller = await asked(front, post(f"Content-Length: {size}", body=b"a" * 100))
            await eventually(lambda: node.heads)
            caller.send(b"a" * (size - 100))
            await lastingly(lambda: not front.metrics.totals.rejected, 0.5)
            go.set()
            assert (await caller.answer())[1] == b"%7d" % size

    run(main)


def test_who_reads_its_answer_a_byte_at_a_time_holds_no_exchange(run: Run) -> None:
    """Each wait for room ends when a quarter of a buffer is free, which so few bytes never come to."""

    async def flood(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await conversation.send(b"x" * 65_536)
            await asyncio.sleep(0)

    async def main() -> None:
        async with backend(flood) as node, balancer(node.port, idle_timeout_s=0.5) as front:
            with socket.create_connection(("127.0.0.1", front.port)) as caller:
                caller.setblocking(False)
                caller.send(GET)

                def sipped() -> bool:
                    with suppress(BlockingIOError):
                        caller.recv(1)
                    return bool(node.conversations) and node.conversations[0].ended.is_set()

                await eventually(sipped)
                await eventually(lambda: front.front.connections == 0)

    run(main)


def test_an_address_that_asks_too_much_is_told_when_to_come_back(run: Run, tmp_path: Path) -> None:
    """Each request of a kept connection counts, and the connection stays."""

    async def main() -> None:
        limits: dict[str, Any] = {"requests_per_s_per_address": 0.01, "request_burst_per_address": 3}
        async with guarded(tmp_path, **limits) as front:
            caller = await front.connect()
            for _ in range(3):
                caller.send(GET)
                assert b" 200 " in (await caller.answer())[0]
            for _ in range(2):
                caller.send(GET)
                head, body = await caller.answer()
                assert head.startswith(b"HTTP/1.1 429 ")
                assert body == b"429 Too Many Requests\n"
                assert 0 < int(head.partition(b"Retry-After: ")[2].partition(b"\r\n")[0]) <= 100
                assert b"Connection: close" not in head
            assert front.metrics.totals.rejected == {"rate": 2}
            head, _ = await (await asked(front, post("Content-Length: 9"))).answer()
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nConnection: close" in head, "its body is not waited for"

    run(main)


def test_upgrades_count_as_requests_once(run: Run, tmp_path: Path, way: str) -> None:
    """On the short way, on the long one, and where the short one is tried first."""

    async def main() -> None:
        limits: dict[str, Any] = {"requests_per_s_per_address": 0.01, "request_burst_per_address": 3}
        async with guarded(tmp_path, way, **limits) as front:
            for _ in range(3):
                await upgraded(await asked(front, upgrade_request("/echo"), way))
            head, _ = await (await asked(front, upgrade_request("/echo"), way)).answer()
            assert head.startswith(b"HTTP/1.1 429 ")
            assert front.metrics.totals.rejected == {"rate": 1}

    run(main)


def test_a_handoff_that_is_refused_counts_once(run: Run, tmp_path: Path) -> None:
    """The connection comes back to the long way, which has not to count what was counted."""

    async def main() -> None:
        limits: dict[str, Any] = {"requests_per_s_per_address": 0.01, "request_burst_per_address": 1}
        async with guarded(tmp_path, "tunnel", **limits) as front:
            hands_over(front, tmp_path / "nobody.sock")
            await upgraded(await asked(front, upgrade_request("/echo")))

    run(main)


def test_through_a_trusted_proxy_each_client_has_its_own_rate(run: Run, tmp_path: Path, way: str) -> None:
    """And whoever is not trusted cannot choose one."""

    async def main() -> None:
        limits: dict[str, Any] = {"requests_per_s_per_address": 0.01, "request_burst_per_address": 1}

        async def statuses(front: Balancer) -> list[int]:
            found = []
            for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2"):
                caller = await asked(front, upgrade_request("/echo", X_Forwarded_For=address), way)
                found.append(int((await caller.head()).split()[1]))
            return found

        async with guarded(tmp_path, way, **limits, trusted_proxies=["127.0.0.1"]) as front:
            assert await statuses(front) == [101, 101, 429, 101, 429]
        async with guarded(tmp_path, way, **limits) as front:
            assert await statuses(front) == [101, 429, 429, 429, 429]

    run(main)


def test_a_page_of_another_origin_opens_no_websocket(run: Run, tmp_path: Path, way: str) -> None:
    """403, and no node hears of it; its own pages, and programs that are no browsers, do."""

    async def main() -> None:
        async with guarded(
            tmp_path, way, allowed_origins=["https://chat.example.com", "https://*.example.org"]
        ) as front:
            for origin in ("https://evil.example", "null", "http://chat.example.com"):
                await refused(await asked(front, upgrade_request("/echo", Origin=origin), way), 403)
            assert front.metrics.totals.rejected == {"origin": 3}
            for origin in ("https://chat.example.com", "https://eu.example.org"):
                await upgraded(await asked(front, upgrade_request("/echo", Origin=origin), way))
            await upgraded(await asked(front, upgrade_request("/echo"), way))
            twice = upgrade_request("/echo", Origin="https://chat.example.com\r\nOrigin: https://chat.example.com")
            await refused(await asked(front, twice, way), 400)

    run(main)


def test_a_page_of_another_origin_may_read_what_cors_lets_it(run: Run, tmp_path: Path) -> None:
    """A GET passes to the node, which says; what may change something does not."""

    async def main() -> None:
        async with guarded(tmp_path, allowed_origins=["https://chat.example.com"]) as front:
            caller = await asked(front, GET.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n"))
            assert b" 200 " in (await caller.answer())[0]
            await refused(await asked(front, post("Origin: https://evil.example", "Content-Length: 0")), 403)
            polling = (
                b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n\r\n"
            )
            await refused(await asked(front, polling), 403)

    run(main)


H2C = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    b"Connection: Upgrade\r\nUpgrade: TLS/1.0, h2c\r\n",
]


@pytest.mark.parametrize("headers", H2C)
def test_an_upgrade_to_something_else_is_removed_or_refused(run: Run, headers: bytes) -> None:
    """Either way no node is asked to speak what we do not read (h2c smuggling)."""

    async def main() -> None:
        request = b"GET / HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n"
        async with backend(answering(OK)) as node:
            async with balancer(node.port) as front:
                assert (await (await asked(front, request)).answer())[1] == b"ok"
                assert not {b"upgrade", b"connection", b"http2-settings"} & set(node.headers())
            async with balancer(node.port, other_upgrades="refuse") as front:
                await refused(await asked(front, request), 403)
                assert front.metrics.totals.rejected == {"upgrade": 1}
            assert len(node.heads) == 1

    run(main)


def test_websocket_beside_something_else_is_a_websocket_unless_that_is_refused(
    run: Run, tmp_path: Path, way: str
) -> None:
    """The node is asked for nothing but a WebSocket."""

    async def main() -> None:
        request = upgrade_request("/echo").replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c")
        async with guarded(tmp_path, way) as front:
            await upgraded(await asked(front, request, way))
        async with guarded(tmp_path, way, other_upgrades="refuse") as front:
            await refused(await asked(front, request, way), 403)
            await upgraded(await asked(front, upgrade_request("/echo"), way))

    run(main)


def test_each_refusal_has_its_line_in_the_access_log(run: Run, tmp_path: Path, lines: Lines) -> None:
    """Whoever looks for a client that complains finds it."""

    async def main() -> None:
        limits: dict[str, Any] = {
            "requests_per_s_per_address": 0.01,
            "request_burst_per_address": 1,
            "max_head_bytes": 4096,
        }
        async with guarded(
            tmp_path, "short", **limits, other_upgrades="refuse", allowed_origins=["https://a"]
        ) as front:
            requests = [
                (403, upgrade_request("/echo", Origin="https://b")),
                (403, GET.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\n\r\n")),
                (413, post("Content-Length: 10000000000")),
                (431, upgrade_of(4097)),
                (431, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 101 + b"\r\n"),
            ]
            for status, request in requests:
                await refused(await asked(front, request), status)
            for _ in range(2):
                await (await asked(front, GET)).answer()
            await lines.line(7)
            assert [line["status"] for line in lines.lines] == [*(status for status, _ in requests), 200, 429]

    run(main)


def test_both_ways_are_given_the_same_limits(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one would take what the other refuses: what the short way leaves alone, the long way is asked for."""
    seen: list[bytes] = []
    made = Downstream.connection_made

    def connection_made(connection: Downstream, transport: asyncio.BaseTransport) -> None:
        seen.append(connection._received)
        made(connection, transport)

    monkeypatch.setattr(Downstream, "connection_made", connection_made)

    async def main() -> None:
        async with guarded(tmp_path, "short", max_head_bytes=2048, max_headers=20) as front:
            for good in (upgrade_of(2048), with_fields(20)):
                await upgraded(await asked(front, good))
            assert not seen
            for bad in (upgrade_of(2049), with_fields(21)):
                await refused(await asked(front, bad), 431)
            assert len(seen) == 2

    run(main)


def test_a_tunnel_counts_nothing_of_what_it_carries(run: Run) -> None:
    """Messages are no requests, and a WebSocket's bytes are no body."""

    async def main() -> None:
        limits: dict[str, Any] = {
            "requests_per_s_per_address": 0.01,
            "request_burst_per_address": 1,
            "max_body_bytes": 1024,
        }
        async with backend(tunnel_echo) as node, balancer(node.port, **limits) as front:
            caller = await asked(front, upgrade_request())
            await caller.head()
            for _ in range(3):
                caller.send(b"a" * 5000)
                assert await caller.reader.readexactly(5000) == b"a" * 5000
            assert front.metrics.totals.rejected == {}

    run(main)
