"""What may pass from one side to the other, and how a head is written.  Pure.

Headers are pairs of bytes exactly as they were received, in order, so that what we do not have to touch arrives
unchanged: the case of names, repeated fields, octets outside ASCII.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cluster.trace import PARENT, STATE, is_valid
from lb.errors import NodeFailed

Headers = Sequence[tuple[bytes, bytes]]
"""Names and values as received."""

# RFC 9110 7.6.1; RFC 7540 3.2.1, whoever forgets to name it; and `Proxy-…`, which is meant for us if for anybody.
# `Proxy` itself becomes HTTP_PROXY in a CGI.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings", b"proxy"}
)

# A peer could name these in Connection and so change what the request is: RFC 9110 7.6.1 forbids it to.
_NEVER_NAMED = frozenset(
    {
        *(b"host", b"content-length", b"content-type", b"content-encoding"),
        *(b"cookie", b"set-cookie", b"authorization", b"origin"),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-accept"),
        *(b"sec-websocket-protocol", b"sec-websocket-extensions"),
    }
)

_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


@dataclass(slots=True)  # not frozen: each request makes one
class Via:
    """Who a request came from, for the X-Forwarded headers: its peer's address, and whether we believe what it says."""

    peer: str
    trusted: bool
    trace: bytes = b""
    """The traceparent of a request that brings none, or none that is valid; empty: it stays without."""
    secure: bool = False
    """It came over TLS, which ends here."""


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return `headers` without those that concern one connection only (RFC 9110 7.6.1)."""
    dropped = _dropped(headers)
    return [
        (name, value)
        for name, value in headers
        if (lower := name.lower()) not in dropped and not lower.startswith(b"proxy-")
    ]


def _dropped(headers: Headers) -> frozenset[bytes]:
    """Return the names, in lower case, of what concerns one connection only."""
    named = tokens(headers, b"connection") - _HOP_BY_HOP - _NEVER_NAMED
    if not named:
        return _HOP_BY_HOP
    # What a proxy that we trust says of its client, no client may have removed.
    return _HOP_BY_HOP.union(name for name in named if not _is_forwarded(name))


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return every value of the field `name` (given in lower case)."""
    return [value for key, value in headers if key.lower() == name]


def tokens(headers: Headers, name: bytes) -> frozenset[bytes]:
    """Return the lower-case members of the list-valued field `name` (RFC 9110 5.6.1)."""
    found = values(headers, name)
    return members(found[0] if len(found) == 1 else b",".join(found))


@lru_cache(maxsize=256)
def members(value: bytes) -> frozenset[bytes]:
    """Return the lower-case members of one value of a list-valued field.  Remembered: most clients say the same."""
    return frozenset(token.strip().lower() for token in value.split(b",")) - {b""}


def is_websocket_upgrade(method: str, version: tuple[int, int], headers: Headers) -> bool:
    """Tell whether a request asks for a WebSocket (RFC 6455 4.1); all else about it the node judges."""
    return (
        method == "GET"
        and version >= (1, 1)
        and b"websocket" in tokens(headers, b"upgrade")
        and b"upgrade" in tokens(headers, b"connection")
    )


def asks_for_unknown(headers: Headers) -> bool:
    """Tell whether a request asks for another protocol than the WebSocket one alone (RFC 9110 7.8).

    It is served by HTTP, and its connection ends with the answer: a client that is sure of itself may have sent
    something else behind it, and aiohttp loses what came in one piece with it, so that no beginning of a request can be
    told from the middle of one.
    """
    return any(value.lower() != b"websocket" for value in values(headers, b"upgrade"))


def accept_key(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers Sec-WebSocket-Key `key` (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.strip() + _WEBSOCKET_GUID, usedforsecurity=False).digest())


def request_head(
    method: str, target: str, headers: Headers, via: Via, *, host: str, chunked: bool = False, websocket: bool = False
) -> bytes:
    """Return the head that goes to a node; the target and the end-to-end headers go unchanged.

    `host` stands in for the Host that an HTTP/1.0 client did not send (RFC 9112 3.2).
    """
    onward, untraced = onward_fields(headers, via, host=host, chunked=chunked, websocket=websocket)
    if untraced and via.trace:
        onward.append((PARENT, via.trace))
    return _head(b"%b %b HTTP/1.1" % (method.encode(), target.encode("utf-8", "surrogateescape")), onward)


def onward_fields(
    headers: Headers, via: Via, *, host: str = "", chunked: bool = False, websocket: bool = False
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return the fields that go to a node, but for a traceparent of ours, and whether they have none of their own."""
    # RFC 9112 6.1: a request never carries a length and a coding, whatever came in.
    dropped = _dropped(headers) | {b"content-length"} if chunked else _dropped(headers)
    kept, said = _kept(headers, dropped, trusted=via.trusted)
    if b"host" not in said:
        said[b"host"] = host.encode()
        kept.insert(0, (b"Host", said[b"host"]))
    if chunked:
        kept.append((b"Transfer-Encoding", b"chunked"))
    if websocket:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    chain = said.get(_FOR)
    untraced = False
    if via.trace:
        kept, untraced = _traced(kept, said)
    kept.append((b"X-Forwarded-For", b"%b, %b" % (chain, via.peer.encode()) if chain else via.peer.encode()))
    if b"x-forwarded-proto" not in said:
        kept.append((b"X-Forwarded-Proto", b"https" if via.secure else b"http"))
    if b"x-forwarded-host" not in said:
        kept.append((b"X-Forwarded-Host", said[b"host"]))
    return kept, untraced


_FOR = b"x-forwarded-for"
_TOLD = frozenset({b"host", b"x-forwarded-proto", b"x-forwarded-host", PARENT, STATE})


def _traced(kept: list[tuple[bytes, bytes]], said: dict[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return `kept` with the traceparent that came if there is one and it is valid, and whether one is wanting."""
    if PARENT in said and is_valid(said[PARENT]) and len(values(kept, PARENT)) == 1:
        return kept, False
    if PARENT in said or STATE in said:
        # Trace Context 4.3: whoever begins a new trace drops the state of another one.
        kept = [pair for pair in kept if pair[0].lower() not in (PARENT, STATE)]
    return kept, True


def _kept(
    headers: Headers, dropped: frozenset[bytes], *, trusted: bool
) -> tuple[list[tuple[bytes, bytes]], dict[bytes, bytes]]:
    """Return what goes on unchanged, and what was said of where the request came from and goes to.

    Each name is looked at once: this is most of what a request costs us.
    """
    kept: list[tuple[bytes, bytes]] = []
    said: dict[bytes, bytes] = {}
    for pair in headers:
        name, value = pair[0].lower(), pair[1]
        if name in dropped or name.startswith(b"proxy-") or (not trusted and _is_forwarded(name)):
            continue
        if name == _FOR:
            if value:
                said[name] = b"%b, %b" % (said[name], value) if name in said else value
            continue
        kept.append(pair)
        if name in _TOLD:
            said.setdefault(name, value)
    return kept, said


def _is_forwarded(name: bytes) -> bool:
    # Some servers read `x_forwarded_for` as the same name.
    if not name.startswith((b"x", b"f")):
        return False
    name = name.replace(b"_", b"-")
    return name.startswith(b"x-forwarded-") or name in (b"forwarded", b"x-real-ip")


def switching_head(reason: str, headers: Headers, cookie: str | None) -> bytes:
    """Return the 101 that goes to a client, from the one that a node sent."""
    kept = [pair for pair in end_to_end(headers) if pair[0].lower() != b"content-length"]
    kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), *_cookie(cookie)]
    return _head(b"HTTP/1.1 101 %b" % _phrase(reason or "Switching Protocols"), kept)


@dataclass(frozen=True)
class Framing:
    """How the body of an answer is delimited on the way to a client (RFC 9112 6.3)."""

    body: bool
    """Whether there is one at all."""
    chunked: bool
    close: bool
    """The connection ends with this answer, be it to end the body or because one side wants so."""


def framing(method: str, status: int, version: tuple[int, int], headers: Headers, *, close: bool) -> Framing:
    """Decide how an answer with these `headers` of a node goes to a client that speaks `version`."""
    if method == "HEAD" or status < 200 or status in (204, 304):
        return Framing(body=False, chunked=False, close=close)
    if values(headers, b"content-length") and not values(headers, b"transfer-encoding"):
        return Framing(body=True, chunked=False, close=close)
    chunked = version >= (1, 1)
    return Framing(body=True, chunked=chunked, close=close or not chunked)


def answer_head(
    status: int, reason: str, headers: Headers, frame: Framing, version: tuple[int, int], cookie: str | None
) -> bytes:
    """Return the head of an answer that goes to a client: the node's, with nothing invented."""
    kept = end_to_end(headers)
    if status < 200 or status == 204 or values(headers, b"transfer-encoding"):
        # RFC 9110 8.6: not in 1xx or 204; RFC 9112 6.3: Transfer-Encoding overrides it.
        kept = [pair for pair in kept if pair[0].lower() != b"content-length"]
    if frame.chunked:
        kept.append((b"Transfer-Encoding", b"chunked"))
    if status == 426 and b"websocket" in tokens(headers, b"upgrade"):
        # RFC 9110 15.5.22: it must say to what, and that is what we can carry, too.
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    if frame.close:
        kept.append((b"Connection", b"close"))
    elif version < (1, 1):
        kept.append((b"Connection", b"keep-alive"))
    kept += _cookie(cookie)
    return _head(b"HTTP/1.1 %d %b" % (status, _phrase(reason)), kept)


def _cookie(cookie: str | None) -> list[tuple[bytes, bytes]]:
    return [] if cookie is None else [(b"Set-Cookie", cookie.encode())]


def _phrase(reason: str) -> bytes:
    return reason.encode("utf-8", "surrogateescape")


def field_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return `headers`, in which no line can break, as lines."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def _head(line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [line, *(b"%b: %b" % pair for pair in headers)]
    head = b"\r\n".join(lines)
    # A node's head is read leniently.  Nothing in it may begin a line of its own (RFC 9112 2.2, 11.1).
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise NodeFailed("a header holds a line break")
    return head + b"\r\n\r\n"
