"""Harnesses of what the balancer reads by itself: plain requests and answers, chunks, TLS hellos, certificates."""

from __future__ import annotations

import re
from typing import cast

import h11

from cluster.origin import canonical, canonical_pattern
from lb.chunks import BadChunk, Chunks
from lb.client_hello import ALPN, Hello, Opening, opening
from lb.guards import BodyLimits
from lb.headers import answer_head, framing, is_websocket_upgrade, values
from lb.last_frame import close_code
from lb.link import Link
from lb.luggage import Luggage
from lb.origins import AllowedOrigins
from lb.plain import (
    MOST_HEAD_BYTES,
    is_beginning,
    may_have_body,
    read_answer,
    read_upgrade,
    request_fields,
    request_line,
)
from lb.strict import check_answer, read_strictly
from lb.upload import Upload
from lb.x509 import certificates_in
from node.reader import Close, ProtocolError, Reader
from tests.fuzz.harness import Harness, cuts
from tests.fuzz.web import parsed_answer, parsed_request, requests_in
from tests.support.websockets import client_frame, close, text


def check_plain_request(data: bytes) -> None:
    """A request that is plain is for the long way exactly the same one; and every beginning of one may become one."""
    head, end, _ = data.partition(b"\r\n\r\n")
    first, _, block = head.partition(b"\r\n")
    line, fields = request_line(first), request_fields(block)
    if not end or line is None or fields is None or not may_have_body(line[0], *fields[1:]):
        return
    message = parsed_request(head + end)
    assert message is not None
    method, target = line[0].decode(), line[1].decode()
    assert (message.method, message.path, message.version) == (method, target, (1, 1))
    assert read_strictly(method, target, message.version, message.raw_headers) == (target, message.raw_headers)
    assert list(message.raw_headers) == list(fields[0])
    assert not message.upgrade
    assert message.chunked == fields[2]
    assert not message.should_close
    lengths = values(message.raw_headers, b"content-length")
    assert [int(length) for length in lengths] == ([] if fields[1] is None else [fields[1]])
    if len(head) < MOST_HEAD_BYTES:
        start = len(first) + 2
        assert all(is_beginning(head[:at]) for at in range(start, len(head) + 1))


def check_plain_upgrade(data: bytes) -> None:
    """A plain request for a WebSocket is exactly that one for the long way; what comes behind it is not looked at."""
    upgrade = read_upgrade(data)
    if upgrade is None:
        return
    message = parsed_request(data[: len(data) - len(upgrade.early)])
    assert message is not None
    assert is_websocket_upgrade(message.method, message.version, message.raw_headers)
    fields = (upgrade.target, list(upgrade.headers))
    assert (message.path, list(message.raw_headers)) == fields
    assert read_strictly("GET", message.path, message.version, message.raw_headers) == (
        message.path,
        message.raw_headers,
    )
    assert upgrade.cookies == values(message.raw_headers, b"cookie")
    assert upgrade.forwarded_for == values(message.raw_headers, b"x-forwarded-for")


def check_plain_answer(data: bytes) -> None:
    """An answer that is plain is the same on the long way, framed alike."""
    head, end, _ = data.partition(b"\r\n\r\n")
    for method in ("GET", "HEAD"):
        plain = read_answer(head + end, to_head=method == "HEAD") if end else None
        if plain is None:
            continue
        message = parsed_answer(head + end)
        assert message is not None
        if plain.chunked and not message.chunked:
            continue  # a tab behind the coding, which the long way refuses
        check_answer(message.code, message.reason, message.version, message.raw_headers, chunked=message.chunked)
        frame = framing(method, message.code, (1, 1), message.raw_headers, close=False)
        reason = message.reason.strip(" \t")  # the only difference, and nobody's
        theirs = answer_head(message.code, reason, message.raw_headers, frame, (1, 1), None)
        assert (plain.status, plain.head + b"\r\n") == (message.code, theirs)
        assert plain.chunked == frame.chunked
        lengths = values(message.raw_headers, b"content-length")
        assert plain.length == (int(lengths[0]) if lengths and frame.body else 0)
        assert not (plain.keeps and method == "GET" and message.should_close)


_Body = tuple[bytes, bytes | None]
"""What came of a body, and what came behind it; None: it has not ended."""


def check_chunks(data: bytes) -> None:
    """What passes is the same however it is cut, and another reader finds in it what it finds in what came."""
    found = _passed([data])
    for pieces in cuts(data):
        assert _passed(pieces) == found
    if found is None:
        return
    passed, rest = found
    read = _theirs(passed)
    assert read is not None, passed
    assert read[1] == (None if rest is None else b"")
    theirs = _theirs(data)
    if theirs is not None:
        assert (read[0], rest) == theirs


_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_NO_LIMITS = BodyLimits(most_bytes=0, idle_s=1.0, whole_s=0.0, bytes_per_s=0)


def check_luggage(data: bytes) -> None:
    """What goes on of a request's chunks is what came; and from any byte the long way finds, and sends, the rest."""
    luggage = Luggage(_POST, None, _NO_LIMITS)
    passes = luggage.take(data)
    if passes is None:
        return
    theirs = _theirs(data)
    assert theirs is not None
    body, rest = theirs
    assert (luggage.received, luggage.ended, luggage.rest) == (len(body), rest is not None, rest or b"")
    assert passes + luggage.rest == data[: len(passes) + len(luggage.rest)]
    expected = body, None if rest is None else b""
    assert _theirs(passes) == expected
    for at in range(len(data) - len(luggage.rest)):
        assert _theirs(_taken_over(data[:at], data[at : len(data) - len(luggage.rest)])) == expected


def _taken_over(before: bytes, behind: bytes) -> bytes:
    """Return what a node gets of a body if the long way takes over between these two."""
    luggage = Luggage(_POST, None, _NO_LIMITS)
    passes = luggage.take(before)
    assert passes is not None
    left = luggage.remainder(0.0)
    (request,) = requests_in(left.request + behind)
    message, stream = request
    assert message.chunked
    upload = Upload(stream, cast(Link, None), chunked=True, limits=_NO_LIMITS, remainder=left)
    content = b"".join(stream._buffer)
    return passes + left.stand.owed + upload._framed(content) + (upload._end if stream.is_eof() else b"")


def _passed(pieces: list[bytes]) -> _Body | None:
    chunks, body, rest = Chunks(), b"", b""
    try:
        for piece in pieces:
            if chunks.ended:
                rest += piece
            else:
                body += chunks.feed(piece)
                rest += chunks.rest
    except BadChunk as exc:
        assert str(exc)
        return None
    return body, rest if chunks.ended else None


def _theirs(data: bytes) -> _Body | None:
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body = b""
    try:
        while True:
            match reader.next_event():
                case h11.Data() as piece:
                    body += bytes(piece.data)
                case h11.EndOfMessage():
                    return body, reader.trailing_data[0]
                case h11.NEED_DATA:
                    return body, None
    except h11.RemoteProtocolError:
        return None


def check_hello(data: bytes) -> None:
    """What a connection begins with is told once, from as many bytes as were asked for, and never otherwise."""
    found, size = opening(data[:0]), 0
    while isinstance(found, int):
        assert found > size
        size = found
        if size > len(data):
            assert opening(data) == found
            return
        found = opening(data[:size])
    assert opening(data) == found
    if isinstance(found, Hello):
        assert data[0] == 0x16
        assert not found.protocols or ALPN in found.protocols
    elif found is Opening.OTHER_PROTOCOL:
        assert data[0] == 0x16
    elif found is Opening.HTTP:
        assert data[:3].isupper()


def check_last_frame(data: bytes) -> None:
    """If all that was read is frames up to a close frame, its code is told; and else never one that may not be sent."""
    code = close_code(data, masked=True)
    assert code is None or code == 1005 or 1000 <= code < 5000
    reader, events = Reader(len(data)), []
    reader.feed(data)
    try:
        while (event := reader.next()) is not None:
            events.append(event)
            if isinstance(event, Close):
                break
    except ProtocolError:
        return
    if events and isinstance(events[-1], Close):
        assert code == (events[-1].code if not reader.half_read().unread else None)


def check_origin(data: bytes) -> None:
    """An origin has one spelling, and a page is let in only if the allowed list names just that."""
    value = data.decode("latin-1")
    name = canonical(value)
    if name is not None:
        assert canonical(name) == name
    allowed = AllowedOrigins.of(["https://a.example", "https://*.b.example:8443", "null"])
    if allowed.allow(data):
        assert re.fullmatch(r"(?i:null|https://a\.example(:0*443)?|https://[a-z0-9_.-]+\.b\.example:0*8443)", value), (
            value
        )
    pattern = canonical_pattern(value)
    if pattern is not None:
        assert canonical_pattern(pattern) == pattern


def check_certificates(data: bytes) -> None:
    """A file is no certificate, or has names and times."""
    try:
        found = certificates_in(data)
    except ValueError:
        return
    assert all(isinstance(each.expires, float) and all(each.names) for each in found)


def _hello(*names: bytes) -> bytes:
    offered = b"".join(bytes([len(name)]) + name for name in names)
    alpn = b"\0\x10" + (len(offered) + 2).to_bytes(2, "big") + len(offered).to_bytes(2, "big") + offered
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(alpn).to_bytes(2, "big") + alpn
    record = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\1" + len(record).to_bytes(2, "big") + record


_FIELDS = (
    b"Host: a\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Upgrade: h2c\r\n",
    b"X:\t\xe9 \r\n",
    b"Set-Cookie: a=b\r\n",
)
_ODDS = (b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\x80", b"#", b"\\")

HARNESSES = (
    Harness(
        "plain request",
        check_plain_request,
        ("lb.plain", "lb.strict"),
        (b"GET ", b"POST ", b"HEAD ", b"/", b"/x?y", b"*", b" HTTP/1.1\r\n", *_FIELDS, *_ODDS),
        (
            b"POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a:1\r\nConnection: keep-alive\r\nX:\t\xe9 \r\n\r\n",
        ),
    ),
    Harness(
        "plain upgrade",
        check_plain_upgrade,
        ("lb.plain", "lb.strict"),
        (
            b"GET ",
            b"/x?y",
            b" HTTP/1.1\r\n",
            b"Upgrade: websocket\r\n",
            b"Connection: x, upgrade\r\n",
            *_FIELDS,
            *_ODDS,
        ),
        (
            b"GET /x?y HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: upgrade,x\r\nCookie:\r\n\r\n\x81\x80",
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For:b\r\nUpgrade:websocket\r\nConnection: Upgrade\r\n\r\n",
        ),
    ),
    Harness(
        "plain answer",
        check_plain_answer,
        ("lb.plain", "lb.strict"),
        (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 ", b"204 ", b"304 ", b"999 ", *_FIELDS, *_ODDS),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 404  \xe9 \r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n\r\n",
            b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n",
        ),
    ),
    Harness(
        "chunks",
        check_chunks,
        ("lb.chunks",),
        (b"2\r\nhi\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"2;a=b\r\n", b"a\r\n", b"0000", b";", b'"', *_ODDS),
        (b"2;a=b\r\nhi\r\n0;c\r\nX: y\r\n\r\nrest", b"0A \t;x\r\n0123456789\r\n00\r\n\r\n"),
    ),
    Harness(
        "luggage",
        check_luggage,
        ("lb.chunks", "lb.luggage", "lb.upload"),
        (b"2\r\nhi\r\n", b"1\r\na\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"2;a=b\r\n", b"a\r\n", b"0000", *_ODDS),
        (b"2\r\nhi\r\n0\r\n\r\nrest", b"A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n", b"fffffff\r\nx", b"10000000\r\nx"),
    ),
    Harness(
        "client hello",
        check_hello,
        ("lb.client_hello",),
        (b"\x16\x03\1", b"\0\x40", b"\0\x10", b"GET ", b"POST", b"\x02h2", b"\x08http/1.1", b"\0", b"\1", b"\xff"),
        (_hello(b"h2", b"http/1.1"), _hello(b"h2"), b"GET / HTTP/1.1\r\n", b"\x16\x03\1\0\5\1\0\0\1\3"),
    ),
    Harness(
        "last frame",
        check_last_frame,
        ("lb.last_frame", "node.reader"),
        (
            text("a"),
            client_frame(0x89, b"p"),
            close(1000, b"x"),
            close(),
            close(1005),
            b"\x88",
            b"\x80",
            b"\xfe",
            b"\0",
        ),
        (text("a") + close(4008, b"slow"), close(1001) + text("x"), client_frame(0x82, bytes(200)) + close()),
    ),
    Harness(
        "origin",
        check_origin,
        ("lb.origins", "cluster.origin"),
        (
            b"https://",
            b"a.example",
            b".b.example",
            b":8443",
            b":443",
            b"x",
            b"*.",
            b"null",
            b"[::1]",
            b"/",
            b"@",
            b"\0",
        ),
        (b"https://a.example", b"https://x.b.example:8443", b"https://*.b.example", b"HTTP://[::1]:080", b"file://"),
    ),
    Harness(
        "certificates",
        check_certificates,
        ("lb.x509",),
        (b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----", b"MIIB", b"AAAA", b"MA==", b"\n", b"="),
        (
            b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
            b"-----BEGIN CERTIFICATE-----\nMBowGAAAAAAwEhcHMDAwMTAxWhcHMDAwMTAxWgAA\n-----END CERTIFICATE-----",
        ),
    ),
)
