"""One request of one client, as the parts that carry it need it, and the ends that its answer can have."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from aiohttp.http import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web import BaseRequest

from cluster.trace import trace_id
from lb.access import Asked
from lb.affinity import Client
from lb.begun import Begun
from lb.headers import Headers, Via, asks_for_unknown, tokens


@dataclass(frozen=True)
class Sent:
    """What an aiohttp handler returns when the answer is on its way already: aiohttp shall write nothing.

    It asks its response for no more than these three names, see tests/lb/test_contracts_aiohttp.py.
    """

    keep_alive: bool
    status: int
    node: str = ""
    """Who answered; empty: we did."""

    async def prepare(self, request: BaseRequest) -> None:
        """Nothing to prepare."""

    async def write_eof(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True)
class Exchange:
    """A request that was read up to the end of its head."""

    connection: int
    """The number of the client's connection, for log lines."""
    request: BaseRequest
    target: str
    """In origin form (RFC 9112 3.2.1), or `*`."""
    headers: Headers
    client: Client
    via: Via
    is_closing: Callable[[], bool]
    """Whether this worker is stopping: the client's connection then ends with the answer."""
    cookie_for: Callable[[str], str]
    """Gives the Set-Cookie value that sticks the client to a node."""
    began: float
    """When the request came, in monotonic seconds."""
    asked: Asked | None = None
    """For the access log, if there is one."""
    begun: Begun | None = None
    """Its node was asked already."""

    @property
    def trace(self) -> str:
        """The id of the trace that it belongs to, for log lines."""
        return trace_id(self.headers, self.via.trace)

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def version(self) -> tuple[int, int]:
        return self.request.version

    @property
    def body(self) -> StreamReader:
        return self.request.content

    @property
    def writer(self) -> StreamWriter:
        return cast(StreamWriter, self.request.writer)

    @property
    def keeps_alive(self) -> bool:
        # An HTTP/1.0 client may say both, and the parser hears only one of it (RFC 9112 9.3).
        wants = self.request.keep_alive and b"close" not in tokens(self.headers, b"connection")
        return wants and not self.is_closing() and not asks_for_unknown(self.headers)

    def cut(self, status: int, node: str) -> Sent:
        """End the client's connection so that it cannot take what it has for the whole answer."""
        transport = self.request.transport
        if transport is not None:
            abort(transport)
        return Sent(keep_alive=False, status=status, node=node)


SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110 9.2.1.  Asked again, once, when a node closes without an answer (RFC 9112 9.3.1)."""


def abort(transport: asyncio.WriteTransport) -> None:
    """Reset the connection: a FIN would look like the end of a body that ends with its connection (RFC 9112 6.3)."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
