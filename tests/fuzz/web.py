"""Harnesses of what comes by HTTP: request and answer heads, who a client is, what is logged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from urllib.parse import unquote

import h11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser
from aiohttp.streams import StreamReader

from cluster.access import MASK, PLAIN
from cluster.access import masked as masked_target
from cluster.proxies import TrustedProxies, canonical, parse_address
from cluster.tag import new_sid, shown_slot_of, slot_of, tag_of
from cluster.trace import is_valid, trace_id
from lb.affinity import (
    cookie_value,
    masked,
    slot_in_cookies,
    slot_in_query,
)
from lb.errors import BadRequest, NodeFailed
from lb.headers import Headers, Via, answer_head, framing, request_head, tokens, values
from lb.proxy_protocol import read_header
from lb.strict import check_answer, read_strictly
from tests.fuzz.harness import Harness

SECRET = b"of-a-fuzzer"


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def parsed_request(data: bytes) -> RawRequestMessage | None:
    """Return the request whose head `data` is, exactly, as lb and node have it read; None if it is none."""
    parser = HttpRequestParser(BaseProtocol(_loop()), _loop(), 2**16)
    try:
        messages, _, rest = parser.feed_data(data)
    except HttpProcessingError:
        return None
    return messages[0][0] if len(messages) == 1 and not rest else None


def requests_in(data: bytes) -> list[tuple[RawRequestMessage, StreamReader]]:
    """Return the requests in `data`, and what came of their bodies.  Raises HttpProcessingError."""
    parser = HttpRequestParser(BaseProtocol(_loop()), _loop(), 2**16)
    messages, _, _ = parser.feed_data(data)
    return list(messages)


def parsed_answer(data: bytes) -> RawResponseMessage | None:
    parser = HttpResponseParser(BaseProtocol(_loop()), _loop(), 2**16, response_with_body=False)
    try:
        messages, _, _ = parser.feed_data(data)
    except HttpProcessingError:
        return None
    return messages[0][0] if len(messages) == 1 else None


def _pairs(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value.strip(b" \t")) for name, value in headers]


def check_request(data: bytes) -> None:
    """A head that we take goes on as one that another parser reads as one request: ours, for one hop further."""
    message = parsed_request(data)
    if message is None:
        return
    try:
        target, headers = read_strictly(message.method, message.path, message.version, message.raw_headers)
    except BadRequest:
        return
    codings = tokens(headers, b"transfer-encoding")
    if message.method == "CONNECT" or codings - {b"chunked"}:
        return  # answered 501
    via = Via("192.0.2.1", trusted=False, trace=b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    head = request_head(message.method, target, headers, via, host="node:1", chunked=bool(codings))
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(head)
    request = reader.next_event()
    assert isinstance(request, h11.Request), request
    assert (request.method.decode(), request.target) == (message.method, target.encode("utf-8", "surrogateescape"))
    _check_sent(_pairs(list(request.headers)), headers, chunked=bool(codings))
    assert head.count(b"\r\n\r\n") == 1
    # What stands behind it is the body and nothing else.
    following = reader.next_event()
    has_body = bool(codings) or any(int(length) for length in values(headers, b"content-length"))
    assert following is h11.NEED_DATA if has_body else isinstance(following, h11.EndOfMessage)


def _check_sent(sent: list[tuple[bytes, bytes]], came: Headers, *, chunked: bool) -> None:
    names = [name for name, _ in sent]
    assert names.count(b"host") == 1
    assert names.count(b"traceparent") == 1
    assert names.count(b"x-forwarded-for") == 1
    assert dict(sent)[b"x-forwarded-for"] == b"192.0.2.1"
    assert (b"transfer-encoding", b"chunked") in sent if chunked else b"transfer-encoding" not in names
    assert not (chunked and b"content-length" in names)
    assert not {b"connection", b"te", b"trailer", b"upgrade", b"keep-alive", b"proxy"} & set(names)
    ours = {b"host", b"traceparent", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    added = [pair for pair in sent if pair not in _pairs(came) and pair[0] not in ours]
    assert added == ([(b"transfer-encoding", b"chunked")] if (b"transfer-encoding", b"chunked") in added else [])


def check_answer_head(data: bytes) -> None:
    """An answer that we take goes on as one that another parser reads as one answer, framed as we frame it."""
    message = parsed_answer(data)
    if message is None or message.code == 101:
        return  # 101 is refused, or goes another way
    try:
        check_answer(message.code, message.reason, message.version, message.raw_headers, chunked=message.chunked)
        for method, version in (("GET", (1, 1)), ("HEAD", (1, 1)), ("GET", (1, 0))):
            _check_answer_to(method, version, message)
    except NodeFailed:
        return


def _check_answer_to(method: str, version: tuple[int, int], message: RawResponseMessage) -> None:
    frame = framing(method, message.code, version, message.raw_headers, close=False)
    head = answer_head(message.code, message.reason, message.raw_headers, frame, version, "a=b")
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(head)
    event = reader.next_event()
    if message.code < 200:
        assert isinstance(event, h11.InformationalResponse)
        assert not {b"content-length", b"transfer-encoding"} & {name for name, _ in event.headers}
        return
    assert isinstance(event, h11.Response)
    assert event.status_code == message.code
    following = reader.next_event()
    lengths = values(message.raw_headers, b"content-length")
    if not frame.body or (not frame.chunked and lengths and not int(lengths[0])):
        assert isinstance(following, h11.EndOfMessage)
    else:
        assert following is h11.NEED_DATA
    names = [name for name, _ in event.headers]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert (b"transfer-encoding" in names) == frame.chunked
    assert (b"set-cookie", b"a=b") in list(event.headers)


def check_client(data: bytes) -> None:
    """A client is led only to a slot whose signature it brought, and every address has one spelling."""
    first, _, rest = data.partition(b"\n")
    target = first.decode("utf-8", "surrogateescape")
    lines = rest.split(b"\n")
    has_sid, slot = slot_in_query(target, SECRET)
    if slot is not None:
        assert has_sid
        assert tag_of(slot, SECRET) in unquote(target)
    slot = slot_in_cookies(lines, "node", SECRET)
    if slot is not None:
        assert any(cookie_value(slot, SECRET).encode() in line for line in lines)
    _check_addresses(lines)


def _check_addresses(lines: list[bytes]) -> None:
    proxies = TrustedProxies.of(["10.0.0.0/8", "fd00::/8"])
    assert proxies.client_of("192.0.2.1", lines) == "192.0.2.1"
    client = proxies.client_of("10.0.0.1", lines)
    assert parse_address(client) is not None
    for text in (client, *(line.decode("latin-1") for line in lines)):
        address = parse_address(text)
        if address is not None:
            assert parse_address(str(address)) == address
            assert canonical(text) == str(address)
        assert canonical(canonical(text)) == canonical(text)
        assert masked(masked(text)) == masked(text)


def check_sid(data: bytes) -> None:
    """A sid leads to the slot whose MAC it carries, and nowhere else."""
    text = data.decode("utf-8", "surrogateescape")
    slot = slot_of(text, SECRET)
    if slot is not None:
        assert text.startswith(tag_of(slot, SECRET) + ".")
        assert slot_of(new_sid(tag_of(slot, SECRET)), SECRET) == slot
    shown = shown_slot_of(text)
    assert shown is None or text.startswith(shown + "-")


def check_logged(data: bytes) -> None:
    """Of a query the access log shows the names, and the values of Engine.IO's own parameters only."""
    target = data.decode("utf-8", "surrogateescape")
    path, mark, query = target.partition("?")
    shown_path, shown_mark, shown = masked_target(target).partition("?")
    assert (shown_path, shown_mark) == (path, mark)
    pairs, shown_pairs = query.split("&"), shown.split("&")
    assert len(pairs) == len(shown_pairs)
    for pair, shown_pair in zip(pairs, shown_pairs, strict=True):
        name, has_value, value = pair.partition("=")
        assert shown_pair == name + has_value + (value if not has_value or name in PLAIN else MASK)


def check_trace(data: bytes) -> None:
    """A traceparent counts exactly if it is one by https://www.w3.org/TR/trace-context/#traceparent-header."""
    assert is_valid(data) == _is_traceparent(data)
    found = trace_id([(b"TraceParent", data)], b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
    assert found == (data[3:35].decode() if _is_traceparent(data) else "a" * 32)


def _is_traceparent(data: bytes) -> bool:
    fields = data.split(b"-")
    if len(fields) < 4 or any(set(field) - set(b"0123456789abcdef") for field in fields[:4]):
        return False
    version, trace, parent, _ = fields[:4]
    if [len(field) for field in fields[:4]] != [2, 32, 16, 2] or not trace.strip(b"0") or not parent.strip(b"0"):
        return False
    return version != b"ff" and (version != b"00" or len(fields) == 4)


def check_proxy(data: bytes) -> None:
    """However a PROXY header is cut, the outcome is the same; and an address in it is one, spelt as everybody does."""

    def outcome(received: bytes) -> tuple[str | None, int] | str | None:
        try:
            header = read_header(received)
        except BadRequest:
            return "refused"
        return None if header is None else (header.client, header.size)

    final = outcome(data)
    for size in range(len(data)):
        early = outcome(data[:size])
        assert early in (None, final) or (isinstance(final, str) and early == final), (size, early, final)
        if isinstance(early, tuple):
            assert early[1] <= size
    if isinstance(final, tuple):
        client, size = final
        assert 0 < size <= len(data)
        assert client is None or client == canonical(client)


_METHODS = (b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ")
_FIELDS = (
    b"Host: a\r\n",
    b"Content-Length: 2\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: ",
    b"close, x-y\r\n",
    b"Upgrade: websocket\r\n",
    b"X-Y: 1\r\n",
    b"TE: trailers\r\n",
    b"Expect: 100-continue\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\n",
    b"x_forwarded_proto: https\r\n",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    b"tracestate: a=b\r\n",
    b"Proxy: x\r\n",
)
_MORE = (b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"\0", b"\x85", b"\xa0", b"\xff", b'"', b"[", b"]")
_SID = new_sid(tag_of("n3000", SECRET)).encode()
_COOKIE = b"node=" + cookie_value("n3000", SECRET).encode()

HARNESSES = (
    Harness(
        "request",
        check_request,
        ("lb.strict", "lb.headers", "cluster.trace"),
        (*_METHODS, b"/", b"/x?y", b"http://b/", b"*", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", *_FIELDS, *_MORE),
        (
            b"GET /x?y HTTP/1.1\r\nHost: a\r\nConnection: x-y\r\nX-Y: 1\r\n\r\n",
            b"POST http://b:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ntracestate: a=b\r\n\r\n",
            b"GET / HTTP/1.0\r\nContent-Length: 2\r\nX-Forwarded-For: 1.2.3.4\r\nHost:\r\n\r\n",
        ),
    ),
    Harness(
        "answer",
        check_answer_head,
        ("lb.strict", "lb.headers"),
        (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 ", b"HTTP/1.1 ", b"204 ", b"304 ", b"103 ", b"101 ", *_FIELDS, *_MORE),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-a\r\nX-A: 1\r\n\r\n",
            b"HTTP/1.1 103 Early\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.0 200\r\nSet-Cookie: a=b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    ),
    Harness(
        "client",
        check_client,
        ("lb.affinity", "cluster.proxies", "cluster.tag"),
        (
            b"/?",
            b"&",
            b"sid=",
            _SID,
            b"EIO=4",
            b"%2e",
            b"\n",
            _COOKIE,
            b"; ",
            b"1.2.3.4",
            b"10.0.0.1",
            b"::ffff:",
            *_MORE,
        ),
        (
            b"/x?EIO=4&sid=" + _SID + b"\n" + _COOKIE + b"\n[2001:db8::1]:80, 10.0.0.2",
            b"/?%73id=" + _SID + b"\na=b; " + _COOKIE + b"\n1.2.3.4:5,fe80::1%eth0",
        ),
    ),
    Harness("sid", check_sid, ("cluster.tag",), (_SID, b"n3000", b"-", b".", b"_", b"a", b"A", b"%"), (_SID,)),
    Harness(
        "access log",
        check_logged,
        ("cluster.access",),
        (b"/", b"?", b"&", b"=", b"#", b"EIO=4", b"sid=x", b"token=secret", b";", b"%3d"),
        (b"/x?EIO=4&transport=polling&sid=abc&token=s=t",),
    ),
    Harness(
        "trace",
        check_trace,
        ("cluster.trace",),
        (b"00-", b"01-", b"ff-", b"0af7651916cd43dd8448eb211c80319c-", b"b7ad6b7169203331-", b"01", b"0", b"-", b"\n"),
        (b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"01-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00-x"),
    ),
    Harness(
        "proxy protocol",
        check_proxy,
        ("lb.proxy_protocol",),
        (
            b"PROXY ",
            b"TCP4 ",
            b"TCP6 ",
            b"UNKNOWN",
            b"1.2.3.4 ",
            b"::1 ",
            b"::ffff:1.2.3.4 ",
            b"80 ",
            b"80\r\n",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\x21\x11\0\x0c",
            b"\x21\x21\0\x24",
            b"\x20\0\0\0",
            b"%",
            b"\xff" * 12,
        ),
        (
            b"PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\nGET /",
            b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
            b"PROXY UNKNOWN ffff\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\x01\xbbrest",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + b"\x20\x01" * 18,
            # A zone, in which anything may stand: a list of addresses, a line of its own.
            b"PROXY TCP6 ::1%a,9.9.9.9 ::1 1 2\r\n",
            b"PROXY TCP6 ::1%a\nX: y ::1 1 2\r\n",
            # One client, spelt in two ways.
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
        ),
    ),
)
