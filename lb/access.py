"""The access log (`log.access`): a line for each HTTP exchange, one when a WebSocket opens and one when it ends.

A line says what we know and nothing else: of a WebSocket that was handed over, what its node tells of its end.
Credentials stay out: of the query the names, and only the values of Engine.IO's own parameters.
Whoever has no line to write asks `is_on` and does no more.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster import access
from cluster.access import Asked, Opened, masked
from cluster.proxies import TrustedProxies
from cluster.trace import trace_id
from lb.headers import Headers, Via, values

__all__ = ["AccessLog", "Asked", "Opened"]


class AccessLog:
    """Writes the lines of one worker.  `proxies` are those whose X-Forwarded-For tells who the client is."""

    def __init__(self, proxies: TrustedProxies = TrustedProxies()) -> None:  # noqa: B008  frozen
        self._proxies = proxies

    @property
    def is_on(self) -> bool:
        """Whether lines are wanted; a reload may change it."""
        return access.is_on()

    def asked(self, method: str, target: str, headers: Headers, via: Via) -> Asked:
        """Return what a line shall say of this request."""
        client = self._proxies.client_of(via.peer, values(headers, b"x-forwarded-for"))
        return Asked(client, method, masked(target), trace_id(headers, via.trace))

    def answered(self, asked: Asked, node: str, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """An HTTP exchange is over.  No `node`: the answer was ours.  499: the client went away first."""
        facts = asked.facts()
        if node:
            facts["node"] = node
        facts["status"], facts["ms"] = status, round(seconds * 1000, 3)
        facts["bytes_in"], facts["bytes_out"] = bytes_in, bytes_out
        access.write("http", facts)

    def refused(self, peer: str, status: int, reason: str) -> None:
        """A connection was turned away before there was a request to speak of."""
        access.write("http refused", {"client": peer, "status": status, "reason": reason})

    def opened(self, asked: Asked, node: str, path: str, seconds: float) -> None:
        """A WebSocket is open, so long after its client came."""
        facts = asked.facts()
        facts["node"], facts["path"], facts["ms"] = node, path, round(seconds * 1000, 3)
        access.write("websocket opened", facts)

    def tunnel_closed(
        self, asked: Asked, node: str, seconds: float, sizes: Sequence[int], code: int | None, by: str
    ) -> None:
        """A tunnel has ended: `by` client, node or balancer, with a close `code` if one was seen."""
        facts = asked.facts()
        facts["node"], facts["path"], facts["seconds"] = node, "tunnel", round(seconds, 3)
        facts["bytes_in"], facts["bytes_out"] = sizes
        if code is not None:
            facts["code"] = code
        facts["by"] = by
        access.write("websocket closed", facts)
