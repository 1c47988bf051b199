"""HTTP exchanges through a real front, against backends that record and answer raw bytes."""

from __future__ import annotations

import asyncio

import pytest

from cluster.member import State
from cluster.trace import is_valid
from lb.affinity import cookie_value
from tests.lb.conftest import Run
from tests.support.backends import OK, Backend, Conversation, answering, backend, hanging
from tests.support.balancer import SECRET, Balancer, balancer
from tests.support.exchanges import get, read_chunked, through
from tests.support.ports import free_port
from tests.support.waiting import eventually, lastingly

GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/a%2Fb?x=%20y+z"),
        ("GET", "//x"),
        ("GET", "/;a=b"),
        ("GET", "/a/../b/./c"),
        ("GET", "/%7euser/%C3%A9?q=%ff&&=;"),
        ("GET", "/?"),
        ("GET", "/a?b?c=d"),
        ("GET", "/a|b^c{d}"),
        ("OPTIONS", "*"),
    ],
)
def test_an_odd_target_arrives_byte_for_byte(run: Run, method: str, target: str) -> None:
    """We route by it and do not rewrite it: the node may mean something by each byte."""

    async def check(lb: Balancer, node: Backend) -> None:
        assert (await lb.ask(get(target, "Connection: close", method=method))).startswith(b"HTTP/1.1 200 OK")
        assert node.targets == [target.encode()]

    through(run, answering(OK), check)


def test_headers_go_both_ways_and_nothing_is_invented(run: Run) -> None:
    """The node sees the client's headers and where they came from; the client sees the node's, and a cookie."""
    answer = b"HTTP/1.1 203 Odd\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-N: \xe9\r\nContent-Length: 1\r\n\r\nx"

    async def check(lb: Balancer, node: Backend) -> None:
        request = get("/", "X-Mine: 1", "X-Forwarded-For: 6.6.6.6", "Connection: close, x-mine", "TE: trailers")
        head, _, body = (await lb.ask(request)).partition(b"\r\n\r\n")
        assert body == b"x"
        *lines, cookie = head.split(b"\r\n")
        assert lines == [
            b"HTTP/1.1 203 Odd",
            b"Set-Cookie: a=1",
            b"set-cookie: b=2",
            b"X-N: \xe9",
            b"Content-Length: 1",
            b"Connection: close",
        ]
        assert cookie.startswith(b"Set-Cookie: flotilla_node=n0.")
        [trace] = node.headers()[b"traceparent"]
        assert is_valid(trace)
        assert node.headers() == {
            b"host": [b"h"],
            b"traceparent": [trace],
            b"x-forwarded-for": [b"127.0.0.1"],
            b"x-forwarded-proto": [b"http"],
            b"x-forwarded-host": [b"h"],
        }

    through(run, answering(answer), check)


def test_a_trusted_proxys_forwarded_for_is_continued(run: Run) -> None:
    """And only such a one's; see test_affinity.py for who the client then is.  No client's `Connection` removes it."""

    async def check(lb: Balancer, node: Backend) -> None:
        await lb.ask(get("/", "X-Forwarded-For: 198.51.100.7", "Connection: close"))
        assert node.headers()[b"x-forwarded-for"] == [b"198.51.100.7, 127.0.0.1"]
        named = "X-Forwarded-For, X-Forwarded-Proto, X-Real-IP"
        await lb.ask(get("/", "X-Forwarded-For: 198.51.100.7", f"Connection: close, {named}", "X-Real-IP: x"))
        assert node.headers()[b"x-forwarded-for"] == [b"198.51.100.7, 127.0.0.1"]
        assert node.headers()[b"x-real-ip"] == [b"x"]

    through(run, answering(OK), check, trusted_proxies=["127.0.0.0/8"])


def test_one_connection_carries_request_after_request(run: Run) -> None:
    """Keep-alive to the client, and the node's connection used again."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for number in range(3):
            caller.send(get(f"/{number}"))
            head, body = await caller.answer()
            assert b"connection" not in head.lower()
            assert body == b"ok"
        assert node.targets == [b"/0", b"/1", b"/2"]
        assert len(node.conversations) == 1
        caller.close()

    through(run, answering(OK), check)


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    """RFC 9112 9.3.2."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        target = head.split(b" ")[1]
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(b"".join(get(f"/{number}") for number in range(40)))
        assert [(await caller.answer())[1] for _ in range(40)] == [b"/%d" % number for number in range(40)]
        caller.close()

    through(run, talk, check)


def test_a_client_that_speaks_http_1_0_gets_what_it_understands(run: Run) -> None:
    """No chunks: the body ends with the connection.  The node is spoken to in HTTP/1.1 with a Host."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

    async def check(lb: Balancer, node: Backend) -> None:
        head, _, body = (await lb.ask(b"GET /old HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
        assert (body, b"Connection: close" in head, b"chunked" in head) == (b"abc", True, False)
        assert node.heads[0].startswith(b"GET /old HTTP/1.1\r\nHost: 127.0.0.1:")

    through(run, answering(answer), check)


def test_a_client_that_speaks_http_1_0_may_keep_its_connection(run: Run) -> None:
    """If it says so and the body has a length."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(get("/", "Connection: keep-alive", version="1.0"))
            head, _ = await caller.answer()
            assert b"Connection: keep-alive" in head
        caller.close()

    through(run, answering(OK), check)


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b"Content-Length: 99"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"200 OK"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"204 No Content"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 99\r\n\r\n", b"ETag: x"),
        ("POST", b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", b"Content-Length: 0"),
    ],
)
def test_an_answer_without_a_body_ends_with_its_head(run: Run, method: str, answer: bytes, expected: bytes) -> None:
    """And the connections on both sides serve the next request."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(get("/", method=method))
            assert expected in await caller.head()
        assert len(node.conversations) == 1
        caller.close()

    through(run, answering(answer), check)


def test_an_answer_that_lasts_until_the_node_closes_is_chunked(run: Run) -> None:
    """So that the client can tell its end, and keeps its connection."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        conversation.writer.close()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get())
        assert b"Transfer-Encoding: chunked" in await caller.head()
        assert await caller.reader.readuntil(b"0\r\n\r\n") == b"9\r\nall of it\r\n0\r\n\r\n"
        caller.send(get())
        await caller.head()
        caller.close()

    through(run, talk, check)


def test_each_event_of_a_stream_arrives_at_once(run: Run) -> None:
    """Server-sent events and long polling: nothing waits for more."""
    steps: asyncio.Queue[bytes] = asyncio.Queue()

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while event := await steps.get():
            await conversation.send(b"%x\r\n%b\r\n" % (len(event), event))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get())
        await caller.head()
        for number in range(5):
            event = b"data: %d\n\n" % number
            steps.put_nowait(event)
            async with asyncio.timeout(30):
                assert await caller.reader.readuntil(b"\n\n\r\n") == b"%x\r\n%b\r\n" % (len(event), event)
        steps.put_nowait(b"")
        caller.close()

    through(run, talk, check)


def test_bodies_go_up_as_they_come(run: Run) -> None:
    """By length and in chunks, whole and in pieces, one after the other on one connection."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"chunked" in head:
            body = await read_chunked(conversation.reader)
        else:
            body = await conversation.reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Content-Length: 5", method="POST") + b"whole")
        assert (await caller.answer())[1] == b"whole"
        caller.send(get("/", "Content-Length: 6", method="PUT"))
        for piece in (b"pi", b"ec", b"es"):
            await eventually(lambda: len(node.heads) == 2)
            caller.send(piece)
        assert (await caller.answer())[1] == b"pieces"
        caller.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n")
        assert (await caller.answer())[1] == b"abc"
        caller.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
        await eventually(lambda: len(node.heads) == 4)
        caller.send(b"2\r\nde\r\n0\r\n\r\n")
        assert (await caller.answer())[1] == b"abcde"
        caller.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n")
        assert (await caller.answer())[1] == b""
        assert len(node.conversations) == 1
        caller.close()

    through(run, talk, check)


def test_a_100_continue_is_the_nodes(run: Run) -> None:
    """RFC 9110 10.1.1: the client waits for it, and the node decides."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        assert b"Expect: 100-continue" in head
        await conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await conversation.reader.readexactly(4) == b"body"
        await conversation.send(OK)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert await caller.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.send(b"body")
        assert (await caller.answer())[1] == b"ok"
        caller.close()

    through(run, talk, check)


def test_early_hints_are_kept_from_a_client_that_cannot_know_them(run: Run) -> None:
    """HTTP/1.0 has no 1xx (RFC 9110 15.2)."""
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK

    async def check(lb: Balancer, node: Backend) -> None:
        assert (await lb.ask(get("/", "Connection: close"))).startswith(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        assert (await lb.ask(get("/", version="1.0"))).startswith(b"HTTP/1.1 200 OK")

    through(run, answering(answer), check)


def test_an_answer_that_comes_before_the_upload_is_over_is_passed_on(run: Run) -> None:
    """A node that refuses a large body says so at once; the connections end, as nobody wants the rest."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Content-Length: 1000000", method="POST") + b"x" * 1000)
        head, body = await caller.answer()
        assert (b"413" in head, b"Connection: close" in head, body) == (True, True, b"no")
        await eventually(lambda: node.conversations[0].ended.is_set())
        caller.close()

    through(run, talk, check)


def test_a_node_that_was_sent_half_a_body_is_sent_no_other_request_behind_it(run: Run) -> None:
    """It would take that for the rest of the body, and anybody's request for anybody else's."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(OK)

    async def check(lb: Balancer, node: Backend) -> None:
        first = await lb.connect()
        first.send(get("/", "Content-Length: 1000000", method="POST"))
        assert (await first.answer())[1] == b"ok"
        assert (await lb.ask(get("/other", "Connection: close"))).startswith(b"HTTP/1.1 200 ")
        assert len(node.conversations) == 2
        first.close()

    through(run, talk, check)


def test_an_answer_of_our_own_ends_the_connection_of_a_client_that_speaks_http_1_0(run: Run) -> None:
    """Whatever it asked for: it may take the end of the connection for the end of the answer (RFC 9112 9.3)."""

    async def main() -> None:
        async with balancer() as lb:
            head, _, body = (await lb.ask(get("/", "Connection: keep-alive", version="1.0"))).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Connection: close" in head
            assert body == b"503 Service Unavailable\n"

    run(main)


def test_a_client_that_goes_away_cancels_the_exchange(run: Run) -> None:
    """The node learns it at once and need not work for nobody."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get())
        await eventually(lambda: node.heads)
        assert lb.node().exchanges == 1
        caller.close()
        await eventually(lambda: node.conversations[0].ended.is_set())
        await eventually(lambda: lb.node().exchanges == 0 and lb.front.connections == 0)

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.until_closed()

    through(run, talk, check)


def test_a_client_that_goes_away_in_the_middle_of_its_upload_cancels_it(run: Run) -> None:
    """The node must not take the part for the whole."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Content-Length: 100", method="POST") + b"half")
        await eventually(lambda: node.heads)
        caller.close()
        await eventually(lambda: node.conversations[0].ended.is_set())

    through(run, talk, check)


BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "end": b"HTTP/1.0 200 OK\r\n\r\nhalf",
}


@pytest.mark.parametrize("kind", list(BROKEN))
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_broken_off_answer_never_ends_cleanly(run: Run, kind: str, version: str) -> None:
    """The client must not take the half for the whole, however it tells the end."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(BROKEN[kind])
        await eventually(lambda: go.is_set())
        conversation.reset()

    go = asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get(version=version))
        await caller.reader.readuntil(b"half")
        go.set()
        with pytest.raises(ConnectionResetError):
            await caller.rest()
        caller.close()

    through(run, talk, check)


def test_a_node_that_closes_in_the_middle_of_an_answer_is_told_from_one_that_ends(run: Run) -> None:
    """Without a reset, too, where the length shows it."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(BROKEN["length"])
        conversation.writer.close()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get())
        with pytest.raises(ConnectionResetError):
            await caller.rest()
        caller.close()

    through(run, talk, check)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
)
def test_a_node_that_does_not_speak_http_is_a_502(run: Run, answer: bytes) -> None:
    """The client's connection lives on; the node stays in until a connect or a probe fails."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(answer)
        conversation.writer.close()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Content-Length: 1", method="POST") + b"x")
        head, body = await caller.answer()
        assert (head.startswith(b"HTTP/1.1 502 "), body) == (True, b"502 Bad Gateway\n")
        assert lb.node().state is State.READY
        assert lb.metrics.totals.nodes["n0"].exchanges[4] == 1
        caller.close()

    through(run, talk, check)


def test_a_node_that_does_not_answer_in_time_is_a_504(run: Run) -> None:
    """And its connection is closed, so that it may notice."""

    async def main() -> None:
        async with hanging() as node, balancer(node.port, answer_timeout_s=0.2) as lb:
            assert (await lb.ask(GET)).startswith(b"HTTP/1.1 504 ")
            await eventually(lambda: node.conversations[0].ended.is_set())
            upload = get("/", "Content-Length: 200000", "Connection: close", method="POST") + b"x" * 200_000
            assert (await lb.ask(upload)).startswith(b"HTTP/1.1 504 ")

    run(main)


def test_a_slow_upload_is_no_slow_answer(run: Run) -> None:
    """The node's time begins when it has the request."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.reader.readexactly(8)
        await conversation.send(OK)

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Content-Length: 8", method="POST"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(8):
            await lastingly(lambda: not caller.reader.at_eof(), 0.1)
            caller.send(b"x")
        assert loop.time() - began > 0.6
        assert (await caller.answer())[1] == b"ok"
        caller.close()

    through(run, talk, check, answer_timeout_s=0.5)


def test_a_client_that_stops_in_the_middle_of_its_upload_is_told_so(run: Run) -> None:
    """Otherwise it would hold a node's connection for ever."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        answer = await lb.ask(get("/", "Content-Length: 100", method="POST") + b"half")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in answer
        assert node.conversations[0].ended.is_set()

    through(run, talk, check, idle_timeout_s=0.2)


def test_a_client_that_does_not_read_its_answer_is_let_go(run: Run) -> None:
    """It would hold a node's connection for ever; a stream that is only quiet is not that."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"/quiet" in head:
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
            await go.wait()
            await conversation.send(b"x")
            return
        await conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await conversation.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    go = asyncio.Event()

    async def check(lb: Balancer, node: Backend) -> None:
        quiet, deaf = await lb.connect(), await lb.connect()
        quiet.send(get("/quiet"))
        await quiet.head()
        deaf.send(get("/"))
        await eventually(lambda: len(node.conversations) == 2)
        await eventually(lambda: node.conversations[1].ended.is_set())
        await eventually(lambda: lb.front.connections == 1)
        go.set()
        assert await quiet.reader.readexactly(1) == b"x"

    through(run, talk, check, idle_timeout_s=0.3)


def test_a_malformed_chunk_is_the_clients_fault(run: Run) -> None:
    """400 to the client; the node sees no end of a body that had none."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.until_closed()

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
        await eventually(lambda: node.heads)
        caller.send(b"zzz\r\n")
        assert (await caller.rest()).startswith(b"HTTP/1.1 400 ")
        caller.close()

    through(run, talk, check)


@pytest.mark.parametrize(
    "request_",
    [
        get("h:443", method="CONNECT"),
        get("/", method="TRACE"),
        get("/", "Transfer-Encoding: gzip, chunked", method="POST") + b"0\r\n\r\n",
    ],
)
def test_what_a_reverse_proxy_does_not_carry_is_a_501(run: Run, request_: bytes) -> None:
    """And nothing of it reaches a node."""

    async def check(lb: Balancer, node: Backend) -> None:
        answer = await lb.ask(request_)
        assert answer.startswith(b"HTTP/1.1 501 ")
        assert not node.heads

    through(run, answering(OK), check)


def test_a_request_that_shall_go_no_further_is_answered_here(run: Run) -> None:
    """RFC 9110 7.6.2: and its connection goes on."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(get("*", "Max-Forwards: 0", method="OPTIONS"))
            head, body = await caller.answer()
            assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"200 OK\n")
        assert not node.heads
        caller.send(get("*", "Max-Forwards: 1", method="OPTIONS"))
        assert (await caller.answer())[1] == b"ok"
        assert node.headers()[b"max-forwards"] == [b"0"]
        assert not lb.metrics.totals.rejected

    through(run, answering(OK), check)


def test_a_node_that_refuses_is_out_and_the_next_one_answers(run: Run) -> None:
    """Also a POST, for nothing of it was sent; the client gets the cookie of the node that answered."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        assert await conversation.reader.readexactly(1) == b"x"
        await conversation.send(OK)

    async def main() -> None:
        async with backend(talk) as node, balancer(free_port(), node.port) as lb:
            cookie = f"Cookie: flotilla_node={cookie_value('n0', SECRET.encode())}"
            caller = await lb.connect()
            for _ in range(3):
                caller.send(get("/", cookie, "Content-Length: 1", method="POST") + b"x")
                head, _ = await caller.answer()
                assert head.startswith(b"HTTP/1.1 200 ")
                assert b"flotilla_node=n1." in head
            assert [(change.node, change.after) for change in lb.changes] == [("n0", State.DOWN)]
            assert lb.metrics.totals.nodes["n0"].connect_failures == 1

    run(main)


def test_without_any_node_the_answer_is_503_at_once(run: Run) -> None:
    """With Retry-After, and on a connection that lives on; also when the last one is found dead just now."""

    async def main() -> None:
        async with balancer(free_port()) as lb:
            caller = await lb.connect()
            for _ in range(2):
                caller.send(get())
                async with asyncio.timeout(30):
                    head, _ = await caller.answer()
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: 1\r\n" in head
            assert lb.metrics.totals.rejected == {"no_node": 2}
            caller.send(get(method="HEAD"))
            assert b"Content-Length: 24" in await caller.head()
            caller.close()

    run(main)


def test_a_safe_request_is_asked_again_elsewhere_when_its_node_dies(run: Run) -> None:
    """Once: what kills one node must not kill them all."""

    async def dies(conversation: Conversation, head: bytes) -> None:
        conversation.reset()

    async def main() -> None:
        async with backend(dies) as bad, backend(answering(OK)) as good, balancer(bad.port, good.port) as lb:
            for _ in range(10):
                assert (await lb.ask(GET)).startswith(b"HTTP/1.1 200 ")
            assert len(good.heads) == 10
            assert lb.node("n0").state is not State.DOWN  # it answers its probes
        async with (
            backend(dies) as one,
            backend(dies) as two,
            backend(dies) as three,
            balancer(one.port, two.port, three.port) as lb,
        ):
            assert (await lb.ask(GET)).startswith(b"HTTP/1.1 502 ")
            assert len(one.heads) + len(two.heads) + len(three.heads) == 2
            post = get("/", "Content-Length: 0", "Connection: close", method="POST")
            assert (await lb.ask(post)).startswith(b"HTTP/1.1 502 ")
            assert len(one.heads) + len(two.heads) + len(three.heads) == 3

    run(main)


def test_a_kept_connection_that_the_node_has_closed_is_not_noticed_by_the_client(run: Run) -> None:
    """Servers close idle connections whenever they like."""

    async def once(conversation: Conversation, head: bytes) -> None:
        await conversation.send(OK)
        if len(conversations) % 2:
            conversation.writer.close()
        conversations.append(conversation)

    conversations: list[Conversation] = []

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(10):
            caller.send(get())
            assert (await caller.answer())[0].startswith(b"HTTP/1.1 200 ")
        caller.close()

    through(run, once, check)


def test_a_node_that_says_close_is_not_used_again(run: Run) -> None:
    """And that Connection header is its own affair."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        for _ in range(2):
            caller.send(get())
            assert b"onnection" not in (await caller.answer())[0]
        assert len(node.conversations) == 2
        caller.close()

    through(run, answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")), check)


def test_an_h2c_upgrade_is_an_ordinary_request(run: Run) -> None:
    """We do not speak it, and a proxy drops what it does not speak (RFC 9110 7.8).  Nothing follows it."""

    async def check(lb: Balancer, node: Backend) -> None:
        caller = await lb.connect()
        caller.send(get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"))
        head, _ = await caller.answer()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in head
        assert await caller.rest() == b""
        assert not {b"upgrade", b"connection", b"http2-settings"} & set(node.headers())
        caller.close()

    through(run, answering(OK), check)
