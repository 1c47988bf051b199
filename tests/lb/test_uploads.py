"""Bodies that come behind their heads: on the short way while all is plain, and from any byte on the long one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

import pytest

from lb.plain_link import PlainLink
from lb.pool import Node
from lb.shuttle import Shuttle
from lb.trip import Trip
from tests.lb.conftest import Run
from tests.lb.test_shuttle import is_short, the_shuttle
from tests.support.access_lines import Lines
from tests.support.backends import OK, Backend, Conversation, backend
from tests.support.balancer import Balancer, balancer
from tests.support.exchanges import get, read_chunked, through
from tests.support.ports import free_port
from tests.support.waiting import eventually, lastingly

CONTENT = b"hello, worlds of mine"
CHUNKS = b"5\r\nhello\r\n10\r\n, worlds of mine\r\n0\r\n\r\n"
CHUNKED = get("/", "Transfer-Encoding: chunked", method="POST")
LENGTH = get("/", f"Content-Length: {len(CONTENT)}", method="POST")
FRAMED = {"chunked": (CHUNKED, CHUNKS), "length": (LENGTH, CONTENT)}
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"

framed = pytest.mark.parametrize("framing", FRAMED)


def trip_of(shuttle: Shuttle) -> Trip:
    assert shuttle._trip is not None
    return shuttle._trip


def full_link(lb: Balancer) -> PlainLink | None:
    """Return the connection to the node that does not take its body any more, if it is so."""
    if not lb.front._yard.shuttles:
        return None
    trip = the_shuttle(lb)._trip
    return trip._link if trip is not None and trip._link is not None and trip._link.is_full else None


async def body_of(conversation: Conversation, head: bytes) -> bytes:
    if b"chunked" in head:
        return await read_chunked(conversation.reader)
    return await conversation.reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))


async def echo(conversation: Conversation, head: bytes) -> None:
    """Answer with the body."""
    body = await body_of(conversation, head)
    await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@framed
def test_a_body_goes_the_short_way_however_it_is_cut(run: Run, framing: str) -> None:
    """Behind its head or with it, and with the next request right behind it."""
    head, body = FRAMED[framing]

    async def talk(conversation: Conversation, head: bytes) -> None:
        came.put_nowait(None)
        await echo(conversation, head)

    came = asyncio.Queue[None]()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for at in range(len(body) + 1):
            caller.send(head + body[:at])
            await came.get()
            caller.send(body[at:] + head + body)
            for _ in range(2):
                assert (await caller.answer())[1] == CONTENT
            await came.get()
            assert is_short(lb)
        assert len(node.conversations) == 1
        assert lb.node().exchanges == 0

    through(run, talk, check)


def _connects(lb: Balancer, count: int) -> bool:
    return len(lb.front._yard._connecting) == count


def _has_heads(node: Backend, count: int) -> bool:
    return len(node.heads) >= count


@framed
def test_the_long_way_takes_over_after_any_byte(run: Run, framing: str, lines: Lines) -> None:
    """Here as the node says something in between: it gets every byte once, and the client what it says."""
    head, body = FRAMED[framing]

    async def talk(conversation: Conversation, head: bytes) -> None:
        came.put_nowait(None)
        await to_say.get()
        await conversation.send(HINT)
        await echo(conversation, head)

    came, to_say = asyncio.Queue[None](), asyncio.Queue[None]()

    async def check(lb: Balancer, node: Backend) -> None:
        for at in range(len(body)):
            caller = await lb.connect()
            caller.send(head + body[:at])
            await came.get()
            assert len(lb.front._yard.shuttles) == 1
            to_say.put_nowait(None)
            assert await caller.head() == HINT
            assert not lb.front._yard.shuttles
            for piece in (body[at : at + 1], body[at + 1 : at + 4], body[at + 4 :]):
                caller.send(piece)
                await asyncio.sleep(0)
            assert (await caller.answer())[1] == CONTENT
            caller.close()
        await eventually(lambda: lb.front.connections == lb.node().exchanges == 0)

    through(run, talk, check)
    assert [line["bytes_in"] for line in lines.lines] == [len(CONTENT)] * len(body)


@framed
def test_an_answer_that_is_not_plain_goes_on_without_the_body_that_has_gone(
    run: Run, framing: str, lines: Lines
) -> None:
    """The node is asked once; the client's next request goes the short way again."""
    head, body = FRAMED[framing]

    async def talk(conversation: Conversation, head: bytes) -> None:
        await body_of(conversation, head)
        await conversation.send(HINT + OK)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for times in (1, 2):
            caller.send(head + body[:3])
            await eventually(partial(_has_heads, node, times))
            assert is_short(lb)
            caller.send(body[3:])
            assert await caller.head() == HINT
            assert (await caller.answer())[1] == b"ok"
            assert len(node.heads) == times
            await eventually(lambda: is_short(lb))
        assert len(node.conversations) == 1

    through(run, talk, check)
    assert [line["bytes_in"] for line in lines.lines] == [len(CONTENT)] * 2


@pytest.mark.parametrize(
    ("sent", "content"),
    [
        (b"2;a=b\r\nhi\r\n0;c\r\n\r\n", b"hi"),
        (b"2\r\nhi\r\n0\r\nX-Trailer: y\r\n\r\n", b"hi"),
        (b"2\r\nhi\r\n0002\r\nho\r\n000\r\n\r\n", b"hiho"),
    ],
)
def test_chunks_that_are_right_but_odd_are_framed_anew(run: Run, sent: bytes, content: bytes) -> None:
    """A node gets none of what few write and some read otherwise, wherever it is."""

    async def check(lb: Balancer, node: Backend) -> None:
        for at in range(len(sent)):
            caller = await lb.connect()
            caller.send(CHUNKED)
            await came.get()
            caller.send(sent[:at])
            await asyncio.sleep(0)
            caller.send(sent[at:])
            assert (await caller.answer())[1] == content
            caller.close()

    async def talk(conversation: Conversation, head: bytes) -> None:
        came.put_nowait(None)
        await echo(conversation, head)

    came = asyncio.Queue[None]()
    through(run, talk, check)


@pytest.mark.parametrize("size", [b"10000000", b"fffffffffffffff", b"100000002"])
def test_a_node_is_promised_no_chunk_beyond_its_integers(run: Run, size: bytes) -> None:
    """Whatever size a client announces, the node gets chunks of what has come."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        assert await conversation.reader.readexactly(7) == b"2\r\nhi\r\n"
        seen.set()

    seen = asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(CHUNKED)
        await eventually(lambda: node.heads)
        caller.send(size + b"\r\nhi")
        await seen.wait()
        caller.close()

    through(run, talk, check, max_body_bytes=0)


@pytest.mark.parametrize("bad", [b"x", b"-1\r\n", b"3\n", b"2\r\nabc", b"2\rhi", b"0\r\nX : y\r\n\r\n", b"\r\n\r\n"])
def test_a_fault_in_a_body_is_a_400_wherever_it_is(run: Run, bad: bytes) -> None:
    """The node's connection is cut, so that it takes nothing for the whole body."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        while data := await conversation.reader.read(1000):
            got.extend(data)

    got = bytearray()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(CHUNKED + b"3\r\nabc\r\n")
        await eventually(lambda: node.heads)
        assert is_short(lb)
        caller.send(bad)
        answer = await caller.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        await eventually(node.conversations[0].ended.is_set)
        assert not got.endswith(b"0\r\n\r\n")
        assert lb.metrics.totals.rejected == {"bad_request": 1}
        assert lb.node().exchanges == 0

    through(run, talk, check)


@framed
def test_a_node_that_does_not_read_stops_the_client(run: Run, framing: str) -> None:
    """Nothing piles up here; when it reads again it gets everything, and the client is heard all the while."""
    size = 20_000_000
    head = {"chunked": CHUNKED, "length": get("/", f"Content-Length: {size}", method="POST")}[framing]
    chunk = b"%x\r\n%b\r\n" % (size // 5, bytes(size // 5))
    body = {"chunked": chunk * 5 + b"0\r\n\r\n", "length": bytes(size)}[framing]

    async def talk(conversation: Conversation, head: bytes) -> None:
        conversation.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        conversation.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await body_of(conversation, head) == bytes(size)
        go.clear()
        await conversation.send(OK)

    go = asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(head + body)
            link = await eventually(lambda: full_link(lb))
            assert link is not None
            shuttle = the_shuttle(lb)
            assert not shuttle.transport.is_reading()
            assert link.transport.get_write_buffer_size() + len(shuttle._pending) < 2_000_000
            go.set()
            assert (await caller.answer())[1] == b"ok"
            assert shuttle.transport.is_reading()
        assert len(node.conversations) == 1
        assert is_short(lb)

    through(run, talk, check)


def test_the_long_way_takes_over_while_the_node_does_not_read(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """What waits for it is sent before all else, and the long way waits for that, too."""
    size = 20_000_000

    async def talk(conversation: Conversation, head: bytes) -> None:
        conversation.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await full.wait()
        await conversation.send(HINT)
        await go.wait()
        conversation.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await echo(conversation, head)

    full, go = asyncio.Event(), asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        body = bytes(range(250)) * (size // 250)
        caller.send(CHUNKED + b"".join(b"%x\r\n%b\r\n" % (250_000, body[:250_000]) for _ in range(size // 250_000)))
        await eventually(lambda: full_link(lb))
        full.set()
        assert await caller.head() == HINT
        go.set()
        caller.send(b"0\r\n\r\n")
        assert (await caller.answer())[1] == body

    through(run, talk, check)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@framed
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_node_that_goes_in_the_middle_of_a_body_is_a_502(run: Run, framing: str, how: str) -> None:
    """The request is not made again: it may have done its work."""
    head, body = FRAMED[framing]

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.reader.readexactly(4)
        if how == "close":
            conversation.writer.close()
        else:
            conversation.reset()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(head)
        await eventually(lambda: node.heads)
        caller.send(body[:4])
        answer, _ = await caller.answer()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"\r\nConnection: close\r\n" in answer
        caller.send(body[4:])  # which nobody reads, and which does not reset the connection under the answer
        assert await caller.rest() == b""
        assert len(node.heads) == 1
        assert lb.node().exchanges == 0

    through(run, talk, check)


@framed
def test_a_client_that_goes_in_the_middle_of_its_body_takes_it_along(run: Run, framing: str, lines: Lines) -> None:
    """The node cannot take what it has for the whole; the access log has a 499."""
    head, body = FRAMED[framing]

    async def talk(conversation: Conversation, head: bytes) -> None:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await body_of(conversation, head)
        conversation.ended.set()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(head)
        await eventually(lambda: node.heads)
        caller.send(body[:9])
        await eventually(lambda: trip_of(the_shuttle(lb))._size)
        caller.close()
        await eventually(node.conversations[0].ended.is_set)
        await eventually(lambda: lb.front.connections == 0)
        assert lb.node().exchanges == 0

    through(run, talk, check)
    (line,) = lines.lines
    assert (line["status"], line["bytes_in"]) == (499, {"chunked": 5, "length": 9}[framing])


@framed
def test_what_comes_while_a_connection_is_made_waits_for_it(run: Run, framing: str) -> None:
    """And for the next node, if that one cannot be reached."""
    head, body = FRAMED[framing]

    async def main() -> None:
        dead = free_port()
        async with backend(echo) as node, balancer(dead, node.port, balance="round_robin") as lb:
            upstream, go = lb.front._upstream, asyncio.Event()
            connect = upstream.connect

            async def slowly(node: Node) -> PlainLink:
                await go.wait()
                return await connect(node)

            upstream.connect = slowly  # type: ignore[method-assign]
            callers = [await lb.connect() for _ in range(2)]
            for number, caller in enumerate(callers, 1):
                caller.send(head + body[:5])
                await eventually(partial(_connects, lb, number))
                caller.send(body[5:9])
            await eventually(
                lambda: [cast(Shuttle, each)._pending for each in lb.front._yard.shuttles] == 2 * [body[5:9]]
            )
            go.set()
            for caller in callers:
                caller.send(body[9:] + head + body)
                for _ in range(2):
                    assert (await caller.answer())[1] == CONTENT
            assert {change.node for change in lb.changes} == {"n0" if dead < node.port else "n1"}

    run(main)


def test_a_body_that_stops_between_two_chunks_or_in_one_is_a_408(run: Run) -> None:
    """Wherever it stops: in a size, in a chunk, in the line end behind one, in the last line."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        callers = []
        for at in range(len(CHUNKS)):
            caller = await lb.connect()
            caller.send(CHUNKED + CHUNKS[:at])
            callers.append(caller)
        for caller in callers:
            assert (await caller.rest()).startswith(b"HTTP/1.1 408 ")
        assert lb.metrics.totals.rejected == {"body_timeout": len(CHUNKS)}
        await eventually(lambda: all(conversation.ended.is_set() for conversation in node.conversations))

    through(run, talk, check, body_timeout_s=0.2)


def test_what_is_wrong_behind_a_request_that_goes_on_the_long_way_does_not_lose_it(run: Run) -> None:
    """It is answered, and its node's connection used again or ended; then what is wrong is refused."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await go.wait()
        await conversation.send(HINT + OK)

    go = asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get() + b"no HTTP\r\n\r\n")
        await eventually(lambda: node.heads)
        go.set()
        assert await caller.head() == HINT
        assert (await caller.answer())[1] == b"ok"
        assert (await caller.rest()).startswith(b"HTTP/1.1 400 ")
        assert lb.node().exchanges == 0
        assert len(node.conversations) == 1

    through(run, talk, check)


def test_a_nodes_connection_that_nobody_comes_for_ends_with_the_clients(run: Run) -> None:
    """Should the long way not take what the short one took for a request."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await go.wait()
        await conversation.send(HINT + OK)
        await conversation.until_closed()

    go = asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get())
        await eventually(lambda: node.heads)
        the_shuttle(lb)._request = b"no HTTP\r\n\r\n"
        go.set()
        assert (await caller.rest()).startswith(b"HTTP/1.1 400 ")
        await eventually(node.conversations[0].ended.is_set)
        assert lb.node().exchanges == 0

    through(run, talk, check)


def test_the_time_in_the_access_log_counts_from_where_the_request_came(run: Run, lines: Lines) -> None:
    """And not from where the long way took over."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await lastingly(lambda: True, 0.1)
        await conversation.send(HINT)
        await echo(conversation, head)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(CHUNKED + CHUNKS)
        await caller.head()
        assert (await caller.answer())[1] == CONTENT

    through(run, talk, check)
    (line,) = lines.lines
    assert float(str(line["ms"])) >= 100
