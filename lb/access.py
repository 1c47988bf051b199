"""The access log (`log.access`): a line for each HTTP exchange, one when a WebSocket opens and one when it ends.

A line says what we know and nothing else: of a WebSocket that was handed over, what its node tells of its end.
Credentials stay out: of the query the names, and only the values of Engine.IO's own parameters.
Whoever has no line to write asks `is_on` and does no more.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from cluster import logs, tcp_info
from cluster.ends import NO_CODE, By, End
from lb.affinity import TrustedProxies
from lb.headers import Headers, Via, values
from lb.trace import trace_id

log = logging.getLogger(logs.ACCESS)

PLAIN = frozenset({"EIO", "transport", "t", "j", "b64"})
"""Parameters whose values are shown.  A `sid` is a credential; what an application calls `token` is one as well."""

MASK = "***"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a line says of the request."""

    client: str
    method: str
    target: str
    trace: str


@dataclass(frozen=True, slots=True)
class Opened:
    """What the last line of a WebSocket that was handed over needs, kept meanwhile."""

    asked: Asked
    carried: tuple[int, int] | None
    """What of the bytes on its connection, from the client and to it, was not the WebSocket's, if that is known."""

    @classmethod
    def now(cls, asked: Asked, descriptor: int, received: bytes) -> Opened:
        """Return it for a connection that nobody reads just now.

        `received` is the rewritten head, and what has been read behind it, which is the WebSocket's already.
        """
        sock = socket.socket(fileno=descriptor)
        try:
            carried = tcp_info.carried(sock)
        finally:
            sock.detach()
        if carried is None:
            return cls(asked, None)
        early = len(received) - received.index(b"\r\n\r\n") - 4
        return cls(asked, (carried[0] - early, carried[1]))


_BY = {by: by.name.lower() for by in By}


class AccessLog:
    """Writes the lines of one worker.  `proxies` are those whose X-Forwarded-For tells who the client is."""

    def __init__(self, proxies: TrustedProxies = TrustedProxies()) -> None:  # noqa: B008  frozen
        self._proxies = proxies

    @property
    def is_on(self) -> bool:
        """Whether lines are wanted; a reload may change it."""
        return log.isEnabledFor(logging.INFO)

    def asked(self, method: str, target: str, headers: Headers, via: Via) -> Asked:
        """Return what a line shall say of this request."""
        client = self._proxies.client_of(via.peer, values(headers, b"x-forwarded-for"))
        return Asked(client, method, masked(target), trace_id(headers, via.trace))

    def answered(self, asked: Asked, node: str, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """An HTTP exchange is over.  No `node`: the answer was ours.  499: the client went away first."""
        facts = _facts(asked)
        if node:
            facts["node"] = node
        facts["status"], facts["ms"] = status, _ms(seconds)
        facts["bytes_in"], facts["bytes_out"] = bytes_in, bytes_out
        _write("http", facts)

    def refused(self, peer: str, status: int, reason: str) -> None:
        """A connection was turned away before there was a request to speak of."""
        _write("http refused", {"client": peer, "status": status, "reason": reason})

    def opened(self, asked: Asked, node: str, path: str, seconds: float) -> None:
        """A WebSocket is open, so long after its client came."""
        facts = _facts(asked)
        facts["node"], facts["path"], facts["ms"] = node, path, _ms(seconds)
        _write("websocket opened", facts)

    def handed_over_closed(self, opened: Opened, node: str, seconds: float, end: End) -> None:
        """A WebSocket that was handed over has ended, as its node says or as we see."""
        facts = _facts(opened.asked)
        facts["node"], facts["path"], facts["seconds"] = node, "handoff", _s(seconds)
        if opened.carried is not None and end.received is not None and end.sent is not None:
            facts["bytes_in"] = max(0, end.received - opened.carried[0])
            facts["bytes_out"] = max(0, end.sent - opened.carried[1])
        if end.code != NO_CODE:
            facts["code"] = end.code
        if end.by is not By.UNKNOWN:
            facts["by"] = _BY[end.by]
        _write("websocket closed", facts)

    def tunnel_closed(
        self, asked: Asked, node: str, seconds: float, sizes: Sequence[int], code: int | None, by: str
    ) -> None:
        """A tunnel has ended: `by` client, node or balancer, with a close `code` if one was seen."""
        facts = _facts(asked)
        facts["node"], facts["path"], facts["seconds"] = node, "tunnel", _s(seconds)
        facts["bytes_in"], facts["bytes_out"] = sizes
        if code is not None:
            facts["code"] = code
        facts["by"] = by
        _write("websocket closed", facts)


def masked(target: str) -> str:
    """Return a request target without the values of its query, but for those that say nothing of anybody."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    return path + mark + "&".join(_masked_pair(pair) for pair in query.split("&"))


def _masked_pair(pair: str) -> str:
    name, mark, _ = pair.partition("=")
    return pair if not mark or name in PLAIN else f"{name}={MASK}"


def _facts(asked: Asked) -> dict[str, object]:
    facts: dict[str, object] = {"client": asked.client, "method": asked.method, "target": asked.target}
    if asked.trace:
        facts["trace"] = asked.trace
    return facts


def _write(phrase: str, facts: dict[str, object]) -> None:
    """Write a line.  It was asked before whether one is wanted; a reload may have said no since."""
    if log.isEnabledFor(logging.INFO):
        log.handle(logs.Line(logs.ACCESS, phrase, facts))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _s(seconds: float) -> float:
    return round(seconds, 3)
