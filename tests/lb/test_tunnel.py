"""WebSockets through a real front: tunnels of bytes, from the handshake to the end."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cluster.member import Signal, State
from cluster.tag import new_sid, tag_of
from cluster.tcp_info import unread
from lb.affinity import cookie_value
from lb.carried import End, Tunnel
from lb.downstream import Downstream
from tests.lb.conftest import Run
from tests.support.backends import OK, Backend, Conversation, Talk, answering, backend, hanging, tunnel_echo
from tests.support.balancer import SECRET, Balancer, Caller, balancer, upgrade_request
from tests.support.ports import free_port
from tests.support.upstreams import switching_protocols
from tests.support.waiting import eventually
from tests.support.websockets import connected_pair


@pytest.fixture(params=["the kernel", "ourselves"])
def counted_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who counts the bytes; without TCP_INFO we must."""
    if request.param == "ourselves":
        monkeypatch.setattr("lb.carried.counted", lambda sock: None)
    elif sys.platform != "linux":
        pytest.skip("this kernel does not tell")
    return str(request.param)


GET = b"GET /plain HTTP/1.1\r\nHost: h\r\n\r\n"


def through(run: Run, talk: Talk, check: Callable[[Balancer, Backend], object], **lb: Any) -> None:
    """Run `check`, which returns an awaitable, with one backend that does `talk`."""

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port, **lb) as lb_:
            await check(lb_, node)  # type: ignore[misc]

    run(main)


async def tunnelled(lb: Balancer, request: bytes = b"") -> Caller:
    """Return a client's connection after the 101."""
    caller = await lb.connect()
    caller.send(request or upgrade_request())
    assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
    return caller


def test_the_handshake_passes_and_bytes_go_both_ways(run: Run) -> None:
    """The WebSocket headers reach both ends unchanged; what follows is nobody's business but theirs."""
    offer = "permessage-deflate; client_max_window_bits"

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(upgrade_request("/ws?x=%20", Sec_WebSocket_Extensions=offer, Sec_WebSocket_Protocol="a, b"))
        lines = (await caller.head()).split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
        assert b"Connection: Upgrade" in lines
        assert b"Upgrade: websocket" in lines
        assert any(line.startswith(b"Set-Cookie: flotilla_node=n0.") for line in lines)
        assert node.targets == [b"/ws?x=%20"]
        assert node.headers()[b"sec-websocket-extensions"] == [offer.encode()]
        assert node.headers()[b"sec-websocket-protocol"] == [b"a, b"]
        assert node.headers()[b"connection"] == [b"Upgrade"]
        assert node.headers()[b"upgrade"] == [b"websocket"]
        assert node.headers()[b"x-forwarded-for"] == [b"127.0.0.1"]
        for data in (b"\x00", b"\xff" * 100_000, b"not a frame"):
            caller.send(data)
            assert await caller.reader.readexactly(len(data)) == data

    through(run, tunnel_echo, check)


def test_a_client_with_the_right_cookie_gets_no_other(run: Run) -> None:
    """A stale or forged one is replaced, also on the 101."""

    async def check(lb: Balancer, node: Backend) -> None:
        valid = cookie_value("n0", SECRET.encode())
        for value, is_set in ((valid, False), (cookie_value("gone", SECRET.encode()), True), (valid[:-1], True)):
            caller = await lb.connect()
            caller.send(upgrade_request(Cookie=f"flotilla_node={value}"))
            assert (b"Set-Cookie" in await caller.head()) is is_set

    through(run, tunnel_echo, check)


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c, websocket"])
def test_what_a_client_sends_early_arrives_once_and_in_order(run: Run, upgrade: bytes) -> None:
    """Split at every position: the head and what is behind it come in any pieces."""
    request = upgrade_request().replace(b"Upgrade: websocket", b"Upgrade: " + upgrade) + b"early bytes"

    async def check(lb: Balancer, node: Backend) -> None:
        for position in range(len(request) - 12, len(request)):
            await piecewise(lb, request[:position], request[position:])
        for position in range(0, len(request) - 12, 17):
            await piecewise(lb, request[:position], request[position:])

    async def piecewise(lb: Balancer, first: bytes, second: bytes) -> None:
        caller = await lb.connect()
        caller.send(first)
        await eventually(lambda: caller.writer.transport.get_write_buffer_size() == 0)
        await asyncio.sleep(0)
        caller.send(second)
        await caller.head()
        assert await caller.reader.readexactly(11) == b"early bytes"
        caller.send(b"later")
        assert await caller.reader.readexactly(5) == b"later"
        caller.close()

    through(run, tunnel_echo, check)


def test_what_a_client_sends_while_the_node_thinks_waits_for_it(run: Run) -> None:
    """Much of it stops the client; none is lost or doubled."""
    go = asyncio.Event()
    data = bytes(range(256)) * 4096  # 1 MiB

    async def talk(conversation: Conversation, head: bytes) -> None:
        await go.wait()
        await conversation.send(switching_protocols(head))
        assert await conversation.reader.readexactly(len(data)) == data
        await conversation.send(b"all")

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(upgrade_request() + data)
        await eventually(lambda: node.heads)
        go.set()
        assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
        assert await caller.reader.readexactly(3) == b"all"

    through(run, talk, check)


def test_what_the_node_sends_right_behind_its_101_arrives_once_and_in_order(run: Run) -> None:
    """In one write with the 101, and byte by byte."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        answer = switching_protocols(head) + b"hello"
        if b"/slow" in head:
            for position in range(len(answer)):
                await conversation.send(answer[position : position + 1])
        else:
            await conversation.send(answer)
        await conversation.send(b" world")
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        for target in ("/", "/slow"):
            caller = await tunnelled(lb, upgrade_request(target))
            assert await caller.reader.readexactly(11) == b"hello world"

    through(run, talk, check)


def test_a_node_that_closes_right_behind_its_101_is_heard_out(run: Run) -> None:
    """A node may accept only to say in a close frame why not."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head) + b"\x88\x02\x0f\xa8")
        conversation.writer.close()

    async def check(lb: Balancer, node: Backend) -> None:
        for _ in range(20):
            caller = await tunnelled(lb)
            assert await caller.rest() == b"\x88\x02\x0f\xa8"
            caller.close()
        await eventually(lambda: lb.front.connections == 0)
        assert lb.node().tunnels == 0

    through(run, talk, check)


def test_an_upgrade_may_follow_other_requests_on_its_connection(run: Run) -> None:
    """Browsers and proxies reuse connections; also right behind an answer that is still going out."""
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"websocket" not in head:
            await conversation.send(large if b"/large" in head else OK)
            return
        await tunnel_echo(conversation, head)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(3):
            caller.send(GET)
            await caller.answer()
        caller.send(GET.replace(b"/plain", b"/large") + upgrade_request())
        assert len((await caller.answer())[1]) == 1_000_000
        assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
        caller.send(b"x" * 300_000)
        assert await caller.reader.readexactly(300_000) == b"x" * 300_000

    through(run, talk, check)


REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: no\r\n\r\nnope"


def test_a_refused_upgrade_is_an_answer_and_its_connection_goes_on(run: Run) -> None:
    """With its body, and even with another request right behind it."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(REFUSAL if b"websocket" in head else OK)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(upgrade_request() + GET)
            head, body = await caller.answer()
            assert (b"403 Forbidden" in head, b"X-Why: no" in head, body) == (True, True, b"nope")
            assert (await caller.answer())[1] == b"ok"
        assert lb.node().tunnels == 0

    through(run, talk, check)


def test_a_body_behind_a_refused_upgrade_is_not_taken_for_a_head(run: Run) -> None:
    """A request that was sent ahead may bring much, and slowly; the limits of heads are none of its."""
    size = 100_000

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"websocket" not in head:
            await conversation.reader.readexactly(size)
        await conversation.send(REFUSAL if b"websocket" in head else OK)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(upgrade_request() + b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + bytes(10))
        assert (await caller.answer())[1] == b"nope"
        await eventually(lambda: len(node.heads) == 2)
        for _ in range(10, size, 9999):
            caller.send(bytes(9999))
            await asyncio.sleep(0)
        assert (await caller.answer())[1] == b"ok"

    through(run, talk, check)


WRONG = {
    "no accept": b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "another key's accept": b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_a_101_that_does_not_answer_the_handshake_is_a_502(run: Run, kind: str) -> None:
    """It may be a cache's, or that of another connection."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(WRONG[kind])
        conversation.writer.close()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(upgrade_request())
        assert (await caller.answer())[0].startswith(b"HTTP/1.1 502 ")

    through(run, talk, check)


def test_a_client_may_end_its_side_and_still_hear_the_node(run: Run) -> None:
    """Half-close: an end of file is passed on as one, and the other direction goes on."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        assert await conversation.reader.read() == b"last words"
        await conversation.send(b"answer")
        conversation.finish()
        conversation.ended.set()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await tunnelled(lb)
        caller.send(b"last words")
        caller.writer.write_eof()
        assert await caller.rest() == b"answer"
        await eventually(lambda: lb.front.connections == 0)

    through(run, talk, check)


def test_a_node_may_end_its_side_and_still_hear_the_client(run: Run) -> None:
    """The same the other way round."""
    heard: list[bytes] = []

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head) + b"bye")
        conversation.finish()
        heard.append(await conversation.reader.read())
        conversation.ended.set()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await tunnelled(lb)
        assert await caller.reader.read() == b"bye"
        caller.send(b"good bye")
        caller.writer.write_eof()
        await eventually(lambda: heard == [b"good bye"])
        await eventually(lambda: lb.front.connections == 0)

    through(run, talk, check)


def test_a_reset_of_one_side_resets_the_other(run: Run) -> None:
    """Whoever is left must not wait for what never comes."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await tunnelled(lb)
        await eventually(lambda: lb.node().tunnels == 1)
        node.conversations[-1].reset()
        with suppress(ConnectionResetError):
            assert await caller.rest() == b""  # there is no length to fall short of: an end of file is as good
        caller = await tunnelled(lb)
        caller.close()
        await eventually(lambda: node.conversations[-1].ended.is_set())
        await eventually(lambda: lb.front.connections == 0 and lb.node().tunnels == 0)

    through(run, tunnel_echo, check)


def test_a_slow_reader_stops_the_writer_on_the_other_side(run: Run) -> None:
    """Flow control in both directions; nothing is lost, and memory stays bounded (test_memory.py measures it)."""
    size = 48 * 2**20  # more than the kernel's buffers of both hops hold
    sent = asyncio.Event()
    go = asyncio.Event()
    received: list[int] = []

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        if b"/down" in head:
            await conversation.send(b"d" * size)
            sent.set()
            return
        await go.wait()
        received.append(len(await conversation.reader.readexactly(size)))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await tunnelled(lb, upgrade_request("/down"))
        end = next(iter(lb.front._tunnels._open))
        await eventually(lambda: end.node_end.received > 100_000)
        await eventually(lambda: not end.node_end.transport.is_reading())
        assert end.client.transport.get_write_buffer_size() < 600_000
        assert not sent.is_set()
        assert len(await caller.reader.readexactly(size)) == size
        caller.close()
        caller = await tunnelled(lb, upgrade_request("/up"))
        caller.send(b"u" * size)
        await eventually(lambda: len(lb.front._tunnels._open) == 1)
        end = next(iter(lb.front._tunnels._open))
        await eventually(lambda: not end.client.transport.is_reading())
        assert end.node_end.transport.get_write_buffer_size() < 600_000
        go.set()
        await eventually(lambda: received == [size])

    through(run, talk, check)


@pytest.mark.usefixtures("counted_by")
def test_a_quiet_tunnel_lives_on_without_a_limit_and_ends_with_one(run: Run) -> None:
    """`tunnel_idle_s: 0` is for ever; any byte either way counts as life."""

    async def main() -> None:
        quiet: dict[str, Any] = {"answer_timeout_s": 0}
        async with backend(tunnel_echo) as node, balancer(node.port, **quiet) as lb:
            lb.front._tunnels._idle_s, lb.front._tunnels._sweep_s = 0.8, 0.05
            loop = asyncio.get_running_loop()
            began = loop.time()
            caller, other = await tunnelled(lb), await tunnelled(lb)

            async def has_ended_while_we_chat() -> bool:
                caller.send(b"x")
                await caller.reader.readexactly(1)
                return other.reader.at_eof()

            other_ends = asyncio.create_task(other.rest())
            await eventually(has_ended_while_we_chat)
            assert loop.time() - began > 0.7
            await asyncio.wait([other_ends])
            assert lb.front.tunnels == 1
            await eventually(lambda: lb.front.tunnels == 0)

    run(main)


def test_half_a_tunnel_does_not_stay_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that ended its side and a node that ignores that would hold two descriptors for good."""
    monkeypatch.setattr("lb.carried.STUCK_S", 0.2)

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        await conversation.reader.read()
        await eventually(lambda: conversation.writer.transport.is_closing(), within_s=30)

    async def check(lb: Balancer, node: Backend) -> None:
        lb.front._tunnels._sweep_s = 0.05
        caller, silent = await tunnelled(lb), await tunnelled(lb)
        caller.writer.write_eof()
        await eventually(lambda: lb.front.tunnels == 1)
        assert not silent.reader.at_eof()
        node.conversations[0].reset()

    through(run, talk, check)


def test_a_tunnel_that_was_quiet_for_long_has_all_its_time_when_one_side_ends(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long it may rest then is measured from the last sweep that found nothing to limit, not from its last byte."""
    monkeypatch.setattr("lb.carried.STUCK_S", 0.5)

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        await conversation.reader.read()
        await conversation.send(b"answer")
        conversation.finish()
        conversation.ended.set()

    async def check(lb: Balancer, node: Backend) -> None:
        tunnels = lb.front._tunnels
        tunnels._sweep_s = 0.02
        caller = await tunnelled(lb)
        (tunnel,) = tunnels._open
        tunnel.quiet_since -= 3600
        await eventually(lambda: asyncio.get_running_loop().time() - tunnel.quiet_since < 1800)
        caller.writer.write_eof()
        assert await caller.rest() == b"answer"

    through(run, talk, check)


def test_a_client_that_does_not_read_the_nodes_last_words_is_let_go(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the node sent before it closed is kept for the client, for a while."""
    monkeypatch.setattr("lb.carried.STUCK_S", 0.2)

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head) + b"x" * 48 * 2**20)
        conversation.writer.close()

    async def check(lb: Balancer, node: Backend) -> None:
        lb.front._tunnels._sweep_s = 0.05
        caller = await lb.connect()
        caller.send(upgrade_request())
        await eventually(lambda: lb.front.tunnels == 1)
        (tunnel,) = lb.front._tunnels._open
        await eventually(lambda: not tunnel.node_end.transport.is_reading())
        node.conversations[0].reset()
        await eventually(lambda: lb.front.tunnels == 0 and lb.front.connections == 0)

    through(run, talk, check)


def test_a_node_that_refuses_is_out_and_the_next_one_gets_the_upgrade(run: Run) -> None:
    """Before any byte was sent nothing is lost."""

    async def main() -> None:
        async with backend(tunnel_echo) as node, balancer(free_port(), node.port, balance="round_robin") as lb:
            caller = await lb.connect()
            caller.send(upgrade_request() + b"early")
            assert b"flotilla_node=n1." in await caller.head()
            assert await caller.reader.readexactly(5) == b"early"
            assert lb.node("n0").state is State.DOWN
            assert "refused" in lb.node("n0").reason.lower()

    run(main)


def test_a_node_that_hangs_costs_its_client_a_504_and_nobody_else_anything(run: Run) -> None:
    """It accepts and never answers; probes take it out (test_health.py), and until then others are not held up."""

    async def main() -> None:
        async with (
            hanging() as bad,
            backend(tunnel_echo) as good,
            balancer(bad.port, good.port, balance="round_robin", answer_timeout_s=0.3) as lb,
        ):
            stuck = await lb.connect()
            stuck.send(upgrade_request())
            await eventually(lambda: bad.heads)
            caller = await tunnelled(lb)
            caller.send(b"x")
            assert await caller.reader.readexactly(1) == b"x"
            assert (await stuck.answer())[0].startswith(b"HTTP/1.1 504 ")

    run(main)


def test_a_node_that_takes_no_connection_in_time_is_out(run: Run) -> None:
    """A full backlog: the connection neither comes up nor is refused."""

    async def main() -> None:
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        try:
            async with backend(tunnel_echo) as good:
                ports = (full.getsockname()[1], good.port)
                async with balancer(*ports, balance="round_robin", connect_timeout_s=0.3) as lb:
                    caller = await tunnelled(lb)
                    caller.send(b"x")
                    assert await caller.reader.readexactly(1) == b"x"
                    assert lb.node("n0").reason == "no connection within 0.3 s"
        finally:
            for each in (full, *fillers):
                each.close()

    run(main)


def test_a_draining_node_gets_its_sessions_and_no_others(run: Run) -> None:
    """Long polling upgrades to WebSocket there while it drains."""

    async def main() -> None:
        async with backend(tunnel_echo) as one, backend(tunnel_echo) as two, balancer(one.port, two.port) as lb:
            lb.pool.signal(lb.node("n0"), Signal.DRAIN, "for a test")
            sid = new_sid(tag_of("n0", SECRET.encode()))
            await tunnelled(lb, upgrade_request(f"/socket.io/?EIO=4&transport=websocket&sid={sid}"))
            for _ in range(4):
                await tunnelled(lb)
            assert (len(one.heads), len(two.heads)) == (1, 4)

    run(main)


@pytest.mark.usefixtures("counted_by")
def test_tunnels_are_counted_while_they_last_and_measured_when_they_end(run: Run) -> None:
    """What least_connections, the metrics and the operator look at."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await tunnelled(lb)
        assert (lb.node().tunnels, lb.front.tunnels, lb.front.connections) == (1, 1, 1)
        caller.send(b"12345")
        await caller.reader.readexactly(5)
        caller.close()
        await eventually(lambda: lb.front.connections == 0)
        assert (lb.node().tunnels, lb.front.tunnels) == (0, 0)
        counts = lb.metrics.totals.nodes["n0"]
        assert (counts.tunnels, counts.tunnels_open) == (1, 0)
        assert (counts.bytes_from_client, counts.bytes_from_node) == (5, 5)
        assert 0 <= counts.tunnel_life.sum < 10

    through(run, tunnel_echo, check)


@pytest.mark.usefixtures("counted_by")
def test_the_bytes_of_a_tunnel_are_exact_however_it_began_and_ended(run: Run) -> None:
    """Requests before it, heads, an end of file and what came with the heads: each counts where it belongs."""
    data = bytes(300_000)

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"websocket" not in head:
            await conversation.send(OK)
            return
        await conversation.send(switching_protocols(head) + b"hello")
        assert len(await conversation.reader.read()) == len(b"early") + len(data)
        await conversation.send(data[:200_000])
        conversation.finish()
        conversation.ended.set()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(GET)
        await caller.answer()
        caller.send(upgrade_request() + b"early")
        await caller.head()
        caller.send(data)
        caller.writer.write_eof()
        assert len(await caller.rest()) == len(b"hello") + 200_000
        await eventually(lambda: lb.front.connections == 0)
        counts = lb.metrics.totals.nodes["n0"]
        assert (counts.bytes_from_client, counts.bytes_from_node) == (300_005, 200_005)

    through(run, talk, check)


@pytest.mark.usefixtures("counted_by")
@pytest.mark.parametrize("comes", ["before it is a tunnel", "later"])
def test_an_end_of_file_is_no_byte_whenever_it_comes(run: Run, comes: str) -> None:
    """The node's may come with its 101; the kernel counts it like a byte."""

    class Owner:
        def closed(self, tunnel: Tunnel) -> None:
            ended.append((tunnel.client.received, tunnel.node_end.received))

    ended: list[tuple[int, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with balancer(1) as lb:
            pairs = [await connected_pair() for _ in range(2)]
            (client, callers), (upstream, nodes) = pairs
            transports = []
            for sock in (client, upstream):
                transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, sock)
                transport.pause_reading()
                transports.append(transport)
            nodes.sendall(b"101hello")
            assert upstream.recv(3) == b"101"
            if comes == "before it is a tunnel":
                nodes.shutdown(socket.SHUT_WR)
            tunnel = Tunnel(Owner(), "a", lb.node(), 0.0, None)
            tunnel.client = End(tunnel, transports[0], transports[1], b"")
            tunnel.node_end = End(tunnel, transports[1], transports[0], b"")
            for transport, end in zip(transports, (tunnel.client, tunnel.node_end), strict=True):
                transport.set_protocol(end)
                transport.resume_reading()
            if comes == "later":
                nodes.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(callers, 100) == b"hello"
            assert await loop.sock_recv(callers, 100) == b""
            assert tunnel.node_end.received == 5
            callers.sendall(b"bye")
            callers.shutdown(socket.SHUT_WR)
            await eventually(lambda: ended == [(3, 5)])
            for sock in (callers, nodes):
                sock.close()

    run(main)


def test_what_nobody_read_is_not_counted(run: Run) -> None:
    """The kernel has it, the node will never get it."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        await eventually(lambda: conversation.writer.transport.is_closing(), within_s=30)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await tunnelled(lb)
        (tunnel,) = lb.front._tunnels._open
        caller.send(bytes(48 * 2**20))
        await eventually(lambda: not tunnel.client.transport.is_reading())
        await eventually(lambda: unread(tunnel.client.transport.get_extra_info("socket")) > 0)
        read = tunnel.client.received
        node.conversations[0].reset()
        await eventually(lambda: lb.front.connections == 0)
        assert lb.metrics.totals.nodes["n0"].bytes_from_client == read

    through(run, talk, check)


def test_nothing_of_the_http_side_is_kept_for_a_tunnel(run: Run) -> None:
    """aiohttp's handler, its task and its buffers are some 20 KiB for each connection."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await tunnelled(lb)
        assert not lb.front._reception.connections
        await asyncio.sleep(0)
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Downstream)]
        assert not [
            task for task in asyncio.all_tasks() if "RequestHandler" in getattr(task.get_coro(), "__qualname__", "")
        ]
        caller.close()

    through(run, tunnel_echo, check)


@pytest.mark.usefixtures("counted_by")
def test_ended_tunnels_are_freed_without_the_garbage_collector(run: Run) -> None:
    """10,000 that end together must not wait for a full collection."""

    async def check(lb: Balancer, node: Backend) -> None:
        gc.collect()
        gc.disable()
        try:
            caller = await tunnelled(lb)
            assert len([each for each in gc.get_objects() if isinstance(each, End)]) == 2
            caller.close()
            await eventually(lambda: lb.front.connections == 0)
            await eventually(lambda: not [each for each in gc.get_objects() if isinstance(each, End)])
        finally:
            gc.enable()

    through(run, tunnel_echo, check)


def test_a_real_websocket_library_negotiates_through_the_tunnel(run: Run) -> None:
    """Subprotocol, compression, pings, a large message, and the node's own close code."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        server = web.WebSocketResponse(protocols=("chat",), max_msg_size=0)
        await server.prepare(request)
        async for message in server:
            if message.data == "close":
                await server.close(code=4008, message=b"too slow")
            else:
                await server.send_str(message.data)
        return server

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/ws", serve)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with balancer(runner.addresses[0][1]) as lb, aiohttp.ClientSession() as session:
            options: dict[str, Any] = {"protocols": ("x", "chat"), "compress": 15, "max_msg_size": 0}
            async with session.ws_connect(f"{lb.url}/ws", **options) as client:
                assert (client.protocol, client.compress) == ("chat", 15)
                for text in ("short", "long " * 200_000):
                    await client.send_str(text)
                    assert (await client.receive()).data == text
                await client.send_str("close")
                message = await client.receive()
                assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4008, "too slow")
        await runner.cleanup()

    run(main)


def test_a_client_that_goes_away_during_the_handshake_leaves_nothing(run: Run) -> None:
    """The node's connection is closed, too."""

    async def main() -> None:
        async with hanging() as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(upgrade_request())
            await eventually(lambda: node.heads)
            caller.close()
            await eventually(lambda: node.conversations[0].ended.is_set())
            await eventually(lambda: lb.front.connections == 0 and lb.node().exchanges == 0)

    run(main)


def test_an_upgrade_without_any_node_is_a_503_at_once(run: Run) -> None:
    """As any request, and the connection stays usable."""

    async def check(lb: Balancer, node: Backend) -> None:
        lb.pool.signal(lb.node(), Signal.FALL, "for a test")
        caller = await lb.connect()
        caller.send(upgrade_request())
        head, _ = await caller.answer()
        assert (head.startswith(b"HTTP/1.1 503 "), b"Retry-After" in head) == (True, True)
        lb.pool.signal(lb.node(), Signal.RISE, "for a test")
        caller.send(upgrade_request())
        assert (await caller.head()).startswith(b"HTTP/1.1 101 ")

    through(run, tunnel_echo, check)


def test_a_websocket_over_http_1_0_is_an_ordinary_request(run: Run) -> None:
    """RFC 6455 4.1 wants 1.1: the node answers as it likes, and no tunnel opens."""

    async def check(lb: Balancer, node: Backend) -> None:
        answer = await lb.ask(upgrade_request().replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"keep-alive, ", b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"upgrade" not in node.headers()

    through(run, answering(OK), check)
