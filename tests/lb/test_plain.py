"""What counts as plain, and that it means the same to whoever reads it by the whole grammar."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser
from hypothesis import example, given
from hypothesis import strategies as st

from lb import plain
from lb.headers import (
    Via,
    answer_head,
    field_lines,
    framing,
    is_websocket_upgrade,
    onward_fields,
    request_head,
    values,
)
from lb.strict import check_answer, read_strictly

VIA = Via("192.0.2.1", trusted=False)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """What aiohttp's parsers ask for, and do not use here."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def onward(head: bytes) -> tuple[bytes, int | None, bool] | None:
    """Return the head that a node gets of a plain request, the length of its body, and whether that is chunked."""
    line, _, block = head[:-4].partition(b"\r\n")
    read_line, read_fields = plain.request_line(line), plain.request_fields(block)
    if read_line is None or read_fields is None or not plain.may_have_body(read_line[0], *read_fields[1:]):
        return None
    fields, _ = onward_fields(read_fields[0], VIA, chunked=read_fields[2])
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (*read_line, field_lines(fields)), *read_fields[1:]


METHODS = (b"GET", b"POST", b"HEAD", b"PUT", b"get")
MARKS = (b" ", b"  ", b"\t", b"\r\n", b"\n", b"\r", b":", b": ", b" :", b",", b";", b"#", b"*", b"\0", b"\x7f", b"\xff")
PARTS = (b"/", b"/a?b=c", b"HTTP/1.1", b"HTTP/1.0", b"Host", b"a", b"1", b"0", b"00", b"-1", b"+")
FIELDS = (
    *(b"Host: a", b"Host: a:80", b"host:b", b"Host: a b", b"X: y", b"X:", b"TE: a", b"Cookie: a=b", b"Keep-Alive: 5"),
    *(b"Content-Length: 1", b"Content-Length: 01", b"Content-Length:", b"Transfer-Encoding: chunked"),
    *(b"transfer-encoding:Chunked ", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:"),
    *(b"Connection: keep-alive", b"Connection: close, x", b"Upgrade: websocket", b"Expect: 100-continue"),
    *(b"X-Forwarded-For: 1.2.3.4", b"x_forwarded_for: 1", b"Proxy-Authorization: x"),
    *(b"traceparent: 00-x", b"tracestate: a=b"),
    *(b"User-Agent: x", b"content-type: a/b", b"ETag: c", b"Max-Forwards: 1", b"Sec-WebSocket-Key1: x"),
)
PIECES = st.sampled_from([*METHODS, *MARKS, *PARTS, *FIELDS])
JOINED = st.lists(PIECES, max_size=5).map(b"".join)
FIELD = st.one_of(PIECES, JOINED, st.binary(max_size=12))
LINE = st.one_of(st.just(b"GET / HTTP/1.1"), st.just(b"POST /a?sid=x HTTP/1.1"), JOINED)
HEAD = st.builds(lambda line, fields: b"\r\n".join([line, *fields]) + b"\r\n\r\n", LINE, st.lists(FIELD, max_size=6))


@given(head=HEAD)
@example(head=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
@example(head=b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
@example(head=b"POST /x HTTP/1.1\r\nHost: a\r\ntransfer-encoding:Chunked \r\n\r\n")
@example(head=b"GET / HTTP/1.1\r\nHost: a\r\nX:  padded \t\r\nx_forwarded_for: 1\r\nKeep-Alive: 5\r\n\r\n")
@example(head=b"HEAD / HTTP/1.1\r\nhost:\xe9\r\n\r\n")
@example(head=b"GET / HTTP/1.1\r\nHost: a\r\nETag: c\r\netag: c\r\n\r\n")
@example(head=b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key1: x\r\n\r\n")
def test_what_is_plain_is_what_the_long_way_reads(loop: asyncio.AbstractEventLoop, head: bytes) -> None:
    """Whatever bytes come: the same method, target, fields and framing, or no plain request."""
    plainly = onward(head) if head.find(b"\r\n\r\n") == len(head) - 4 else None
    if plainly is None:
        return
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    messages, upgraded, tail = parser.feed_data(head + (b"0\r\n\r\n" if plainly[2] else b"x" * (plainly[1] or 0)))
    assert (len(messages), upgraded, tail) == (1, False, b"")
    request, body = messages[0]
    target, headers = read_strictly(request.method, request.path, request.version, request.raw_headers)
    assert request_head(request.method, target, headers, VIA, host="", chunked=plainly[2]) == plainly[0]
    assert not request.should_close
    assert request.chunked is plainly[2]
    assert body.is_eof()
    assert body.total_bytes == (plainly[1] or 0)


UPGRADE = (b"Host: a", b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Key: k")
UPGRADES = st.builds(
    lambda line, fields: b"\r\n".join([line, *fields]) + b"\r\n\r\n",
    st.one_of(st.just(b"GET /ws?a HTTP/1.1"), LINE),
    st.lists(FIELD, max_size=3).flatmap(lambda more: st.permutations([*UPGRADE, *more])),
)


@given(head=UPGRADES, early=st.binary(max_size=3))
@example(head=b"GET / HTTP/1.1\r\n" + b"\r\n".join(UPGRADE) + b"\r\n\r\n", early=b"\x81\x80")
@example(
    head=b"GET / HTTP/1.1\r\n" + b"\r\n".join((*UPGRADE, b"X-Forwarded-For: a", b"Cookie:")) + b"\r\n\r\n", early=b""
)
@example(head=b"GET / HTTP/1.1\r\n" + b"\r\n".join((*UPGRADE, *[b"User-Agent: a"] * 2)) + b"\r\n\r\n", early=b"")
def test_an_upgrade_that_is_plain_is_what_the_long_way_reads(
    loop: asyncio.AbstractEventLoop, head: bytes, early: bytes
) -> None:
    """The same head goes to the node, with the same bytes behind it."""
    upgrade = plain.read_upgrade(head + early)
    if upgrade is None:
        return
    messages, upgraded, tail = HttpRequestParser(BaseProtocol(loop), loop, 2**16).feed_data(head + early)
    assert (len(messages), upgraded, tail) == (1, True, upgrade.early)
    assert upgrade.early.endswith(early)
    request, body = messages[0]
    assert is_websocket_upgrade(request.method, request.version, request.raw_headers)
    target, headers = read_strictly(request.method, request.path, request.version, request.raw_headers)
    assert (target, list(headers)) == (upgrade.target, list(upgrade.headers))
    assert upgrade.cookies == values(headers, b"cookie")
    assert upgrade.forwarded_for == values(headers, b"x-forwarded-for")
    assert body.is_eof()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET", b"POST"),
        (b"1.1", b"1.0"),
        (b" /", b" http://a/"),
        (b"Host: a", b"Host: a b"),
        (b"Host: a\r\n", b""),
        (b"Host: a", b"Host: a\r\nHost: a"),
        (b"Upgrade: WebSocket", b"Upgrade: websocket, h2c"),
        (b"Upgrade: WebSocket", b"Upgrade: WebSocket\r\nUpgrade: WebSocket"),
        (b"keep-alive, Upgrade", b"keep-alive"),
        (b"keep-alive, Upgrade", b"Upgrade\r\nConnection: close"),
        (b"Host: a", b"Host: a\r\nContent-Length: 0"),
        (b"Host: a", b"Host: a\r\nTransfer-Encoding: chunked"),
        (b"Host: a", b"Host: a\r\nExpect: 100-continue"),
        (b"Host: a", b"Host: a\r\n folded"),
        (b"\r\n\r\n", b"\r\n"),
    ],
)
def test_an_upgrade_that_is_not_plain(old: bytes, new: bytes) -> None:
    """It goes the long way, where it is understood or refused."""
    head = b"GET / HTTP/1.1\r\n" + b"\r\n".join(UPGRADE) + b"\r\n\r\n"
    assert plain.read_upgrade(head) is not None
    assert old in head
    assert plain.read_upgrade(head.replace(old, new, 1)) is None


STATUS = st.one_of(st.just(b"HTTP/1.1 200 OK"), JOINED, st.just(b"HTTP/1.1 304 "))
ANSWER_FIELD = st.one_of(FIELD, st.sampled_from([b"Content-Length: 1", b"Content-Length: 0", b"Set-Cookie: a=b"]))
ANSWER = st.builds(
    lambda line, fields: b"\r\n".join([line, *fields]) + b"\r\n\r\n", STATUS, st.lists(ANSWER_FIELD, max_size=5)
)


@given(head=ANSWER, to_head=st.booleans())
@example(head=b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", to_head=False)
@example(head=b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", to_head=False)
@example(head=b"HTTP/1.1 304 \r\nContent-Length: 10\r\n\r\n", to_head=False)
@example(head=b"HTTP/1.1 200 \xe9\r\nContent-Length: 10\r\nX: \xff\r\n\r\n", to_head=True)
def test_an_answer_that_is_plain_is_what_the_long_way_reads(
    loop: asyncio.AbstractEventLoop, head: bytes, to_head: bool
) -> None:
    """The same head goes to the client, with a body of the same length behind it."""
    if head.find(b"\r\n\r\n") != len(head) - 4 or (answer := plain.read_answer(head, to_head=to_head)) is None:
        return
    parser = HttpResponseParser(
        BaseProtocol(loop), loop, 2**16, response_with_body=not to_head, read_until_eof=True, auto_decompress=False
    )
    messages, upgraded, tail = parser.feed_data(head + (b"0\r\n\r\n" if answer.chunked else b"x" * answer.length))
    assert (len(messages), upgraded, tail) == (1, False, b"")
    message, body = messages[0]
    check_answer(message.code, message.reason, message.version, message.raw_headers, chunked=message.chunked)
    method = "HEAD" if to_head else "GET"
    frame = framing(method, message.code, (1, 1), message.raw_headers, close=False)
    assert frame.chunked is answer.chunked
    assert answer_head(message.code, message.reason, message.raw_headers, frame, (1, 1), None) == answer.head + b"\r\n"
    # Without a length aiohttp waits for the end of the connection, also where no body can be.
    assert message.should_close is not answer.keeps or not (answer.length or answer.chunked)
    assert body.is_eof()
    assert body.total_bytes == answer.length


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 01\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHTTP2-Settings: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * plain.MOST_FIELDS + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * plain.MOST_HEAD_BYTES + b"\r\n\r\n",
    ],
)
def test_a_request_that_is_not_plain(head: bytes) -> None:
    """Some of these are right, some wrong: the long way knows."""
    assert onward(head) is None


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 600 No\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: y\r\n z\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_plain(head: bytes) -> None:
    """Framing by the end of the connection, interim answers and the odd: the long way's."""
    assert plain.read_answer(head, to_head=False) is None


def test_an_answer_to_head_and_one_without_a_body_have_none() -> None:
    """Whatever length they name: it is that of another answer (RFC 9110 8.6)."""
    assert plain.read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", to_head=True) == plain.PlainAnswer(
        200, b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n", 0, keeps=True
    )
    assert plain.read_answer(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", to_head=False) == (
        plain.PlainAnswer(304, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n", 0, keeps=True)
    )
    assert plain.read_answer(b"HTTP/1.1 204 No Content\r\n\r\n", to_head=False) == (
        plain.PlainAnswer(204, b"HTTP/1.1 204 No Content\r\n", 0, keeps=True)
    )


def test_a_long_head_is_not_remembered_and_read_all_the_same() -> None:
    """What is remembered has a bound in bytes, too."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX: " + b"y" * 2000 + b"\r\n\r\n"
    before = plain._remembered.cache_info()
    answer = plain.read_answer(head, to_head=False)
    assert answer is not None
    assert answer.length == 7
    assert plain._remembered.cache_info() == before


@pytest.mark.parametrize(
    ("data", "may_become"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r", True),
        (b"GET / HTT", False),
        (b"\x16\x03\x01", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0", False),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * plain.MOST_HEAD_BYTES, False),
    ],
)
def test_a_head_is_waited_for_only_while_it_may_become_plain(data: bytes, may_become: bool) -> None:
    """What is wrong already is for the long way to refuse at once."""
    assert plain.is_beginning(data) is may_become
