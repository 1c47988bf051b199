"""What can go wrong while a client is served, each with its HTTP status.  `lb/front.py` is the edge that maps them."""

from __future__ import annotations

import errno
from http import HTTPStatus

from cluster.errors import FlotillaError

OUR_LIMITS = {
    errno.EMFILE: "the limit of open files of this process (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "the limit of open files of this host (fs.file-max)",
    errno.ENOBUFS: "memory for sockets (net.ipv4.tcp_mem)",
    errno.ENOMEM: "memory",
    errno.EADDRNOTAVAIL: "the range of local ports (net.ipv4.ip_local_port_range), or run more nodes",
}
"""What a failed connect says of us and not of the node, and which limit an operator may raise then."""

RETRY_AFTER_S = 1
"""When a client that found no room or no node may ask again (RFC 9110 10.2.3): a probe may bring a node in by then."""


class BalancerError(FlotillaError):
    """Base of all errors that end in an answer of the balancer's own.

    Its text is for the log; the client reads `http_status`, what it is `told`, and nothing of our inside.
    """

    http_status = HTTPStatus.INTERNAL_SERVER_ERROR
    retry_after_s: int | None = None
    told = ""
    """What the client reads besides the status."""
    counted_as = ""
    """The reason that it is counted under (`flotilla_rejected_total`); empty: elsewhere, or not at all."""
    closes = False
    """Whether the client's connection ends with this answer: what follows on it cannot be trusted, or is not wanted."""


class BadRequest(BalancerError):
    """The client sent what HTTP does not allow (RFC 9112)."""

    http_status = HTTPStatus.BAD_REQUEST
    counted_as = "bad_request"
    closes = True


class HeadTooLarge(BadRequest):
    """A head, one of its lines or the number of its fields is larger than we read (RFC 6585 5)."""

    http_status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    counted_as = "head_size"


class PlainHttp(BadRequest):
    """Plain HTTP where TLS is spoken (`lb.tls`)."""

    counted_as = "plain_http"
    told = "this port speaks https\n"


class VersionNotSupported(BadRequest):
    """The request is of another HTTP than 1.1 and 1.0 (RFC 9110 15.6.6)."""

    http_status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


class ExpectationFailed(BadRequest):
    """The client expects what nobody here knows (RFC 9110 10.1.1)."""

    http_status = HTTPStatus.EXPECTATION_FAILED


class ClientTooSlow(BalancerError):
    """The client did not finish the head of its request in time (RFC 9110 15.5.9)."""

    http_status = HTTPStatus.REQUEST_TIMEOUT
    counted_as = "head_timeout"
    closes = True


class BodyTooSlow(ClientTooSlow):
    """The client did not send the body of its request fast enough."""

    counted_as = "body_timeout"


class BodyTooLarge(BalancerError):
    """The body of a request is larger than `lb.max_body_bytes`, or has become so (RFC 9110 15.5.14)."""

    http_status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    counted_as = "body_size"
    closes = True


class OriginRefused(BalancerError):
    """A page of an origin that is not in `lb.allowed_origins` asks for what may change something (RFC 6455 4.2.2)."""

    http_status = HTTPStatus.FORBIDDEN
    counted_as = "origin"
    closes = True

    def __init__(self, origin: bytes) -> None:
        super().__init__(f"lb.allowed_origins has no {origin[:200].decode('latin-1')}")


class UpgradeRefused(BalancerError):
    """The client asks for another protocol than WebSocket, and `lb.other_upgrades` is `refuse`.

    403, as it is policy: 426 would ask for an upgrade (RFC 9110 15.5.22), and 501 is for what a request needs.
    """

    http_status = HTTPStatus.FORBIDDEN
    counted_as = "upgrade"
    closes = True

    def __init__(self, protocol: bytes) -> None:
        super().__init__(f"upgrade to {protocol[:200].decode('latin-1')}")


class NotForwarded(BalancerError):
    """A request that a reverse proxy does not carry: CONNECT, TRACE, or a transfer coding other than chunked."""

    http_status = HTTPStatus.NOT_IMPLEMENTED
    counted_as = "not_forwarded"
    closes = True


class AskedItself(BalancerError):
    """A request shall go no further than to us: Max-Forwards says so (RFC 9110 7.6.2), and that we are there."""

    http_status = HTTPStatus.OK


class Overloaded(BalancerError):
    """As many clients as `lb.max_connections` or the descriptor limit allows are here already."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    counted_as = "overloaded"
    closes = True
    retry_after_s = RETRY_AFTER_S

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} connections are open already")


class TooManyConnections(BalancerError):
    """The client's address has as many connections as `lb.connections_per_address` allows (RFC 6585 4)."""

    http_status = HTTPStatus.TOO_MANY_REQUESTS
    counted_as = "address"
    closes = True
    retry_after_s = RETRY_AFTER_S


class TooManyRequests(BalancerError):
    """The client's address sends more than `lb.requests_per_s_per_address` (RFC 6585 4)."""

    http_status = HTTPStatus.TOO_MANY_REQUESTS
    counted_as = "rate"

    def __init__(self, address: str, *, retry_after_s: int) -> None:
        super().__init__(f"{address} sends too many requests")
        self.retry_after_s = retry_after_s


class NoNodeAvailable(BalancerError):
    """No node takes this request: none is known, or none is ready, or each was tried."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    counted_as = "no_node"
    retry_after_s = RETRY_AFTER_S

    def __init__(self, known: int, tried: int) -> None:
        super().__init__(f"no ready node ({known} known, {tried} tried)")


class Busy(NoNodeAvailable):
    """More clients come than nodes take (`handshakes_per_s`, `nodes.max_connections`), and too many wait already."""

    counted_as = "busy"

    def __init__(self, waiting: int, *, retry_after_s: int) -> None:
        BalancerError.__init__(self, f"no node takes more clients now ({waiting} wait)")
        self.retry_after_s = retry_after_s


class NotReached(NoNodeAvailable):
    """The node that was chosen cannot be reached; others were not asked."""


class OutOfResources(BalancerError):
    """This worker has no descriptor, local port or kernel memory left for a connection to a node.

    That is our want and no fault of the node, which stays in.
    """

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    counted_as = "resources"
    retry_after_s = RETRY_AFTER_S


class NodeUnreachable(BalancerError):
    """A connection to a node was refused or did not come up in time; nothing of the request was sent."""

    http_status = HTTPStatus.BAD_GATEWAY


class NodeFailed(BalancerError):
    """A node took the request and then closed, or sent what is not HTTP."""

    http_status = HTTPStatus.BAD_GATEWAY


class NodeTooSlow(BalancerError):
    """A node did not begin its answer within `lb.answer_timeout_s`."""

    http_status = HTTPStatus.GATEWAY_TIMEOUT


def answer_to(exc: BalancerError, *, close: bool, head_only: bool = False) -> bytes:
    """Return the whole HTTP/1.1 answer that tells a client of `exc`."""
    phrase = exc.http_status.phrase
    body = f"{exc.http_status.value} {phrase}\n{exc.told}".encode()
    lines = [
        f"HTTP/1.1 {exc.http_status.value} {phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
    ]
    if exc.retry_after_s is not None:
        lines.append(f"Retry-After: {exc.retry_after_s}")
    if close:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if head_only else head + body
