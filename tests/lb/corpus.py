"""Requests and answers that are odd, ambiguous or hostile, each with what must become of it.

A request is refused with a status, or a node gets exactly these bytes.  An answer becomes a 502, or a client gets
exactly these bytes, or its connection is reset in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
CUT = "cut"
"""The connection is reset, so that nobody takes what came for the whole answer."""


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


def forwarded(*lines: bytes, host: bytes = b"a", body: bytes = b"", tail: tuple[bytes, ...] = ()) -> bytes:
    """Return what a node gets of a client at 127.0.0.1."""
    added = (b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: " + host)
    return head(*lines, *tail, *added) + body


@dataclass(frozen=True)
class Case:
    """`sent` goes in; `outcome` is a status, CUT, or what arrives at the other side, byte for byte."""

    name: str
    sent: bytes
    outcome: int | bytes | str
    request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    """What an answer is for."""

    def __str__(self) -> str:
        return self.name


def _get(name: str, outcome: int | bytes, *lines: bytes) -> Case:
    return Case(name, head(b"GET / HTTP/1.1", b"Host: a", *lines), outcome)


def _line(line: bytes, outcome: int | bytes) -> Case:
    return Case(f"line {line[:40]!r}", head(line, b"Host: a"), outcome)


def _post(name: str, outcome: int | bytes, *lines: bytes, body: bytes = b"hi") -> Case:
    return Case(name, head(b"POST / HTTP/1.1", b"Host: a", *lines) + body, outcome)


def _chunked(name: str, outcome: int | bytes, body: bytes) -> Case:
    return _post(f"chunked: {name}", outcome, b"Transfer-Encoding: chunked", body=body)


def _host(value: bytes, outcome: int | bytes | None = None) -> Case:
    fine = forwarded(b"GET / HTTP/1.1", b"Host: " + value, host=value)
    return Case(f"host {value!r}", head(b"GET / HTTP/1.1", b"Host: " + value), outcome or fine)


_PLAIN = forwarded(b"GET / HTTP/1.1", b"Host: a")
_SIZED = forwarded(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 2", body=b"hi")
_CHUNKED = forwarded(
    b"POST / HTTP/1.1", b"Host: a", tail=(b"Transfer-Encoding: chunked",), body=b"2\r\nhi\r\n0\r\n\r\n"
)
_IN_TWO = _CHUNKED.replace(b"2\r\nhi", b"1\r\nh\r\n1\r\ni")
_EMPTY = forwarded(b"POST / HTTP/1.1", b"Host: a", tail=(b"Transfer-Encoding: chunked",), body=b"0\r\n\r\n")

REQUESTS = [
    _get("nothing special", _PLAIN),
    # Two readers, two lengths (RFC 9112 6.3)
    _post("length and coding", 400, b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    _post("coding and length", 400, b"Transfer-Encoding: chunked", b"Content-Length: 2", body=b"0\r\n\r\n"),
    _post("length twice, alike", 400, b"Content-Length: 2", b"Content-Length: 2"),
    _post("length twice, unlike", 400, b"Content-Length: 2", b"Content-Length: 3"),
    *(
        _post(f"length {value!r}", 400, b"Content-Length: " + value)
        for value in (b"2, 2", b"+2", b"-2", b"0x2", b"", b"2 2", b"2;", b"1e1", b"9" * 23, b"\xb2", b"2\x0b")
    ),
    _post(
        "length with zeros",
        forwarded(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 002", body=b"hi"),
        b"Content-Length: 002",
    ),
    *(
        _post(f"length of {name}", 400, b"Content-Length: " + value)
        for name, value in (
            # Which parsers keep for no length at all, for a signed one, or for what fits no integer of theirs
            ("2**64 - 1", b"18446744073709551615"),
            ("2**64 - 2", b"18446744073709551614"),
            ("2**63", b"9223372036854775808"),
            ("5000 zeros", b"0" * 5000 + b"2"),
        )
    ),
    _post("length with spaces", _SIZED, b"Content-Length:   2  "),
    _post(
        "length spelt with _",
        forwarded(b"POST / HTTP/1.1", b"Host: a", b"Content_Length: 2"),
        b"Content_Length: 2",
        body=b"",
    ),
    *(
        _post(f"coding {value!r}", 400, b"Transfer-Encoding: " + value, body=b"0\r\n\r\n")
        for value in (
            b"identity",
            b"gzip",
            b"chunked, gzip",
            b"chunked, chunked",
            b"xchunked",
            b"chunkedx",
            b'"chunked"',
            b"\x0bchunked",
            b"chunked;q=1",
            b"",
            b"chun ked",
            b"identity, chunked, identity",
        )
    ),
    _post("coding gzip, chunked", 501, b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    *(
        _post(f"length, and coding {value!r}", 400, *lines, body=b"hi")
        for value in (b"", b" ", b",")
        for lines in [(b"Transfer-Encoding: " + value, b"Content-Length: 2")]
    ),
    _post("coding of commas", 400, b"Transfer-Encoding: ,", body=b"0\r\n\r\n"),
    _post("coding twice", 400, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    _post("coding twice, one unknown", 400, b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", body=b"0\r\n\r\n"),
    _post("coding, space before the colon", 400, b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    _post("coding, folded", 400, b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    _post("coding, space before the name", 400, b" Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    _post("coding in capitals", _CHUNKED, b"Transfer-Encoding: CHUNKED", body=b"2\r\nhi\r\n0\r\n\r\n"),
    Case("coding in 1.0", head(b"POST / HTTP/1.0", b"Host: a", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    Case(
        "a body with GET",
        head(b"GET / HTTP/1.1", b"Host: a", b"Content-Length: 2") + b"hi",
        forwarded(b"GET / HTTP/1.1", b"Host: a", b"Content-Length: 2", body=b"hi"),
    ),
    # Chunks (RFC 9112 7.1)
    _chunked("plain", _CHUNKED, b"2\r\nhi\r\n0\r\n\r\n"),
    _chunked("in two", _IN_TWO, b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"),
    _chunked("empty", _EMPTY, b"0\r\n\r\n"),
    _chunked("extension", _CHUNKED, b"2;a=b\r\nhi\r\n0;c\r\n\r\n"),
    _chunked("quoted extension", _CHUNKED, b'2;a="b c"\r\nhi\r\n0\r\n\r\n'),
    _chunked("zeros", _CHUNKED, b"0002\r\nhi\r\n000\r\n\r\n"),
    _chunked("trailer dropped", _CHUNKED, b"2\r\nhi\r\n0\r\nX-T: v\r\n\r\n"),
    *(
        _chunked(f"bad {body!r}", 400, body)
        for body in (
            b'2;a="b\r\nc"\r\nhi\r\n0\r\n\r\n',
            b"2;a\nhi\r\n0\r\n\r\n",
            b"2\nhi\n0\n\n",
            b"0x2\r\nhi\r\n0\r\n\r\n",
            b"-2\r\nhi\r\n0\r\n\r\n",
            b"+2\r\nhi\r\n0\r\n\r\n",
            b"f" * 17 + b"\r\nhi\r\n0\r\n\r\n",
            b"2 \r\nhi\r\n0\r\n\r\n",
            b" 2\r\nhi\r\n0\r\n\r\n",
            b"2\r\nhi!\r\n0\r\n\r\n",
            b"2\r\nhi0\r\n\r\n",
            b"\r\nhi\r\n0\r\n\r\n",
            b"g\r\nhi\r\n0\r\n\r\n",
            b"2\rhi\r0\r\r",
            b"2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n",
            b"2\r\nhi\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"2\r\nhi\r\n0\r\nBad Name: x\r\n\r\n",
            b"2\r\nhi\r\n0\r\nX : y\r\n\r\n",
        )
    ),
    # Fields (RFC 9112 5)
    *(
        _get(f"field {line!r}", 400, line)
        for line in (
            b"X: a\r\n b",
            b"X: a\r\n\tb",
            b"X: a\rb",
            b"X: a\nY: b",
            b"X: a\0b",
            b"X: a\x01b",
            b"X: a\x7fb",
            b"X\0: a",
            b"X : a",
            b"X\t: a",
            b"X",
            b": a",
            b"X Y: a",
            b"X(): a",
            b"X@: a",
            b"X\xc3\xa9: a",
            b'"X": a',
            b"X\r: a",
        )
    ),
    _get("field with octets beyond ASCII", forwarded(b"GET / HTTP/1.1", b"Host: a", b"X: \xe9\xff"), b"X: \xe9\xff"),
    _get("field that is empty", forwarded(b"GET / HTTP/1.1", b"Host: a", b"X: "), b"X:"),
    _get("field with a tab", forwarded(b"GET / HTTP/1.1", b"Host: a", b"X: a\tb"), b"X: a\tb"),
    _get("field that is too long", 431, b"X: " + b"a" * 9000),
    _get("200 fields", 431, *(b"X%d: a" % number for number in range(200))),
    Case("fold before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    Case("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    Case("bare LF once", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    Case("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    Case("bare CR for a line end", b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    # Two of what may come once: whose word counts?
    *(
        _get(f"{name.decode()} twice", 400, name + b": a", name.lower() + b": b")
        for name in (b"Content-Type", b"User-Agent", b"ETag", b"Content-Location", b"Content-Range", b"Max-Forwards")
    ),
    # Host (RFC 9112 3.2)
    Case("no host", head(b"GET / HTTP/1.1"), 400),
    _get("host twice, alike", 400, b"Host: a"),
    _get("host twice, unlike", 400, b"Host: b"),
    *(
        _host(value, 400)
        for value in (
            b"u@a",
            b"a/b",
            b"a, b",
            b"a b",
            b"a:b",
            b"a:1:2",
            b"[::1",
            b"[g]",
            b"a?b",
            b"a#b",
            b"http://a",
            b"a\\b",
            b"a:123456",
            b"\xe9",
        )
    ),
    *(_host(value) for value in (b"a:80", b"127.0.0.1", b"[::1]", b"[::1]:8080", b"a-b.example:", b"")),
    # The request line (RFC 9112 3)
    Case(
        "absolute form",
        head(b"GET http://b:1/x?y HTTP/1.1", b"Host: a"),
        forwarded(b"GET /x?y HTTP/1.1", b"Host: b:1", host=b"b:1"),
    ),
    Case(
        "absolute form, no path",
        head(b"GET http://b HTTP/1.1", b"Host: a"),
        forwarded(b"GET / HTTP/1.1", b"Host: b", host=b"b"),
    ),
    Case(
        "absolute form, only a query",
        head(b"GET http://b?q HTTP/1.1", b"Host: a"),
        forwarded(b"GET /?q HTTP/1.1", b"Host: b", host=b"b"),
    ),
    Case(
        "absolute form of the asterisk",
        head(b"OPTIONS http://b HTTP/1.1", b"Host: a"),
        forwarded(b"OPTIONS * HTTP/1.1", b"Host: b", host=b"b"),
    ),
    Case(
        "absolute form, OPTIONS with a path",
        head(b"OPTIONS http://b/ HTTP/1.1", b"Host: a"),
        forwarded(b"OPTIONS / HTTP/1.1", b"Host: b", host=b"b"),
    ),
    Case(
        "absolute form, https",
        head(b"GET https://b/ HTTP/1.1", b"Host: a"),
        forwarded(b"GET / HTTP/1.1", b"Host: b", host=b"b"),
    ),
    *(
        _line(line, 400)
        for line in (
            b"GET ftp://b/ HTTP/1.1",
            b"GET http:///x HTTP/1.1",
            b"GET http://u@b/ HTTP/1.1",
            b"GET a:80 HTTP/1.1",
            b"GET x HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET /x#y HTTP/1.1",
            b"GET /x y HTTP/1.1",
            b"GET /x\ty HTTP/1.1",
            b"GET /\0 HTTP/1.1",
            b"GET /\x01 HTTP/1.1",
            b"GET /\xc3\xa9 HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET / HTTP/1.1 x",
            b"get / HTTP/1.1",
            b"FOO / HTTP/1.1",
            b"G@T / HTTP/1.1",
            b"GET / HTTP/1.2",
            b"GET / HTTP/1.10",
            b"GET / HTTP/11",
            b"GET / http/1.1",
            b"GET / HTTP/1,1",
            b"GET / HTTPS/1.1",
            b"GET  HTTP/1.1",
            b"",
            b"\x16\x03\x01\x02\x00\x01",
            b"PRI * HTTP/2.0",
        )
    ),
    *(_line(line, 505) for line in (b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET /HTTP/1.1")),
    Case("no version", b"GET /\r\n\r\n", 505),
    _line(b"GET /" + b"a" * 9000 + b" HTTP/1.1", 431),
    _line(b"CONNECT a:80 HTTP/1.1", 501),
    _line(b"TRACE / HTTP/1.1", 501),
    _line(b"OPTIONS * HTTP/1.1", forwarded(b"OPTIONS * HTTP/1.1", b"Host: a")),
    _line(b"GET //x/../y HTTP/1.1", forwarded(b"GET //x/../y HTTP/1.1", b"Host: a")),
    _line(b"GET /%2e%2E/%00 HTTP/1.1", forwarded(b"GET /%2e%2E/%00 HTTP/1.1", b"Host: a")),
    Case("empty lines before", b"\r\n" + head(b"GET / HTTP/1.1", b"Host: a"), _PLAIN),
    # How far it may go (RFC 9110 7.6.2)
    Case(
        "one hop less",
        head(b"OPTIONS /x HTTP/1.1", b"Host: a", b"max-forwards: 010"),
        forwarded(b"OPTIONS /x HTTP/1.1", b"Host: a", b"max-forwards: 9"),
    ),
    *(
        Case(f"hops {left!r}", head(b"OPTIONS * HTTP/1.1", b"Host: a", b"Max-Forwards: " + left), 400)
        for left in (b"", b"-1", b"1, 1", b"x", b"9" * 19)
    ),
    _get(
        "hops, which only OPTIONS counts",
        forwarded(b"GET / HTTP/1.1", b"Host: a", b"Max-Forwards: 0"),
        b"Max-Forwards: 0",
    ),
    # One connection only (RFC 9110 7.6.1, 7.8, 10.1)
    _get("Connection names", _PLAIN, b"Connection: x-y, close", b"X-Y: 1"),
    _get("Connection cannot name Host", _PLAIN, b"Connection: host"),
    _post("Connection cannot name the length", _SIZED, b"Connection: content-length", b"Content-Length: 2"),
    _get("Connection of no tokens", _PLAIN, b"Connection: @@, ;"),
    _get(
        "Keep-Alive, TE, Proxy-…",
        _PLAIN,
        b"Keep-Alive: 5",
        b"TE: trailers",
        b"Proxy-Connection: x",
        b"Proxy: http://evil",
    ),
    _get(
        "upgrade to h2c", _PLAIN, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
    ),
    _get("upgrade without saying so", _PLAIN, b"Upgrade: websocket"),
    *(
        _get(
            f"Connection cannot name {name.decode()}",
            forwarded(b"GET / HTTP/1.1", b"Host: a", name + b": z"),
            b"Connection: " + name,
            name + b": z",
        )
        for name in (b"Cookie", b"Authorization", b"Origin", b"Content-Type", b"Sec-WebSocket-Key")
    ),
    _post(
        "expects",
        forwarded(b"POST / HTTP/1.1", b"Host: a", b"Expect: 100-continue", b"Content-Length: 2", body=b"hi"),
        b"Expect: 100-continue",
        b"Content-Length: 2",
    ),
    _post("expects something else", 417, b"Expect: 200-ok", b"Content-Length: 2"),
    _get(
        "says who it comes from",
        _PLAIN,
        b"X-Forwarded-For: 1.2.3.4",
        b"Forwarded: for=1.2.3.4",
        b"X_Forwarded_Proto: https",
        b"X-Real-IP: 1.2.3.4",
    ),
]


def _sized(name: str, outcome: int | bytes | str, *lines: bytes, body: bytes = b"ok") -> Case:
    return Case(name, head(b"HTTP/1.1 200 OK", *lines, b"Content-Length: 2") + body, outcome)


def _coded(name: str, outcome: int | bytes | str, body: bytes, *lines: bytes) -> Case:
    return Case(name, head(b"HTTP/1.1 200 OK", *lines, b"Transfer-Encoding: chunked") + body, outcome)


def _status(line: bytes, outcome: int | bytes) -> Case:
    return Case(f"status line {line!r}", head(line, b"Content-Length: 2") + b"ok", outcome)


def _switched(
    name: str, outcome: int | bytes, *lines: bytes, line: bytes = b"HTTP/1.1 101 Switching Protocols"
) -> Case:
    return Case(name, head(line, *lines) + b"xx", outcome, request=UPGRADE)


UPGRADE = head(
    b"GET /ws HTTP/1.1",
    b"Host: a",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + KEY,
)
_ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
_UP, _WS = b"Connection: Upgrade", b"Upgrade: websocket"
_HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_OLD = b"GET / HTTP/1.0\r\n\r\n"
_OK = head(b"HTTP/1.1 200 OK", b"Content-Length: 2", b"Connection: close") + b"ok"
_OK_CHUNKED = head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Connection: close") + b"2\r\nok\r\n0\r\n\r\n"
_OPEN = head(b"HTTP/1.1 101 Switching Protocols", _ACCEPT, _UP, _WS) + b"xx"

ANSWERS = [
    _sized("nothing special", _OK),
    Case("until the end", head(b"HTTP/1.1 200 OK") + b"ok", _OK_CHUNKED),
    _coded("chunked", _OK_CHUNKED, b"2\r\nok\r\n0\r\n\r\n"),
    _coded("chunk extension", _OK_CHUNKED, b"2;a=b\r\nok\r\n0\r\n\r\n"),
    _coded("trailer", _OK_CHUNKED, b"2\r\nok\r\n0\r\nX: y\r\n\r\n"),
    # Two readers, two lengths
    _coded("length and coding", 502, b"2\r\nok\r\n0\r\n\r\n", b"Content-Length: 2"),
    _coded("coding twice", 502, b"2\r\nok\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
    _sized("length twice, alike", 502, b"Content-Length: 2"),
    _sized("length twice, unlike", 502, b"Content-Length: 3"),
    *(
        Case(f"length {value!r}", head(b"HTTP/1.1 200 OK", b"Content-Length: " + value) + b"ok", 502)
        for value in (b"2, 2", b"+2", b"-2", b"x", b"0x2", b"9" * 23, b"18446744073709551615", b"0" * 20 + b"2")
    ),
    Case("length, space before the colon", head(b"HTTP/1.1 200 OK", b"Content-Length : 2") + b"ok", 502),
    *(
        Case(
            f"coding {value!r}", head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: " + value) + b"2\r\nok\r\n0\r\n\r\n", 502
        )
        for value in (
            b"gzip",
            b"gzip, chunked",
            b"xchunked",
            b"identity",
            b"chunked, gzip",
            b"",
            b"chunked,",
            b",chunked",
            b"chunked, chunked",
            b"chunked\t\r\nTrailer: x",
        )
    ),
    Case("coding in 1.0", head(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked") + b"2\r\nok\r\n0\r\n\r\n", 502),
    _sized("less than the length", CUT, body=b"o"),
    _sized("more than the length", 502, body=b"okay"),
    _sized("a second answer", _OK, body=b"ok" + head(b"HTTP/1.1 200 OK", b"Content-Length: 4") + b"evil"),
    _coded("no number", 502, b"x\r\nok\r\n0\r\n\r\n"),
    _coded("chunks end with LF", 502, b"2\nok\n0\n\n"),
    _coded("chunk cut", CUT, b"5\r\nok"),
    _coded("no last chunk", CUT, b"2\r\nok\r\n"),
    # Versions and status
    _status(b"HTTP/1.0 200 OK", _OK),
    _status(b"HTTP/1.1 200 ", _OK.replace(b"OK", b"", 1)),
    _status(b"HTTP/1.1 200", _OK.replace(b"OK", b"", 1)),
    _status(b"HTTP/1.1 600 Own", _OK.replace(b"200 OK", b"600 Own", 1)),
    _status("HTTP/1.1 200 \xe9".encode(), _OK.replace(b"OK", "\xe9".encode(), 1)),
    *(
        _status(line, 502)
        for line in (
            b"HTTP/1.1 99 X",
            b"HTTP/1.1 000 X",
            b"HTTP/1.1 1000 X",
            b"HTTP/1.1 abc X",
            b"HTTP/1.1 -200 X",
            b"HTTP/2.0 200 OK",
            b"HTTP/0.9 200 OK",
            b"HTTP/1.2 200 OK",
            b"http/1.1 200 OK",
            b"HTTP/1.1 200 a\x01b",
            b"ICY 200 OK",
            b"GET / HTTP/1.1",
        )
    ),
    Case("no head at all", b"ok", 502),
    Case("nothing", b"", 502),
    Case("half a head", b"HTTP/1.1 200 OK\r\nConte", 502),
    # Fields
    *(
        _sized(f"field {line!r}", 502, line)
        for line in (
            b"X: a\rb",
            b"X: a\0b",
            b"X: a\x01b",
            b"X: a\x7fb",
            b"X : a",
            b"X",
            b": a",
            b"X Y: a",
            b"X\xc3\xa9: a",
        )
    ),
    _sized("field that is folded", _OK.replace(b"OK\r\n", b"OK\r\nX: a b\r\n", 1), b"X: a\r\n b"),
    _sized("bare LF between fields", _OK.replace(b"OK\r\n", b"OK\r\nX: a\r\nY: b\r\n", 1), b"X: a\nY: b"),
    _sized("field with octets beyond ASCII", _OK.replace(b"OK\r\n", b"OK\r\nX: \xe9\r\n", 1), b"X: \xe9"),
    _sized("field that is too long", 502, b"X: " + b"a" * 9000),
    _sized("300 fields", 502, *(b"X%d: a" % number for number in range(300))),
    _sized("Connection names", _OK, b"Connection: x-a", b"X-A: 1", b"Keep-Alive: 3"),
    _sized("Connection cannot name the length", _OK, b"Connection: content-length"),
    _sized(
        "Connection cannot name a cookie",
        _OK.replace(b"OK\r\n", b"OK\r\nSet-Cookie: a=b\r\n", 1),
        b"Connection: set-cookie",
        b"Set-Cookie: a=b",
    ),
    _sized("offers an upgrade", _OK, b"Upgrade: h2c", b"Connection: upgrade"),
    # No body where none can be (RFC 9110 6.4.1)
    Case("204", head(b"HTTP/1.1 204 No"), head(b"HTTP/1.1 204 No", b"Connection: close")),
    Case("204 with a body", head(b"HTTP/1.1 204 No", b"Content-Length: 2") + b"ok", 502),
    Case(
        "304",
        head(b"HTTP/1.1 304 No", b"Content-Length: 2"),
        head(b"HTTP/1.1 304 No", b"Content-Length: 2", b"Connection: close"),
    ),
    Case("304 with a body", head(b"HTTP/1.1 304 No", b"Content-Length: 2") + b"ok", 502),
    Case("HEAD", head(b"HTTP/1.1 200 OK", b"Content-Length: 2"), _OK[:-2], request=_HEAD),
    Case("HEAD with a body", head(b"HTTP/1.1 200 OK", b"Content-Length: 2") + b"ok", 502, request=_HEAD),
    # 1xx (RFC 9110 15.2)
    Case("100 and 200", head(b"HTTP/1.1 100 Continue") + _OK, head(b"HTTP/1.1 100 Continue") + _OK),
    Case("100 of 1xx", head(b"HTTP/1.1 103 E") * 100 + _OK, head(b"HTTP/1.1 103 E") * 100 + _OK),
    Case(
        "endless 1xx",
        head(b"HTTP/1.1 103 E") * 10_000,
        head(b"HTTP/1.1 103 E") * 101 + b"HTTP/1.1 502 Bad Gateway\r\n",
    ),
    Case("103 and 200", head(b"HTTP/1.1 103 Early", b"Link: x") + _OK, head(b"HTTP/1.1 103 Early", b"Link: x") + _OK),
    Case(
        "103 with a length", head(b"HTTP/1.1 103 Early", b"Content-Length: 2") + _OK, head(b"HTTP/1.1 103 Early") + _OK
    ),
    Case("100 for 1.0", head(b"HTTP/1.1 100 Continue") + _OK, _OK, request=_OLD),
    Case(
        "100 and nothing",
        head(b"HTTP/1.1 100 Continue"),
        head(b"HTTP/1.1 100 Continue") + b"HTTP/1.1 502 Bad Gateway\r\n",
    ),
    Case("chunked for 1.0", _OK_CHUNKED, head(b"HTTP/1.1 200 OK", b"Connection: close") + b"ok", request=_OLD),
    # 101 (RFC 6455 4.1)
    Case("101 unasked", head(b"HTTP/1.1 101 X", _WS, _UP) + b"xx", 502),
    _switched("101", _OPEN, _WS, _UP, _ACCEPT),
    _switched("101 with a length", _OPEN, _WS, _UP, _ACCEPT, b"Content-Length: 2"),
    _switched("101 without Upgrade", 502, _UP, _ACCEPT),
    _switched("101 without Connection", 502, _WS, _ACCEPT),
    _switched("101 to something else", 502, b"Upgrade: h2c", _UP, _ACCEPT),
    _switched("101 without Accept", 502, _WS, _UP),
    _switched("101 with a wrong Accept", 502, _WS, _UP, b"Sec-WebSocket-Accept: AAAA"),
    _switched("101 with two Accepts", 502, _WS, _UP, _ACCEPT, b"Sec-WebSocket-Accept: AAAA"),
    _switched("101 of 1.0", 502, _WS, _UP, _ACCEPT, line=b"HTTP/1.0 101 X"),
    Case(
        "refused",
        head(b"HTTP/1.1 403 No", b"Content-Length: 2") + b"no",
        head(b"HTTP/1.1 403 No", b"Content-Length: 2") + b"no",
        request=UPGRADE,
    ),
    Case(
        "upgrade required",
        head(b"HTTP/1.1 426 No", _WS, b"Content-Length: 2") + b"no",
        head(b"HTTP/1.1 426 No", b"Content-Length: 2", _UP, _WS) + b"no",
        request=UPGRADE,
    ),
]
