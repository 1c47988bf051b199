"""What HTTP does not allow, and aiohttp's parser (llhttp) lets pass.  Pure.

Of a request the parser refuses malformed lines, fields and framing.  What is left is what it *means*: two readers must
not take it for two different ones, so there is one reading here, and a node gets no other.

Answers it reads leniently: a bare LF ends a line, a folded line is joined.  That does no harm, as heads are written
anew; but a name that is none, or a framing that two could read in two ways, would go on to the client.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lb.errors import AskedItself, BadRequest, ExpectationFailed, NodeFailed, VersionNotSupported
from lb.headers import Headers, tokens, values

# RFC 9110 7.2 with RFC 3986 3.2.2: a name, an IPv4 address or a bracketed IPv6 one, and a port; no user, no list.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?")

_MOST_DIGITS = 18

_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)


def read_strictly(method: str, target: str, version: tuple[int, int], headers: Headers) -> tuple[str, Headers]:
    """Return the target, in origin form, and the headers that a request means.

    Raises BadRequest, VersionNotSupported, ExpectationFailed or AskedItself.
    """
    if version not in ((1, 1), (1, 0)):
        raise VersionNotSupported(f"HTTP/{version[0]}.{version[1]}")
    if "#" in target:
        raise BadRequest("a fragment in the request target")
    _check_codings(version, headers)
    if not _is_countable(headers):
        raise BadRequest("a Content-Length that no body has")
    for value in values(headers, b"expect"):
        if value.strip().lower() != b"100-continue":
            raise ExpectationFailed(value.decode("latin-1"))
    if not target.startswith("/") and method != "CONNECT":
        target, headers = _origin_form(method, target, headers)
    for host in values(headers, b"host"):
        if not is_host(host):
            raise BadRequest("Host is not a host with an optional port")
    if method == "OPTIONS":
        headers = _one_hop_on(headers)
    return target, headers


def _one_hop_on(headers: Headers) -> Headers:
    """Return `headers` with one less to go in Max-Forwards, if there is one (RFC 9110 7.6.2)."""
    for left in values(headers, b"max-forwards"):  # one at most: the parser refuses more
        if not left.isdigit() or len(left) > _MOST_DIGITS:
            raise BadRequest("Max-Forwards is no number")
        if not int(left):
            raise AskedItself("Max-Forwards: 0")
        less = b"%d" % (int(left) - 1)
        return [(name, less if name.lower() == b"max-forwards" else value) for name, value in headers]
    return headers


def _check_codings(version: tuple[int, int], headers: Headers) -> None:
    codings = values(headers, b"transfer-encoding")
    if not codings:
        return
    if version == (1, 0):
        # RFC 9112 6.1: who speaks 1.0 does not know the field, and others before us may have read a length.
        raise BadRequest("Transfer-Encoding in HTTP/1.0")
    if not tokens(headers, b"transfer-encoding") or values(headers, b"content-length"):
        # The parser has this as no coding at all; others may not.
        raise BadRequest(f"a Transfer-Encoding of {b', '.join(codings)!r}, or a length beside it")


def _is_countable(headers: Headers) -> bool:
    """Tell whether no Content-Length is so long that a reader might count wrongly (RFC 9110 8.6).

    aiohttp's parser takes 2**64 - 1 for no body at all: what comes next on the connection would be one for a node.
    """
    return all(len(value) <= _MOST_DIGITS for value in values(headers, b"content-length"))


def _origin_form(method: str, target: str, headers: Headers) -> tuple[str, Headers]:
    """Return the target of a request that came in another form (RFC 9112 3.2), and what goes with it."""
    if target == "*" and method == "OPTIONS":
        return target, headers
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not absolute[1]:
        raise BadRequest("the request target is neither a path nor an http URI")
    host, path = absolute.groups()
    if method == "OPTIONS" and not path:
        path = "*"  # RFC 9112 3.2.4
    elif not path.startswith("/"):
        path = "/" + path
    # RFC 9112 3.2.2: what Host said is ignored, and replaced.
    kept = [pair for pair in headers if pair[0].lower() != b"host"]
    return path, [(b"Host", host.encode("utf-8", "surrogateescape")), *kept]


@lru_cache(maxsize=1024)
def is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def check_answer(status: int, reason: str, version: tuple[int, int], headers: Headers, *, chunked: bool) -> None:
    """Raise NodeFailed unless the head of a node's answer can be read in one way only.

    `chunked`: the parser takes its body for chunks.  It does not where a tab stands behind the coding, as it may.
    """
    if version not in ((1, 1), (1, 0)):
        raise NodeFailed(f"it speaks HTTP/{version[0]}.{version[1]}")
    if not 100 <= status <= 999:
        raise NodeFailed(f"no status: {status}")
    if _CONTROL.search(reason.encode("utf-8", "surrogateescape")):
        raise NodeFailed("a control character in the reason phrase")
    if not _is_countable(headers):
        raise NodeFailed("a Content-Length that no body has")
    codings = _check_fields(headers)
    # RFC 9112 6.1: faulty framing, in a version that does not know the field or in a field that comes twice.
    if codings > 1 or (codings and version == (1, 0)) or bool(codings) is not chunked:
        raise NodeFailed("an ambiguous Transfer-Encoding")


def _check_fields(headers: Headers) -> int:
    """Return how often a node names the one transfer coding that there may be.  Raises NodeFailed."""
    codings = 0
    for name, value in headers:
        if not _is_token(name):
            raise NodeFailed(f"no field name: {name[:40]!r}")
        if _CONTROL.search(value):
            raise NodeFailed(f"a control character in {name.decode('latin-1')}")
        if name.lower() == b"transfer-encoding":
            codings += 1
            if value.lower() != b"chunked":
                raise NodeFailed(f"a transfer coding other than chunked: {value[:40]!r}")
    return codings


_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 5.5
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2


@lru_cache(maxsize=1024)
def _is_token(name: bytes) -> bool:
    return _TOKEN.fullmatch(name) is not None
