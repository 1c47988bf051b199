"""Requests and answers so plain that they can be read in one way only.  Pure.

HTTP allows much that hardly anybody writes, and that readers read differently.  A head is taken here only in the narrow
form that nearly all clients and nodes write; whatever else there is goes the long way, through aiohttp's parser and
lb/strict.py.  So what is refused here need not be wrong, and what is taken is what the long way would have made of it,
at a third of the price: tests/lb/test_plain.py holds the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from lb.headers import Framing, Headers, answer_head, members
from lb.strict import is_host

MOST_HEAD_BYTES = 8190
"""Longer than that the long way allows no line (lb/guards.py)."""

MOST_FIELDS = 64

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 5.6.2
_TEXT = rb"[\t -~\x80-\xff]*"  # RFC 9110 5.5
_REQUEST_LINE = rb'(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!"$-~]*) HTTP/1\.1'

_REQUEST = re.compile(_REQUEST_LINE)
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) (" + _TEXT + rb")")
_FIELD = re.compile(b"(" + _TOKEN + b"):(" + _TEXT + b")")
_BEGINNING = re.compile(_REQUEST_LINE + rb"\r\n(?:" + _TOKEN + b":" + _TEXT + rb"\r\n)*" + _TEXT + rb"\r?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,14}")

# Framing and what changes the connection or the meaning: all of that is the long way's.
_NOT_IN_REQUESTS = frozenset(
    {
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
        b"http2-settings",
        b"max-forwards",
        b"sec-websocket-key1",
    }
)
# Of which there may be one, as aiohttp has it (and RFC 9110 5.3: none of them is a list).
_ONCE = frozenset({b"content-location", b"content-range", b"content-type", b"etag", b"server", b"user-agent"})
_NOT_IN_ANSWERS = frozenset({b"trailer", b"upgrade"})
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})


def request_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the method and the target of a request line (RFC 9112 3) without its end, if it is plain."""
    match = _REQUEST.fullmatch(line)
    return None if match is None else (match[1], match[2])


def is_beginning(data: bytes) -> bool:
    """Tell whether `data`, in which no head ends, may become a plain request."""
    return len(data) < MOST_HEAD_BYTES and _BEGINNING.fullmatch(data) is not None


def request_fields(block: bytes) -> tuple[Headers, int | None, bool] | None:
    """Return the fields of a request, from the lines between its first one and the empty one, its Content-Length, and
    whether its body is chunked.

    None: they are not plain.
    """
    fields = _fields(block)
    if fields is None:
        return None
    hosts, length, codings = 0, None, []
    found = set()
    for field, value in fields:
        name = field.lower()
        if name == b"transfer-encoding":
            codings.append(value.lower())
            continue
        if name in _NOT_IN_REQUESTS or (name in _ONCE and name in found):
            return None
        found.add(name)
        if name == b"host":
            hosts += 1
            if not is_host(value):
                return None
        elif name == b"content-length":
            if length is not None or _LENGTH.fullmatch(value) is None:
                return None
            length = int(value)
        elif name == b"connection" and value.lower() != b"keep-alive":
            return None
    # RFC 9112 6.1: both a length and a coding may be an attack.
    is_framed = not codings or (codings == [b"chunked"] and length is None)
    return (fields, length, bool(codings)) if hosts == 1 and is_framed else None


@dataclass(eq=False, slots=True)  # not frozen: each handshake makes one
class PlainUpgrade:
    """A request for a WebSocket (RFC 6455 4.1)."""

    target: str
    headers: Headers
    cookies: list[bytes]
    """The values of Cookie."""
    forwarded_for: list[bytes]
    """The values of X-Forwarded-For."""
    early: bytes
    """What came behind its head."""


def read_upgrade(data: bytes) -> PlainUpgrade | None:
    """Return the request for a WebSocket that `data` begins with; None: it is not plain, not whole, or none."""
    # A guess that saves most other requests from being read twice.
    if not data.startswith(b"GET ") or b"pgrade:" not in data:
        return None
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    line_end = data.find(b"\r\n")
    line, fields = _REQUEST.fullmatch(data, 0, line_end), _fields(data[line_end + 2 : end])
    if line is None or fields is None:
        return None
    upgrade = PlainUpgrade(line[2].decode("ascii"), fields, [], [], data[end + 4 :])
    return upgrade if _take_upgrade_fields(upgrade) else None


def _take_upgrade_fields(upgrade: PlainUpgrade) -> bool:
    """Note what the fields of `upgrade` say; return whether they are those of one."""
    hosts = upgrades = connections = 0
    found: set[bytes] = set()
    for field, value in upgrade.headers:
        name = field.lower()
        if name == b"host":
            hosts += is_host(value) or 2
        elif name == b"upgrade":
            upgrades += value.lower() == b"websocket" or 2
        elif name == b"connection":
            connections += b"upgrade" in members(value) or 2
        elif name == b"cookie":
            upgrade.cookies.append(value)
        elif name == b"x-forwarded-for":
            upgrade.forwarded_for.append(value)
        elif name in _NOT_IN_REQUESTS or name == b"content-length" or name in found:
            return False
        elif name in _ONCE:
            found.add(name)
    return hosts == upgrades == connections == 1


def may_have_body(method: bytes, length: int | None, chunked: bool) -> bool:
    """Tell whether a request so framed is plain: a body where one is to be expected, or none."""
    return (length is None and not chunked) or method in _WITH_BODY


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """The head of a node's answer."""

    status: int
    head: bytes
    """As the client gets it, without the empty line that ends it, so that fields may be added."""
    length: int
    """Bytes of the body, if it is not `chunked`."""
    keeps: bool
    """The node's connection may be used again."""
    chunked: bool = False


def read_answer(head: bytes, *, to_head: bool) -> PlainAnswer | None:
    """Read the `head` of an answer, the empty line included, to a HEAD request or another one; None: it is not plain.

    Remembered, as nodes repeat themselves, unless it is so long that this would take much memory.
    """
    return _remembered(head, to_head) if len(head) <= _REMEMBERED_BYTES else _read_answer(head, to_head)


_REMEMBERED_BYTES = 1024


def _read_answer(head: bytes, to_head: bool) -> PlainAnswer | None:
    line, _, block = head[:-4].partition(b"\r\n")
    status_line, fields = _STATUS.fullmatch(line), _fields(block)
    if status_line is None or fields is None:
        return None
    framed = _answer_framing(fields)
    if framed is None:
        return None
    length, chunked, keeps = framed
    status = int(status_line[1])
    has_body = not to_head and status not in (204, 304)
    if chunked and not has_body:
        return None
    if has_body and length is None and not chunked:
        return None  # it lasts until the connection ends
    size = length or 0 if has_body else 0
    frame = Framing(body=chunked or size > 0, chunked=chunked, close=False)
    reason = status_line[2].strip(b" \t").decode("utf-8", "surrogateescape")
    head = answer_head(status, reason, fields, frame, (1, 1), None)
    return PlainAnswer(status, head[:-2], size, keeps, chunked)


def _answer_framing(fields: Headers) -> tuple[int | None, bool, bool] | None:
    """Return the Content-Length, whether the body is chunked, and whether the connection goes on; None: not plain."""
    length, chunked, keeps = None, False, True
    for field, value in fields:
        name = field.lower()
        if name in _NOT_IN_ANSWERS:
            return None
        if name == b"content-length":
            if length is not None or _LENGTH.fullmatch(value) is None:
                return None
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                return None
            chunked = True
        elif name == b"connection":
            option = value.lower()
            if option not in (b"keep-alive", b"close"):
                return None
            keeps = keeps and option == b"keep-alive"
    # RFC 9112 6.1: both may be an attack.
    return None if chunked and length is not None else (length, chunked, keeps)


_remembered = lru_cache(maxsize=512)(_read_answer)


def _fields(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """Return the fields in `block`, which has no CRLF at its end; None: not plain."""
    if len(block) > MOST_HEAD_BYTES:
        return None
    fields = []
    for line in block.split(b"\r\n") if block else ():
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1], match[2].strip(b" \t")))
    return fields if len(fields) <= MOST_FIELDS else None
