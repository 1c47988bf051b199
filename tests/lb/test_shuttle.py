"""The short way of plain requests: what is sent each way, and what becomes of it when one side is slow, odd or gone."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

import pytest

from lb.plain_link import PlainLink
from lb.pool import Node
from lb.shuttle import MOST_HELD_BYTES, Shuttle
from tests.lb.conftest import Run
from tests.support.access_lines import Lines
from tests.support.backends import OK, Backend, Conversation, answering, backend, hanging
from tests.support.balancer import Balancer, Caller, balancer
from tests.support.exchanges import get, read_chunked, through
from tests.support.ports import free_port
from tests.support.waiting import eventually, lastingly

NOT_PLAIN = b"HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

CHUNKS = b'6;a="b"\r\nhello,\r\n07\r\n world!\r\n0;x\r\nX-Trailer: y\r\n\r\n'


async def ask(caller: Caller, request: bytes) -> bytes:
    caller.send(request)
    return (await caller.answer())[1]


def is_short(lb: Balancer) -> bool:
    """Whether all clients that are here go the short way."""
    here = lb.front._reception.connections
    return len(here) == lb.front.connections and all(isinstance(each, Shuttle) for each in here)


def the_shuttle(lb: Balancer) -> Shuttle:
    (shuttle,) = lb.front._yard.shuttles
    return cast(Shuttle, shuttle)


def test_plain_requests_go_the_short_way_one_after_the_other(run: Run) -> None:
    """On one connection each way.  The node gets what the long way sends; the client the answer, and a cookie."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/a?b", "X: y", "Keep-Alive: 5", "X-Forwarded-For: 6.6.6.6"))
        head, body = await caller.answer()
        assert body == b"ok"
        first, length, cookie = head.rstrip().split(b"\r\n")
        assert (first, length) == (b"HTTP/1.1 200 OK", b"Content-Length: 2")
        assert cookie.startswith(b"Set-Cookie: flotilla_node=n0.")
        lines = node.heads[0].rstrip().split(b"\r\n")
        assert lines[:-1] == [
            *(b"GET /a?b HTTP/1.1", b"Host: h", b"X: y"),
            *(b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: h"),
        ]
        assert lines[-1].startswith(b"traceparent: 00-")
        assert is_short(lb)
        assert await ask(caller, get("/c", "X: y")) == b"ok"
        assert await ask(caller, get("/d", "X: y")) == b"ok"
        assert node.headers(1)[b"traceparent"] != node.headers(2)[b"traceparent"]
        assert len(node.conversations) == 1
        assert is_short(lb)
        assert lb.metrics.totals.nodes["n0"].exchanges == [0, 3, 0, 0, 0]
        assert lb.node().exchanges == 0

    through(run, answering(OK), check)


def test_a_body_that_is_here_goes_with_its_head(run: Run) -> None:
    """And one whose rest is on its way goes behind it."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        length = int(head.partition(b"Content-Length: ")[2].split(b"\r")[0] or 0)
        body = await conversation.reader.readexactly(length)
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, body))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        assert await ask(caller, get("/", "Content-Length: 4", method="POST") + b"body") == b"body"
        assert is_short(lb)
        caller.send(get("/", "Content-Length: 4", method="POST") + b"bo")
        await eventually(lambda: len(node.heads) == 2)
        assert await ask(caller, b"dy") == b"body"
        assert is_short(lb)
        assert await ask(caller, get("/", "Content-Length: 1", method="PUT") + b"x") == b"x"

    through(run, talk, check)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_an_answer_may_come_in_pieces(run: Run, size: int) -> None:
    """However it is cut, head and body."""
    answer = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 30\r\n\r\n" + b"0123456789" * 3

    async def talk(conversation: Conversation, head: bytes) -> None:
        for at in range(0, len(answer), size):
            await conversation.send(answer[at : at + size])
            await asyncio.sleep(0)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            assert await ask(caller, get()) == b"0123456789" * 3
        assert is_short(lb)

    through(run, talk, check)


@pytest.mark.parametrize("target", ["/", "/socket.io/?EIO=4&transport=polling"])
def test_an_answer_that_is_not_plain_goes_on_the_long_way(run: Run, target: str) -> None:
    """The node is asked once; the client's next request goes the short way again."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for times in (1, 2):
            caller.send(get(target))
            assert b"Transfer-Encoding: chunked" in await caller.head()
            assert await caller.reader.readexactly(12) == b"2\r\nok\r\n0\r\n\r\n"
            assert len(node.heads) == times
            await eventually(lambda: is_short(lb))
        assert lb.metrics.totals.nodes["n0"].exchanges == [0, 2, 0, 0, 0]
        assert lb.node().exchanges == 0
        assert len(node.conversations) == 1

    through(run, answering(NOT_PLAIN), check)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_chunks_go_as_chunks(run: Run, size: int) -> None:
    """Framed anew, without extensions and trailer fields; both connections go on."""
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n" + CHUNKS

    async def talk(conversation: Conversation, head: bytes) -> None:
        for at in range(0, len(answer), size):
            await conversation.send(answer[at : at + size])
            await asyncio.sleep(0)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(get())
            head = await caller.head()
            assert head.lower().count(b"chunked") == 1
            assert b"\r\nTransfer-Encoding: chunked\r\n" in head
            assert await read_chunked(caller.reader) == b"hello, world!"
        assert len(node.conversations) == 1
        assert is_short(lb)

    through(run, talk, check)


@pytest.mark.parametrize("at_once", [True, False])
def test_chunks_that_are_none_end_what_they_began(run: Run, at_once: bool) -> None:
    """With a reset, unless nothing of them was passed on."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        first, bad = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n", b"-1\r\nbad\r\n0\r\n\r\n"
        if not at_once:
            await conversation.send(first)
            await go.wait()
        await conversation.send(first + bad if at_once else bad)
        await conversation.until_closed()

    go = asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get())
        head = await caller.head()
        if at_once:
            assert b" 502 " in head
        else:
            assert await caller.reader.readexactly(9) == b"4\r\ngood\r\n"
            go.set()
            with pytest.raises(ConnectionResetError):
                await caller.rest()
        await eventually(node.conversations[0].ended.is_set)
        assert lb.node().exchanges == 0

    through(run, talk, check)


def test_what_a_node_says_behind_its_last_chunk_reaches_nobody(run: Run) -> None:
    """As with a length."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(get())
            await caller.head()
            assert await read_chunked(caller.reader) == b"hello, world!"
        assert len(node.conversations) == 2

    through(run, answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS + evil), check)


def test_an_answer_whose_head_does_not_end_is_the_long_ways_to_refuse(run: Run) -> None:
    """Nothing is kept without bound, and the client is told."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000)
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", method="POST"))
        assert b" 502 " in await caller.head()

    through(run, talk, check)


def test_requests_that_come_at_once_are_answered_in_order(run: Run) -> None:
    """Pipelining (RFC 9112 9.3.2), also cut in the middle of a head, also with one that is not plain among them."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        target = head.split(b" ")[1]
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/1") + get("/2", "Content-Length: 1", method="POST") + b"x" + get("/3")[:9])
        assert (await caller.answer())[1] == b"/1"
        assert (await caller.answer())[1] == b"/2"
        caller.send(get("/3")[9:] + get("/4", "TE: trailers") + get("/5"))
        for target in (b"/3", b"/4", b"/5"):
            assert (await caller.answer())[1] == target
        assert node.targets == [b"/1", b"/2", b"/3", b"/4", b"/5"]

    async def talk_and_read(conversation: Conversation, head: bytes) -> None:
        if b"POST" in head:
            await conversation.reader.readexactly(1)
        await talk(conversation, head)

    through(run, talk_and_read, check)


def test_a_client_that_sends_ahead_is_not_read_without_end(run: Run) -> None:
    """While it is being answered, nor a piece for each answer; and all it has sent is answered."""
    most_bytes = MOST_HELD_BYTES + 256 * 1024  # what event loops read at once
    go = asyncio.Event()

    async def talk(conversation: Conversation, head: bytes) -> None:
        await go.wait()
        await conversation.send(OK)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        request = get("/", "X: " + "y" * 1000)
        count = 32 * MOST_HELD_BYTES // len(request)
        caller.send(request * count)
        await eventually(lambda: len(node.heads) == 1)
        shuttle = the_shuttle(lb)
        await eventually(lambda: not shuttle.transport.is_reading())
        assert len(shuttle._pending) <= most_bytes
        go.set()
        for _ in range(count):
            assert (await caller.answer())[1] == b"ok"
            assert len(shuttle._pending) <= most_bytes
        go.clear()

    through(run, talk, check)


def test_a_node_that_closes_without_an_answer(run: Run) -> None:
    """A GET is asked again once, as the node may have closed an idle connection; a POST may have done its work."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"/bye" in head and len(node_heads) < 3:
            conversation.writer.close()
        else:
            await conversation.send(OK)

    node_heads: list[bytes] = []

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port) as lb:
            node.heads = node_heads
            caller = await lb.connect()
            assert await ask(caller, get()) == b"ok"
            assert await ask(caller, get("/bye")) == b"ok"
            assert node.targets == [b"/", b"/bye", b"/bye"]
            del node_heads[:]
            caller.send(get("/bye", method="POST"))
            assert b" 502 " in await caller.head()
            assert node.targets == [b"/bye"]
            assert lb.node().exchanges == 0

    run(main)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_node_that_goes_in_the_middle_of_its_answer_ends_the_clients_connection_hard(run: Run, how: str) -> None:
    """It must not take what it has for the whole answer."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        if how == "close":
            conversation.writer.close()
        else:
            await asyncio.sleep(0)
            conversation.reset()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get())
        with pytest.raises(ConnectionResetError):
            await caller.rest()
        await eventually(lambda: lb.front.connections == 0)
        assert lb.node().exchanges == 0

    through(run, talk, check)


def test_what_a_node_says_beyond_its_answer_reaches_nobody(run: Run) -> None:
    """At once with it or later: the next request goes over another connection."""
    more = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(OK + more if b"/at-once" in head else OK)
        if b"/later" in head:
            await later.wait()
            await conversation.send(more)
            said.set()

    later, said = asyncio.Event(), asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        assert await ask(caller, get("/at-once")) == b"ok"
        assert await ask(caller, get("/later")) == b"ok"
        assert len(node.conversations) == 2
        later.set()
        await said.wait()
        await eventually(node.conversations[1].ended.is_set)
        assert await ask(caller, get("/")) == b"ok"
        assert len(node.conversations) == 3
        assert is_short(lb)

    through(run, talk, check)


def test_a_node_that_says_close_is_connected_to_anew(run: Run) -> None:
    """Its Connection field is not the client's business."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(get())
            assert b"close" not in (await caller.answer())[0]
        assert len(node.conversations) == 2

    through(run, answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")), check)


def test_answers_that_have_no_body(run: Run) -> None:
    """To HEAD, and 204 and 304."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        status = head.split(b" ")[1][1:]
        length = b"" if status == b"204" else b"Content-Length: 5\r\n"
        await conversation.send(b"HTTP/1.1 " + status + b" X\r\n" + length + b"\r\n")

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for method, status in (("HEAD", "200"), ("GET", "204"), ("GET", "304"), ("HEAD", "404")):
            caller.send(get(f"/{status}", method=method))
            assert (await caller.head()).startswith(f"HTTP/1.1 {status} X\r\n".encode())
        assert is_short(lb)
        assert len(node.conversations) == 1

    through(run, talk, check)


def test_a_client_that_leaves_takes_its_request_along(run: Run, lines: Lines) -> None:
    """The node's connection ends, so that a long poll ends with its client; the access log has a 499."""

    async def main() -> None:
        async with hanging() as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(get("/wait"))
            await eventually(lambda: len(node.heads) == 1)
            assert lb.node().exchanges == 1
            caller.close()
            await eventually(node.conversations[0].ended.is_set)
            await eventually(lambda: lb.front.connections == 0)
            assert lb.node().exchanges == 0

    run(main)
    (line,) = lines.lines
    assert (line["status"], line["target"], line["bytes_out"]) == (499, "/wait", 0)


def test_an_exchange_is_a_line_in_the_access_log(run: Run, lines: Lines) -> None:
    """The same line as of the long way."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"POST" in head:
            await conversation.reader.readexactly(3)
        await conversation.send(OK)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        assert await ask(caller, get("/a?token=secret", "Content-Length: 3", method="POST") + b"abc") == b"ok"
        assert await ask(caller, get("/b", "TE: trailers")) == b"ok"

    through(run, talk, check)
    short, long = lines.lines
    assert (short["method"], short["target"]) == ("POST", "/a?token=***")
    assert (short["node"], short["status"], short["bytes_in"]) == ("n0", 200, 3)
    assert short["bytes_out"] == long["bytes_out"]
    assert short["client"] == long["client"] == "127.0.0.1"
    assert len(str(short["trace"])) == 32
    assert short.keys() == long.keys()


def test_a_client_that_does_not_read_stops_the_node(run: Run) -> None:
    """Nothing piles up here; when it reads again, everything is there, and the node's connection as good as ever."""
    size = 20_000_000

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await conversation.send(bytes(size))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            caller.send(get())
            await eventually(lambda: lb.front._yard.shuttles and the_shuttle(lb)._is_full)
            trip = the_shuttle(lb)._trip
            assert trip is not None
            assert trip._is_paused
            assert the_shuttle(lb).transport.get_write_buffer_size() < 2_000_000
            caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await caller.head()
            assert len(await caller.reader.readexactly(size)) == size
        assert len(node.conversations) == 1
        assert is_short(lb)

    through(run, talk, check)


def test_a_client_that_takes_nothing_for_too_long_is_cut(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """With a reset, and the node's connection with it."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            await conversation.send(bytes(1_000_000))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        caller.send(get())
        await eventually(lambda: node.conversations)
        await eventually(lambda: lb.front.connections == 0)
        await eventually(node.conversations[0].ended.is_set)
        assert lb.node().exchanges == 0

    through(run, talk, check, idle_timeout_s=0.3)
    assert [record for record in caplog.records if record.getMessage() == "answer broke off"]


def test_the_time_for_an_answer_begins_when_the_node_was_asked(run: Run) -> None:
    """However long the connection took."""

    async def main() -> None:
        async with hanging() as node, balancer(node.port, answer_timeout_s=0.1, idle_timeout_s=0.05) as lb:
            connect = lb.front._upstream.connect

            async def slowly(node: Node) -> PlainLink:
                await lastingly(lambda: lb.front.connections == 1, 0.3)
                return await connect(node)

            lb.front._upstream.connect = slowly  # type: ignore[method-assign]
            caller = await lb.connect()
            caller.send(get())
            assert b" 504 " in await caller.head()
            assert len(node.heads) == 1

    run(main)


@pytest.mark.parametrize("pieces", [3, 100])
def test_a_head_in_pieces_goes_the_short_way_if_they_are_few(run: Run, pieces: int) -> None:
    """It is read anew with each, which many small ones would make expensive."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        assert await ask(caller, get()) == b"ok"
        request = get("/", "X: " + "y" * 1000)
        size = len(request) // pieces + 1
        seen = the_shuttle(lb)

        def is_taken(count: int) -> bool:
            return not is_short(lb) or len(seen._pending) == count or len(node.heads) == 2

        for at in range(0, len(request), size):
            caller.send(request[at : at + size])
            await eventually(partial(is_taken, at + size))
        assert (await caller.answer())[1] == b"ok"
        assert (the_shuttle(lb) is seen) is (pieces == 3)

    through(run, answering(OK), check)


def test_a_node_that_does_not_answer_in_time_is_a_504(run: Run) -> None:
    """And its connection is not used again."""

    async def main() -> None:
        async with hanging() as node, balancer(node.port, answer_timeout_s=0.2) as lb:
            caller = await lb.connect()
            caller.send(get())
            assert b" 504 " in await caller.head()
            await eventually(node.conversations[0].ended.is_set)
            assert lb.metrics.totals.nodes["n0"].exchanges == [0, 0, 0, 0, 1]
            assert lb.node().exchanges == 0

    run(main)


def test_a_head_that_stops_coming_is_a_408_on_a_kept_connection_too(run: Run) -> None:
    """The time counts from its first byte, however many follow."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port, head_timeout_s=0.3) as lb:
            caller = await lb.connect()
            assert await ask(caller, get()) == b"ok"
            caller.send(get("/", "X: y")[:-2])
            caller.send(b"Z: ")
            answer = await caller.rest()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert lb.metrics.totals.rejected == {"head_timeout": 1}
            await eventually(lambda: lb.front.connections == 0)

    run(main)


def test_an_idle_connection_is_closed_without_a_word(run: Run) -> None:
    """After `idle_timeout_s`, however often its timer was put off before."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port, idle_timeout_s=0.2) as lb:
            caller = await lb.connect()
            for _ in range(3):
                assert await ask(caller, get()) == b"ok"
            assert await caller.rest() == b""
            await eventually(lambda: lb.front.connections == 0)

    run(main)


def test_a_node_that_cannot_be_reached_is_out_and_another_one_answers(run: Run) -> None:
    """The client does not notice."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(free_port(), node.port, balance="round_robin") as lb:
            for _ in range(2):
                caller = await lb.connect()
                assert await ask(caller, get()) == b"ok"
            assert [change.node for change in lb.changes] == ["n0"]
            assert lb.metrics.totals.nodes["n0"].connect_failures == 1

    run(main)


def test_a_client_that_leaves_while_a_connection_is_made_leaves_it_to_the_next(run: Run) -> None:
    """Nothing is sent on it for who has gone."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port) as lb:
            front = lb.front
            connect, go = front._upstream.connect, asyncio.Event()

            async def slowly(node: Node) -> PlainLink:
                await go.wait()
                return await connect(node)

            front._upstream.connect = slowly  # type: ignore[method-assign]
            caller = await lb.connect()
            caller.send(get("/gone"))
            await eventually(lambda: lb.front._yard._connecting)
            caller.close()
            await eventually(lambda: front.connections == 0)
            go.set()
            await eventually(lambda: not lb.front._yard._connecting)
            other = await lb.connect()
            assert await ask(other, get("/other")) == b"ok"
            assert node.targets == [b"/other"]
            assert len(node.conversations) == 1

    run(main)


def test_no_node_is_a_503_at_once(run: Run) -> None:
    """As on the long way; the connection goes on."""

    async def main() -> None:
        async with balancer() as lb:
            caller = await lb.connect()
            for _ in range(2):
                caller.send(get())
                head, _ = await caller.answer()
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: 1\r\n" in head

    run(main)


def test_a_stopping_balancer_ends_the_connection_with_the_answer(run: Run) -> None:
    """Idle ones at once."""
    go = asyncio.Event()

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"/wait" in head:
            await go.wait()
        await conversation.send(OK)

    async def check(lb: Balancer, node: Backend) -> None:
        idle, busy = await lb.connect(), await lb.connect()
        assert await ask(idle, get()) == b"ok"
        busy.send(get("/wait"))
        await eventually(lambda: len(node.heads) == 2)
        stopping = asyncio.create_task(lb.front.stop(5))
        assert await idle.rest() == b""
        go.set()
        head, body = await busy.answer()
        assert b"Connection: close\r\n" in head
        assert (body, await busy.rest()) == (b"ok", b"")
        await stopping

    through(run, talk, check)


def test_an_answer_that_a_stopping_balancer_cannot_wait_for_is_cut_hard(run: Run) -> None:
    """One that has not begun ends plainly."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"/half" in head:
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        half, none = await lb.connect(), await lb.connect()
        half.send(get("/half"))
        await half.head()
        none.send(get("/none"))
        await eventually(lambda: len(node.heads) == 2)
        await lb.front.stop(0)
        assert await none.rest() == b""
        with pytest.raises(ConnectionResetError):
            await half.rest()
        assert lb.front.connections == lb.node().exchanges == 0

    through(run, talk, check)
