"""What passes between a client and a node, and what does not."""

from __future__ import annotations

import pytest

from lb.errors import NodeFailed
from lb.headers import (
    Framing,
    Via,
    accept_key,
    answer_head,
    end_to_end,
    framing,
    is_websocket_upgrade,
    request_head,
    switching_head,
    tokens,
)

STRANGER = Via("203.0.113.9", trusted=False)
PROXY = Via("10.0.0.1", trusted=True)


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def test_hop_by_hop_headers_and_those_that_connection_names_are_dropped() -> None:
    """RFC 9110 7.6.1, in any case and in several fields."""
    headers = [
        (b"Connection", b"close, X-Mine"),
        (b"CONNECTION", b"x-other"),
        (b"X-Mine", b"1"),
        (b"x-OTHER", b"2"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Trailer", b"X"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"Proxy", b"http://evil"),
        (b"X-Kept", b"3"),
    ]
    assert end_to_end(headers) == [(b"X-Kept", b"3")]


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Cookie", b"Authorization", b"Set-Cookie"])
def test_connection_cannot_name_what_makes_the_message(name: bytes) -> None:
    """A peer that lists Content-Length in Connection must not make us send a body without its length."""
    headers = [(b"Connection", name), (name, b"v")]
    assert end_to_end(headers) == [(name, b"v")]


def test_a_request_goes_on_with_its_target_names_and_octets_unchanged() -> None:
    """Case of names, repeated fields and octets outside ASCII are not ours to change."""
    headers = [(b"hOsT", b"a.example:1"), (b"X-Twice", b"1"), (b"X-Twice", b"2"), (b"X-Raw", b"\xff\xe9")]
    head = lines(request_head("GET", "/a%2Fb?x=%20y+z;=\udcff", headers, STRANGER, host="n:1"))
    assert head[0] == b"GET /a%2Fb?x=%20y+z;=\xff HTTP/1.1"
    assert head[1:5] == [b"hOsT: a.example:1", b"X-Twice: 1", b"X-Twice: 2", b"X-Raw: \xff\xe9"]


def test_what_a_stranger_says_of_forwarding_is_dropped() -> None:
    """Also spelt with underscores, which some servers take for the same name."""
    headers = [(b"Host", b"h")] + [
        (name, b"spoofed")
        for name in (
            b"X-Forwarded-For",
            b"x_forwarded_for",
            b"X-Forwarded-Proto",
            b"X-Forwarded-Host",
            b"X-Forwarded-Port",
            b"Forwarded",
            b"X-Real-IP",
        )
    ]
    head = lines(request_head("GET", "/", headers, STRANGER, host="n:1"))
    assert head[1:] == [
        b"Host: h",
        b"X-Forwarded-For: 203.0.113.9",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: h",
    ]


def test_what_a_trusted_proxy_says_of_forwarding_is_kept_and_continued() -> None:
    """Its X-Forwarded-For gets its own address appended; its Proto and Host stand."""
    headers = [
        (b"Host", b"inner"),
        (b"X-Forwarded-For", b"198.51.100.7"),
        (b"X-Forwarded-For", b"10.9.9.9"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"outer"),
    ]
    head = lines(request_head("GET", "/", headers, PROXY, host="n:1"))
    assert b"X-Forwarded-For: 198.51.100.7, 10.9.9.9, 10.0.0.1" in head
    assert head.count(b"X-Forwarded-Proto: https") == 1
    assert head.count(b"X-Forwarded-Host: outer") == 1
    assert len(head) == 5


def test_a_request_without_host_gets_the_nodes() -> None:
    """HTTP/1.0 clients may send none, and HTTP/1.1 needs one (RFC 9112 3.2)."""
    head = lines(request_head("GET", "/", [], STRANGER, host="10.0.0.5:3000"))
    assert head[1] == b"Host: 10.0.0.5:3000"
    assert head[-1] == b"X-Forwarded-Host: 10.0.0.5:3000"


def test_a_chunked_request_has_no_content_length() -> None:
    """Both together is how requests are smuggled (RFC 9112 6.1)."""
    headers = [(b"Host", b"h"), (b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")]
    head = lines(request_head("POST", "/", headers, STRANGER, host="n:1", chunked=True))
    assert b"Content-Length: 5" not in head
    assert head.count(b"Transfer-Encoding: chunked") == 1


def test_an_upgrade_request_says_so_once_and_leaves_the_websocket_headers_alone() -> None:
    """Connection and Upgrade are ours; Sec-WebSocket-… belongs to the two ends."""
    headers = [
        (b"Host", b"h"),
        (b"Connection", b"keep-alive, Upgrade"),
        (b"Upgrade", b"WebSocket"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits"),
        (b"sec-websocket-key", b"k"),
    ]
    head = lines(request_head("GET", "/", headers, STRANGER, host="n:1", websocket=True))
    assert b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits" in head
    assert b"sec-websocket-key: k" in head
    assert [line for line in head if line.lower().startswith((b"connection", b"upgrade"))] == [
        b"Connection: Upgrade",
        b"Upgrade: websocket",
    ]


@pytest.mark.parametrize(
    ("method", "version", "headers", "expected"),
    [
        ("GET", (1, 1), [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")], True),
        ("GET", (1, 1), [(b"connection", b"keep-alive, UPGRADE"), (b"upgrade", b"h2c, WebSocket")], True),
        ("GET", (1, 0), [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")], False),
        ("POST", (1, 1), [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")], False),
        ("GET", (1, 1), [(b"Upgrade", b"websocket")], False),
        ("GET", (1, 1), [(b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")], False),
        ("GET", (1, 1), [], False),
    ],
)
def test_only_a_websocket_upgrade_is_one(
    method: str, version: tuple[int, int], headers: list[tuple[bytes, bytes]], expected: bool
) -> None:
    """RFC 6455 4.1; anything else is an ordinary request."""
    assert is_websocket_upgrade(method, version, headers) is expected


def test_the_accept_key_is_that_of_the_rfc() -> None:
    """RFC 6455 1.3's own example."""
    assert accept_key(b" dGhlIHNhbXBsZSBub25jZQ== ") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_tokens_are_split_trimmed_and_lowered() -> None:
    """Lists may be spread over several fields and have empty members (RFC 9110 5.6.1)."""
    assert tokens([(b"TE", b"a, B ,,"), (b"te", b" c")], b"te") == {b"a", b"b", b"c"}


def test_a_101_passes_with_our_cookie() -> None:
    """The cookie is set there too: a client that only ever speaks WebSocket sticks as well."""
    headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"Sec-WebSocket-Accept", b"x")]
    assert lines(switching_head("Ok", headers, "c=1")) == [
        b"HTTP/1.1 101 Ok",
        b"Sec-WebSocket-Accept: x",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Set-Cookie: c=1",
    ]


LENGTH = [(b"Content-Length", b"5")]
CHUNKED = [(b"Transfer-Encoding", b"chunked")]


@pytest.mark.parametrize(
    ("method", "status", "version", "headers", "close", "expected"),
    [
        ("GET", 200, (1, 1), LENGTH, False, Framing(body=True, chunked=False, close=False)),
        ("GET", 200, (1, 1), LENGTH, True, Framing(body=True, chunked=False, close=True)),
        ("GET", 200, (1, 1), CHUNKED, False, Framing(body=True, chunked=True, close=False)),
        ("GET", 200, (1, 1), [*LENGTH, *CHUNKED], False, Framing(body=True, chunked=True, close=False)),
        ("GET", 200, (1, 1), [], False, Framing(body=True, chunked=True, close=False)),
        ("GET", 200, (1, 0), CHUNKED, False, Framing(body=True, chunked=False, close=True)),
        ("GET", 200, (1, 0), LENGTH, False, Framing(body=True, chunked=False, close=False)),
        ("HEAD", 200, (1, 1), CHUNKED, False, Framing(body=False, chunked=False, close=False)),
        ("GET", 204, (1, 1), [], False, Framing(body=False, chunked=False, close=False)),
        ("GET", 304, (1, 0), LENGTH, False, Framing(body=False, chunked=False, close=False)),
    ],
)
def test_a_body_is_delimited_as_its_client_can_read_it(
    method: str,
    status: int,
    version: tuple[int, int],
    headers: list[tuple[bytes, bytes]],
    close: bool,
    expected: Framing,
) -> None:
    """RFC 9112 6.3: by length, by chunks, or by the end of the connection for HTTP/1.0."""
    assert framing(method, status, version, headers, close=close) == expected


def test_nothing_is_invented_in_an_answer() -> None:
    """No Date, Server or Content-Type of ours, and every Set-Cookie of the node's."""
    headers = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"Content-Length", b"5")]
    frame = framing("GET", 200, (1, 1), headers, close=False)
    assert lines(answer_head(200, "Fine", headers, frame, (1, 1), None)) == [
        b"HTTP/1.1 200 Fine",
        b"Set-Cookie: a=1",
        b"set-cookie: b=2",
        b"Content-Length: 5",
    ]


def test_an_answer_says_how_the_connection_goes_on() -> None:
    """HTTP/1.1 says when it ends, HTTP/1.0 when it does not (RFC 9112 9.3)."""
    open_, closed = Framing(True, False, False), Framing(True, False, True)
    assert b"Connection: close" in lines(answer_head(200, "", LENGTH, closed, (1, 1), None))
    assert b"Connection: keep-alive" in lines(answer_head(200, "", LENGTH, open_, (1, 0), None))
    assert lines(answer_head(200, "", LENGTH, open_, (1, 1), None)) == [b"HTTP/1.1 200 ", b"Content-Length: 5"]


@pytest.mark.parametrize("status", [100, 103, 204])
def test_no_length_where_no_body_can_be(status: int) -> None:
    """RFC 9110 8.6."""
    frame = framing("GET", status, (1, 1), LENGTH, close=False)
    assert len(lines(answer_head(status, "", LENGTH, frame, (1, 1), None))) == 1


def test_a_head_answer_keeps_the_length_that_a_get_would_have_had() -> None:
    """RFC 9110 9.3.2."""
    frame = framing("HEAD", 200, (1, 1), LENGTH, close=False)
    assert b"Content-Length: 5" in lines(answer_head(200, "", LENGTH, frame, (1, 1), None))


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x=1", b"a\nb", b"a\rb"])
def test_a_nodes_header_cannot_begin_a_line_of_its_own(value: bytes) -> None:
    """Answers are read leniently, so a stray line break may come in; it must not go out."""
    with pytest.raises(NodeFailed):
        answer_head(200, "", [(b"X", value)], Framing(True, True, False), (1, 1), None)
