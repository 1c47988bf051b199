"""What lines of the access log are made of, and the line at the end of a WebSocket that was handed over.

As a rule the balancer's worker writes that, as its node tells it of the end.  If that worker is no more, the node does,
from what the balancer has written into the request's head.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from cluster import logs, tcp_info
from cluster.ends import NO_CODE, By, End
from cluster.proxies import TrustedProxies
from cluster.trace import trace_id

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

    @classmethod
    def of_head(cls, received: bytes, proxies: TrustedProxies) -> Asked | None:
        """Return what the balancer's line has said of the request that `received` begins with, as it was rewritten.

        The balancer has put its peer last into X-Forwarded-For.  None for what is no whole head.
        """
        head, end, _ = received.partition(b"\r\n\r\n")
        first, *fields = head.split(b"\r\n")
        words = first.decode("utf-8", "surrogateescape").split(" ")
        if not end or len(words) != 3:
            return None
        method, target, _ = words
        headers = [(name, value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
        chain = [value for name, value in headers if name.lower() == b"x-forwarded-for"]
        before, _, peer = b",".join(chain).rpartition(b",")
        client = proxies.client_of(peer.strip().decode("latin-1"), [before] if before else [])
        return cls(client, method, masked(target), trace_id(headers, b""))

    def facts(self) -> dict[str, object]:
        """Return the fields with which each line begins."""
        facts: dict[str, object] = {"client": self.client, "method": self.method, "target": self.target}
        if self.trace:
            facts["trace"] = self.trace
        return facts


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

    def closed(self, node: str, seconds: float, end: End) -> None:
        """Write the last line."""
        facts = self.asked.facts()
        facts["node"], facts["path"], facts["seconds"] = node, "handoff", round(seconds, 3)
        if self.carried is not None and end.received is not None and end.sent is not None:
            facts["bytes_in"] = max(0, end.received - self.carried[0])
            facts["bytes_out"] = max(0, end.sent - self.carried[1])
        if end.code != NO_CODE:
            facts["code"] = end.code
        if end.by is not By.UNKNOWN:
            facts["by"] = _BY[end.by]
        write("websocket closed", facts)


_BY = {by: by.name.lower() for by in By}


def masked(target: str) -> str:
    """Return a request target without the values of its query, but for those that say nothing of anybody."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    return path + mark + "&".join(_masked_pair(pair) for pair in query.split("&"))


def _masked_pair(pair: str) -> str:
    name, mark, _ = pair.partition("=")
    return pair if not mark or name in PLAIN else f"{name}={MASK}"


def write(phrase: str, facts: Mapping[str, object]) -> None:
    """Write a line.  It was asked before whether one is wanted; a reload may have said no since."""
    if log.isEnabledFor(logging.INFO):
        log.handle(logs.Line(logs.ACCESS, phrase, facts))


def is_on() -> bool:
    """Whether lines are wanted; a reload may change it."""
    return log.isEnabledFor(logging.INFO)
