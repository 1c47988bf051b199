"""Clients that mean harm: whatever they send, the balancer and a node see the same requests, and nobody gets another's.

`corpus.py` says what must become of each of hundreds of requests.  Here are streams of them, right, wrong and cut
anywhere, and what must hold for every stream: that no byte of one request is a node's next one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from tests.support.balancer import Balancer, balancer
from tests.support.recorder import Read, Recorder, recorder, requests_in
from tests.support.waiting import eventually

LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
"""Ends a connection that nothing else has ended."""

SHORT_S = 0.2
"""For a head, a body and a pause in it: a stream may end within one."""

WAIT_S = 20.0

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n"


class Answered(NamedTuple):
    """What a client got: whose each answer says it is (empty: the balancer's own), and its status."""

    said: bytes
    status: int


@dataclass
class Scene:
    """One balancer in front of one node, for many clients one after the other."""

    front: Balancer
    node: Recorder
    runner: asyncio.Runner
    clients: int = 0

    def attack(self, *pieces: bytes) -> tuple[list[Read], list[Answered]]:
        """Return the requests that the node got, and the answers that the client got, for a stream in these pieces."""
        return self.runner.run(self._attack(pieces))

    async def _attack(self, pieces: Sequence[bytes]) -> tuple[list[Read], list[Answered]]:
        before = len(self.node.requests)
        caller = await self.front.connect()
        received = bytearray()
        try:
            for piece in (*pieces, LAST):
                caller.send(piece)
                await asyncio.sleep(0)  # each is received by itself
            async with asyncio.timeout(WAIT_S):
                while data := await caller.reader.read(65_536):
                    received += data
        except ConnectionError:
            pass  # refused in the middle: what was read before counts
        finally:
            caller.close()
        await self._check_next_client()
        return self.node.requests[before:-1], _answers_in(bytes(received))

    async def _check_next_client(self) -> None:
        self.clients += 1
        mine = b"/next-%d" % self.clients
        answer = await self.front.ask(b"GET %b HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n" % mine)
        assert answer.endswith(b"\r\n\r\n" + mine), answer
        assert self.node.requests[-1] == Read(b"GET", mine, b"")
        assert not self.node.faults


def _answers_in(received: bytes) -> list[Answered]:
    """Read answers, all of which have a length."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status < 200:
            received = rest
            continue
        said = re.search(rb"(?i)\r\nx-said: (.*)", head)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        assert length is not None, head
        found.append(Answered(said[1].strip() if said else b"", status))
        # The answer to a HEAD has only the length of a body.
        size = int(length[1])
        received = rest if rest[:9] == b"HTTP/1.1 " and size and said else rest[size:]
    return found


@contextmanager
def scene() -> Iterator[Scene]:
    limits: dict[str, Any] = {"head_timeout_s": SHORT_S, "idle_timeout_s": SHORT_S, "body_timeout_s": SHORT_S}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()

        async def enter() -> Scene:
            node = await stack.enter_async_context(recorder())
            front = await stack.enter_async_context(
                balancer(node.port, stickiness="none", traceparent="pass", **limits)
            )
            return Scene(front, node, runner)

        try:
            yield runner.run(enter())
        finally:
            runner.run(stack.aclose())


def check(scene: Scene, data: bytes, *cuts: int) -> None:
    """What must hold of every stream."""
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    whole, answers = scene.attack(data)
    parts, part_answers = scene.attack(*(data[start:end] for start, end in pairwise(at)))
    for requests, answered in ((whole, answers), (parts, part_answers)):
        # Each request has one answer, its own, in order; what else the client got is ours, and the last thing it got.
        assert [each.said for each in answered if each.said] == [read.target for read in requests]
        assert all(each.said for each in answered[:-1])
    # However it was cut, the same requests came of it; where it ends, a fault may be seen sooner or later.
    assert all(one == other for one, other in zip(whole, parts, strict=False))
    theirs = requests_in(data + LAST)
    assert all(one == _as_we_write(other) for one, other in zip(whole, theirs, strict=False))


def _as_we_write(read: Read) -> Read:
    """RFC 9112 3.2.2 and 3.2.4."""
    absolute = re.fullmatch(rb"(?i:https?)://[^/?]*(.*)", read.target)
    if absolute is None:
        return read
    if read.method == b"OPTIONS" and not absolute[1]:
        return read._replace(target=b"*")
    return read._replace(target=absolute[1] if absolute[1][:1] == b"/" else b"/" + absolute[1])


LINES = (
    b"GET /a HTTP/1.1\r\n",
    b"POST /b HTTP/1.1\r\n",
    b"HEAD /c HTTP/1.1\r\n",
    b"OPTIONS http://b HTTP/1.1\r\n",
    b"GET http://b?x HTTP/1.1\r\n",
    b"POST /d HTTP/1.0\r\n",
)
FIELDS = (
    b"Host: a\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: 40\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: Upgrade\r\n",
    b"Connection: content-length\r\n",
    b"Upgrade: h2c\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"X: y\r\n",
)
BODIES = (b"hi", b"2\r\nhi\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"2;a=b\r\nhi\r\n", b"28\r\n", SMUGGLED)
ODDS = (b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b"0", b"HTTP/1.1", b"\x85")

WHOLE = (
    b"GET /get HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://b/absolute HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /sized HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + SMUGGLED,
    b"POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n23;a=b\r\n"
    + SMUGGLED
    + b"\r\n0\r\nX: y\r\n\r\n",
    b"POST /expects HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"DELETE /sized HTTP/1.1\r\nHost: a\r\nConnection: x\r\nContent-Length: 2\r\nX: y\r\n\r\nhi",
    b"GET /h2c HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /old HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
)

_right = st.builds(
    lambda line, fields, body: line + b"Host: a\r\n" + b"".join(fields) + b"\r\n" + body,
    st.sampled_from(LINES),
    st.lists(st.sampled_from(FIELDS), max_size=3),
    st.lists(st.sampled_from(BODIES), max_size=3).map(b"".join),
)


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    """Return requests that are mostly right, in which something may be inserted, left out or replaced."""
    requests = st.lists(st.sampled_from(WHOLE), min_size=1, max_size=5) | st.lists(_right, min_size=1, max_size=3)
    data = b"".join(draw(requests))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        by = draw(st.sampled_from((*LINES, *FIELDS, *BODIES, *ODDS)))
        data = data[:at] + by + data[at + draw(st.sampled_from((0, 0, 1, 2, len(by)))) :]
    return data


def test_no_stream_is_read_in_two_ways() -> None:
    """Not by the balancer and a node, not by the balancer and another reader, nor whole and in pieces."""
    with scene() as there:

        @given(_streams(), st.lists(st.integers(0, 1000), max_size=4))
        def search(data: bytes, cuts: list[int]) -> None:
            check(there, data, *cuts)

        search()


def _behind(*fields: bytes, body: bytes = b"") -> tuple[bytes, bytes]:
    """Return a request with `fields`, and behind it one whose body is a request."""
    first = b"POST /first HTTP/1.1\r\nHost: a\r\n" + b"".join(each + b"\r\n" for each in fields) + b"\r\n" + body
    return first, b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)


@pytest.mark.parametrize(
    "beginning",
    [
        _behind(),
        _behind(b"Content-Length: 2", body=b"hi"),
        _behind(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        _behind(b"Connection: Upgrade", b"Upgrade: h2c"),
        _behind(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 2", body=b"hi"),
        _behind(b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        _behind(b"Connection: Upgrade", b"Upgrade: websocket"),
        _behind(b"Connection: Upgrade", b"Upgrade: tcp"),
        _behind(b"Connection: Upgrade", b"Upgrade: h2c, websocket"),
        _behind(b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket"),
        _behind(b"Connection: Upgrade", b"Upgrade:"),
    ],
    ids=lambda pair: str(pair[0][33:80]),
)
def test_a_body_never_becomes_a_request(beginning: tuple[bytes, bytes]) -> None:
    """Though its head came in one piece with a request before it, and it itself in the next.

    Of a request for a protocol that it does not know, aiohttp loses what came in one piece with it.
    """
    with scene() as there:
        requests, _ = there.attack(b"".join(beginning), SMUGGLED)
        assert b"/smuggled" not in [read.target for read in requests]
        requests, _ = there.attack(b"".join(beginning) + SMUGGLED)
        assert b"/smuggled" not in [read.target for read in requests]


GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
LONG = b"\r\n" + GET % b"first"  # an empty line is enough for the long way


@pytest.mark.parametrize("first", [GET % b"first", LONG, BODY, CHUNKED], ids=["plain", "long", "body", "chunked"])
@pytest.mark.parametrize("garbage", [b"\0", b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nbad field: x\r\n\r\n"])
def test_garbage_behind_a_request_does_not_cost_its_answer(first: bytes, garbage: bytes) -> None:
    """However it is cut, the good request is answered, then the garbage refused, and then the connection ends."""
    with scene() as there:
        data = first + garbage
        ends = range(len(first) - 4, len(first) + 1)
        for pieces in ((data,), *((data[:end], data[end:]) for end in ends)):
            requests, answers = there.attack(*pieces)
            assert [read.target for read in requests] == [b"/first"]
            assert answers == [(b"/first", 200), (b"", 400)]


@pytest.mark.parametrize(
    "last",
    [
        b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n",
        b"GET /last HTTP/1.0\r\n\r\n",
        b"GET /last HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        b"GET /last HTTP/1.0\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
        b"POST /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        CHUNKED.replace(b"/first", b"/last").replace(b"Host", b"Connection: close\r\nHost"),
    ],
    ids=str,
)
def test_what_comes_behind_the_last_request_is_not_read(last: bytes) -> None:
    """RFC 9112 9.3, 9.6: `close` ends the connection with its answer, which nothing behind it can spoil."""
    with scene() as there:
        for pieces in ((last + SMUGGLED,), (last, SMUGGLED), (last[:-1], last[-1:] + SMUGGLED), (last + b"\0",)):
            requests, answers = there.attack(*pieces)
            assert [read.target for read in requests] == [b"/last"]
            assert answers == [(b"/last", 200)]


def test_a_length_that_no_parser_can_hold_makes_no_body_of_the_next_request() -> None:
    """2**64 - 1: the node would wait for that, and take the requests of others for it."""
    with scene() as there:
        requests, answers = there.attack(
            b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n"
        )
        assert (requests, answers) == ([], [(b"", 400)])


class Deaf:
    """A server that reads no bodies: what comes as one it takes for the next request, and answers that when told to."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.go = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
                self.heard.append(target)
                if target == b"/smuggled":
                    await self.go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.mark.parametrize(
    "head",
    [
        "GET /first HTTP/1.1",
        "DELETE /first HTTP/1.1",
        "OPTIONS /first HTTP/1.1",
        "PROPFIND /first HTTP/1.1",
        "POST /first HTTP/1.1\r\nExpect: 100-continue",
    ],
)
def test_a_body_that_a_node_may_pass_over_costs_the_connection(head: str) -> None:
    """What such a node takes for a request, and answers later, must not be the answer to the next client's."""

    async def main() -> None:
        node = Deaf()
        server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
        async with balancer(server.sockets[0].getsockname()[1], stickiness="none") as front:
            caller = await front.connect()
            caller.send(f"{head}\r\nHost: a\r\nContent-Length: 35\r\n\r\n".encode() + SMUGGLED)
            assert (await asyncio.wait_for(caller.head(), WAIT_S)).startswith(b"HTTP/1.1 200 ")
            asking = asyncio.ensure_future(front.ask(b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
            await eventually(lambda: b"/next" in node.heard or asking.done(), what="the next client's request is there")
            node.go.set()
            assert (await asking).endswith(b"\r\n\r\n/next")
        server.close()

    uvloop.run(main())
