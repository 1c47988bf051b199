"""A balancer's front in the test's own event loop, on a real socket, in front of nodes that the test runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.config import Config
from cluster.member import Signal
from lb.certificates import Files
from lb.front import Front
from lb.metrics import Metrics
from lb.pool import Change, Node, Pool
from lb.terms import Terms
from lb.tls import Tls
from tests.support.certificates import Certificates

SECRET = "of-a-test"


@dataclass
class Balancer:
    """What a test sees of it.  Nodes are called n0, n1, … in the order of their ports."""

    front: Front
    pool: Pool
    metrics: Metrics
    config: Config
    port: int
    changes: list[Change] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    plain_port: int = 0
    """Where plain HTTP is led to `port`, if it is (`lb.tls.redirect`)."""
    tls: Tls | None = None
    trust: ssl.SSLContext | None = None
    """What its clients speak TLS with, if they do."""
    told: list[tuple[str, str]] = field(default_factory=list)
    """What became of its certificate."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    def node(self, name: str = "n0") -> Node:
        return self.pool.nodes[name]

    async def connect(self) -> Caller:
        """Open a client's connection; it ends with the balancer at the latest."""
        name = "localhost" if self.trust else None
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust, server_hostname=name))
        self.callers.append(caller)
        return caller

    async def connect_plain(self) -> Caller:
        """Open a connection to where plain HTTP is led away from."""
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.plain_port))
        self.callers.append(caller)
        return caller

    async def ask(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own and return all that comes back until it is closed."""
        caller = await self.connect()
        try:
            caller.writer.write(request)
            return await caller.rest()
        finally:
            caller.close()


@dataclass
class Caller:
    """A client's connection, raw."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[bytes, bytes]:
        """Return the head and the body of one answer that has a Content-Length."""
        head = await self.head()
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head, await self.reader.readexactly(int(length.partition(b":")[2]))

    async def rest(self, within_s: float = 30) -> bytes:
        """Return everything up to the end of the connection; a reset counts as one and is raised."""
        async with asyncio.timeout(within_s):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def balancer(
    *ports: int,
    most_connections: int = 1000,
    nodes: Mapping[str, Any] | None = None,
    certificates: Certificates | None = None,
    clock: Callable[[], float] = time.monotonic,
    **lb: Any,
) -> AsyncIterator[Balancer]:
    """Run a front with one ready node on each of `ports`; `lb` and `nodes` override sections of the configuration.

    With `certificates` it speaks TLS.  `clock` is what its paces, limits and judgements go by.
    """
    if certificates is not None:
        lb["tls"] = certificates.section | lb.get("tls", {})
    config = Config.model_validate({"secret": SECRET, "redis": "none", "lb": lb, "nodes": dict(nodes or {})})
    changes: list[Change] = []
    pool, metrics = Pool(clock, on_change=changes.append, terms=Terms.of(config)), Metrics()
    for number, port in enumerate(ports):
        pool.signal(pool.add_static("127.0.0.1", port, f"n{number}"), Signal.RISE, "for a test")
    changes.clear()
    files = Files.of(config.lb.tls, Path())
    told: list[tuple[str, str]] = []

    def tell(kind: str, reason: str, *, level: int) -> None:
        told.append((kind, reason))

    tls = Tls(files, tell, metrics) if files else None
    front = Front(config, pool, metrics, most_connections=most_connections, tls=tls)
    listening, plain = _listening(), _listening() if config.lb.tls.redirect else None
    port, plain_port = (each.getsockname()[1] if each else 0 for each in (listening, plain))
    front.start(listening, plain)
    result = Balancer(front, pool, metrics, config, port, changes, plain_port=plain_port, tls=tls, told=told)
    if certificates is not None:
        result.trust = certificates.trust("http/1.1")
    try:
        yield result
    finally:
        for caller in result.callers:
            caller.close()
            with suppress(ConnectionError):
                await caller.writer.wait_closed()
        await front.stop(0)


def _listening() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    return listening


def upgrade_request(target: str = "/ws", **headers: str) -> bytes:
    """Return the head of a WebSocket handshake (RFC 6455 1.3)."""
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: test",
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
