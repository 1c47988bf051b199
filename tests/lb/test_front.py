"""The public side: heads and idle connections are timed, clients are counted, and stopping takes its time."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import Any, cast

import pytest

from lb import keepalive
from lb.downstream import Downstream
from lb.front import Front
from lb.shuttle import Shuttle
from tests.lb.conftest import Run
from tests.support.backends import OK, Conversation, answering, backend, tunnel_echo
from tests.support.balancer import balancer, upgrade_request
from tests.support.descriptors import no_descriptor_left
from tests.support.waiting import eventually, lastingly

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def test_a_head_may_come_one_byte_at_a_time(run: Run) -> None:
    """As long as it comes in time."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port) as lb:
            caller = await lb.connect()
            for _ in range(2):
                for byte in GET:
                    caller.send(bytes([byte]))
                    await asyncio.sleep(0)
                assert (await caller.answer())[1] == b"ok"
            caller = await lb.connect()
            for byte in upgrade_request():
                caller.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await caller.answer())[1] == b"ok"

    run(main)


@pytest.mark.parametrize("first", [b"", GET])
def test_a_head_that_does_not_come_in_time_is_a_408(run: Run, first: bytes) -> None:
    """However it trickles, on a new connection and on a kept one: the time counts from its first byte."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port, head_timeout_s=0.3) as lb:
            caller = await lb.connect()
            if first:
                caller.send(first)
                await caller.answer()
            loop = asyncio.get_running_loop()
            began = loop.time()
            caller.send(b"GET / HTTP/1.1\r\nX: ")
            answer = asyncio.create_task(caller.rest())

            async def trickled() -> bool:
                caller.send(b"a")
                return answer.done()

            await eventually(trickled)
            assert answer.result().startswith(b"HTTP/1.1 408 ")
            assert loop.time() - began > 0.2
            assert lb.metrics.totals.rejected == {"head_timeout": 1}

    run(main)


def test_a_late_head_does_not_speak_into_the_answer_before_it(run: Run) -> None:
    """A 408 there would be taken for a part of a body, and a clean end for its end: the connection is reset."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        await conversation.until_closed()

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port, head_timeout_s=0.2) as lb:
            caller = await lb.connect()
            caller.send(GET)
            await caller.head()
            assert await caller.reader.readexactly(10) == b"5\r\nbegun\r\n"
            caller.send(b"G")
            with pytest.raises(ConnectionResetError):
                await caller.rest()
            assert lb.metrics.totals.rejected == {"head_timeout": 1}
            await eventually(lambda: lb.front.connections == 0)

    run(main)


def test_a_client_that_never_says_anything_is_let_go_without_a_word(run: Run) -> None:
    """Browsers connect in advance; a 408 would be taken for the answer to the request that they then send."""

    async def main() -> None:
        async with balancer(head_timeout_s=0.2) as lb:
            caller = await lb.connect()
            assert await caller.rest() == b""
            assert lb.front.connections == 0
            assert lb.metrics.totals.rejected == {}

    run(main)


def test_a_kept_connection_ends_when_it_is_idle_for_too_long(run: Run) -> None:
    """And not while a request is being answered, or a head is on its way."""

    async def slow(conversation: Conversation, head: bytes) -> None:
        if b"/slow" in head:
            await lastingly(lambda: not conversation.ended.is_set(), 0.8)
        await conversation.send(OK)

    async def main() -> None:
        async with backend(slow) as node, balancer(node.port, idle_timeout_s=0.6, head_timeout_s=30) as lb:
            loop = asyncio.get_running_loop()
            caller = await lb.connect()
            caller.send(GET.replace(b"/ ", b"/slow "))
            assert (await caller.answer())[1] == b"ok"
            caller.send(b"GET / HT")
            await lastingly(lambda: not caller.reader.at_eof(), 0.8)
            caller.send(b"TP/1.1\r\nHost: h\r\n\r\n")
            assert (await caller.answer())[1] == b"ok"
            began = loop.time()
            assert await caller.rest() == b""
            assert loop.time() - began > 0.5

    run(main)


def test_a_body_has_no_head_timeout(run: Run) -> None:
    """Nor has an answer: only a head is timed as one."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.reader.readexactly(3)
        await conversation.send(OK)

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port, head_timeout_s=0.2) as lb:
            caller = await lb.connect()
            caller.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
            for byte in b"abc":
                await lastingly(lambda: not caller.reader.at_eof(), 0.15)
                caller.send(bytes([byte]))
            assert (await caller.answer())[1] == b"ok"

    run(main)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx", b"400"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 200 + b"\r\n", b"431"),
    ],
)
def test_what_is_not_http_ends_with_one_plain_line(
    run: Run, caplog: pytest.LogCaptureFixture, request_: bytes, status: bytes
) -> None:
    """No traceback for what a client can cause, nothing of it reaches a node, and the connection ends."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port) as lb:
            answer = await lb.ask(request_)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"Connection: close" in answer
            assert not node.heads
            assert lb.metrics.totals.rejected == {"head_size" if status == b"431" else "bad_request": 1}

    run(main)
    assert not [record for record in caplog.records if record.exc_info]


def test_one_client_too_many_is_told_to_come_back(run: Run) -> None:
    """At once and without a node; the others are not disturbed, and a place that is free again is given."""

    async def main() -> None:
        async with backend(tunnel_echo) as node, balancer(node.port, most_connections=2) as lb:
            tunnel, idle = await lb.connect(), await lb.connect()
            tunnel.send(upgrade_request())
            await tunnel.head()
            await eventually(lambda: lb.front.connections == 2)
            refused = await lb.ask(GET)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in refused
            assert lb.metrics.totals.rejected == {"overloaded": 1}
            tunnel.send(b"x")
            assert await tunnel.reader.readexactly(1) == b"x"
            tunnel.close()
            await eventually(lambda: lb.front.connections == 1)
            caller = await lb.connect()
            caller.send(upgrade_request())
            assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
            idle.close()

    run(main)


def test_a_refused_client_that_says_nothing_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may read its answer, for a moment: it takes a descriptor, of which there are few just now."""
    monkeypatch.setattr("lb.farewell.LINGER_S", 0.1)

    async def main() -> None:
        async with balancer(most_connections=0) as lb:
            await lb.ask(GET)  # the event loop opens some of its own at the first
            before = len(os.listdir("/proc/self/fd"))
            caller = await lb.connect()
            assert (await caller.rest()).startswith(b"HTTP/1.1 503 ")
            await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)
            assert lb.front.connections == 0

    run(main)


@pytest.mark.parametrize(
    "refused",
    [
        b"POST / HTTP/1.1\r\nHost: a@b\r\nContent-Length: 1000000\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + bytes(9000),
    ],
    ids=["meaning", "form", "size"],
)
def test_a_refused_client_that_still_sends_can_read_why(run: Run, refused: bytes) -> None:
    """Closing at once would reset its connection, perhaps before it has read (RFC 9112 9.6)."""

    async def main() -> None:
        async with balancer() as lb:
            caller = await lb.connect()
            caller.send(refused)
            await eventually(lambda: lb.metrics.totals.rejected)
            for _ in range(3):
                caller.send(bytes(1000))
                await asyncio.sleep(0)
            assert re.match(rb"HTTP/1.1 4[03][01] ", await caller.rest())

    run(main)


def test_a_refused_client_that_sends_without_end_is_not_read_without_end(run: Run) -> None:
    """It has a moment to read why, in which it costs nothing."""

    async def main() -> None:
        async with balancer() as lb:
            caller = await lb.connect()
            caller.send(b"POST / HTTP/1.1\r\nHost: a@b\r\nContent-Length: 100000000\r\n\r\n" + bytes(8_000_000))
            assert (await caller.head()).startswith(b"HTTP/1.1 400 ")
            [connection] = cast(list[Downstream], lb.front._reception.connections)
            transport = cast(asyncio.Transport, connection.transport)
            await eventually(lambda: transport.is_closing() or not transport.is_reading())
            assert connection._passed_over < 4_000_000
            await eventually(lambda: lb.front.connections == 0)

    run(main)


def test_a_client_that_sends_ahead_is_read_no_further_than_it_is_answered(run: Run) -> None:
    """From its first bytes on, which are read before its transport reads: else it could fill the worker's memory."""
    ahead = b"GET / HTTP/1.1\r\nHost: h\r\nTE: x\r\n\r\n" * 300
    asked = asyncio.Event()

    async def talk(conversation: Conversation, head: bytes) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(ahead)
            await asked.wait()
            caller.send(ahead * 100)
            [connection] = cast(list[Downstream], lb.front._reception.connections)
            transport = cast(asyncio.Transport, connection.transport)
            await eventually(lambda: not transport.is_reading())
            await lastingly(lambda: not transport.is_reading(), 0.1)

    run(main)


def test_a_crowd_of_refused_clients_takes_few_descriptors(run: Run) -> None:
    """Each is told why; only some may take their time to read it."""

    async def main() -> None:
        async with balancer(most_connections=0) as lb:
            crowd = [await lb.connect() for _ in range(100)]
            for caller in crowd:
                assert (await caller.rest()).startswith(b"HTTP/1.1 503 ")
            assert lb.front._admission.lingering <= 32
            for caller in crowd:
                caller.close()
            await eventually(lambda: lb.front._admission.lingering == 0)

    run(main)


def test_our_own_fault_is_a_500_and_is_logged(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug must not take the worker down, nor hide."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("lb.route.Router.route", broken)

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port) as lb:
            answer = await lb.ask(GET)
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert b"a bug" not in answer

    run(main)
    told = [record.getMessage() for record in caplog.records if record.exc_info]
    assert told == ["plain exchange failed", "request failed"]


def test_a_stopping_front_lets_everybody_finish(run: Run) -> None:
    """Idle connections end at once, exchanges with their answer, tunnels when they like; nobody new comes in."""
    go = asyncio.Event()

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"websocket" in head:
            await tunnel_echo(conversation, head)
        else:
            await go.wait()
            await conversation.send(OK)

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port) as lb:
            idle, busy, tunnel = await lb.connect(), await lb.connect(), await lb.connect()
            busy.send(GET)
            tunnel.send(upgrade_request())
            await tunnel.head()
            await eventually(lambda: len(node.heads) == 2 and lb.front.connections == 3)
            stopping = asyncio.create_task(lb.front.stop(10))
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await lb.connect()
            go.set()
            head, body = await busy.answer()
            assert (b"Connection: close" in head, body) == (True, b"ok")
            assert await busy.rest() == b""
            tunnel.send(b"x")
            assert await tunnel.reader.readexactly(1) == b"x"
            assert not stopping.done()
            tunnel.close()
            await asyncio.wait_for(stopping, 30)
            assert lb.front.connections == 0

    run(main)


def test_a_stopping_front_ends_what_does_not_finish(run: Run) -> None:
    """When its time is over, and nothing is left."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"websocket" in head:
            await tunnel_echo(conversation, head)
        else:
            await conversation.until_closed()

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port) as lb:
            busy, tunnel = await lb.connect(), await lb.connect()
            busy.send(GET)
            tunnel.send(upgrade_request())
            await tunnel.head()
            await eventually(lambda: len(node.heads) == 2)
            await asyncio.wait_for(lb.front.stop(0.2), 30)
            assert lb.front.connections == 0
            assert await tunnel.rest() == b""
            assert await busy.rest() == b""
            await eventually(lambda: all(each.ended.is_set() for each in node.conversations))
            assert lb.node().exchanges == lb.node().tunnels == 0

    run(main)


def test_two_fronts_on_one_socket_share_the_clients_and_the_stickiness(run: Run) -> None:
    """`lb.workers: 2`: whichever accepts, the cookie of the other is as good as its own."""

    async def main() -> None:
        async with (
            backend(answering(OK)) as one,
            backend(answering(OK)) as two,
            balancer(one.port, two.port) as lb,
        ):
            second = Front(lb.config, lb.pool, lb.metrics, most_connections=100)
            shared = socket.socket()
            shared.bind(("127.0.0.1", 0))
            shared.listen()
            shared.setblocking(False)
            second.start(shared)
            reader, writer = await asyncio.open_connection(*shared.getsockname())
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            cookie = head.partition(b"Set-Cookie: ")[2].partition(b";")[0]
            name = cookie.partition(b"=")[2].partition(b".")[0].decode()
            for _ in range(5):
                caller = await lb.connect()
                caller.send(GET.replace(b"\r\n\r\n", b"\r\nCookie: " + cookie + b"\r\n\r\n"))
                assert b"Set-Cookie" not in (await caller.answer())[0]
            assert len((one if name == "n0" else two).heads) == 6
            writer.close()
            await second.stop(0)

    run(main)


def test_quiet_connections_are_probed_by_tcp_on_both_sides(run: Run) -> None:
    """A peer that vanished is found although a quiet WebSocket sends nothing for hours."""

    async def main() -> None:
        async with backend(tunnel_echo) as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(upgrade_request())
            await caller.head()
            (tunnel,) = lb.front._tunnels._open
            for end in (tunnel.client, tunnel.node_end):
                sock = end.transport.get_extra_info("socket")
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000

    run(main)


def test_a_closed_connection_does_not_wait_for_ever_for_a_client_that_takes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there and answers TCP's probes; its place would be taken for as long as it likes."""
    monkeypatch.setitem(keepalive._OPTIONS, "TCP_USER_TIMEOUT", 1000)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + bytes(30_000)

    async def main() -> None:
        async with backend(answering(answer)) as node, balancer(node.port, idle_timeout_s=0.2) as lb:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.setblocking(False)
                await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", lb.port))
                await eventually(lambda: lb.front._yard.shuttles)
                (connection,) = lb.front._yard.shuttles
                transport = cast(Shuttle, connection).transport
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                deaf.send(GET)
                await eventually(transport.get_write_buffer_size)
                await eventually(transport.is_closing)
                assert lb.front.connections == 1
                await eventually(lambda: lb.front.connections == 0)

    run(main)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_worker_at_its_limit_blames_itself_and_recovers(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Neither an accept nor a connect that fails for want of descriptors takes a node out, or stops us for good."""

    async def main() -> None:
        async with backend(tunnel_echo) as node, balancer(node.port) as lb:
            tunnel, kept = await lb.connect(), await lb.connect()
            tunnel.send(upgrade_request())
            await tunnel.head()
            await eventually(lambda: lb.front.connections == 2)
            waiting = socket.socket()
            waiting.setblocking(False)
            with no_descriptor_left():
                for _ in range(2):
                    kept.send(upgrade_request())
                    head, _ = await kept.answer()
                    assert head.startswith(b"HTTP/1.1 503 ")
                    assert b"Retry-After" in head
                waiting.connect_ex(("127.0.0.1", lb.port))
                for _ in range(20):  # meanwhile the loop finds that it cannot accept
                    tunnel.send(b"x")
                    assert await tunnel.reader.readexactly(1) == b"x"
            assert not lb.changes
            kept.send(upgrade_request())
            assert (await kept.head()).startswith(b"HTTP/1.1 101 ")

            async def answers() -> bool:
                caller = await lb.connect()
                caller.send(upgrade_request())
                try:
                    return b" 101 " in await asyncio.wait_for(caller.head(), 1)
                except (asyncio.IncompleteReadError, TimeoutError):
                    return False

            await eventually(answers)
            waiting.close()

    run(main)
    told = [record for record in caplog.records if record.getMessage() == "out of resources"]
    assert [getattr(record, "raise") for record in told] == [
        "the limit of open files of this process (ulimit -n, LimitNOFILE=)"
    ]
