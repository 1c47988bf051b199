"""WebSockets that are opened and closed at once, again and again: the load for the price of a handshake."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

from benchmarks.client import upgrade_request
from benchmarks.frames import CLOSE, client_frame, server_frame

HANDSHAKE_TIMEOUT_S = 30.0
"""For one of them, from the connect to the end of the connection."""

_FIN_CLOSE = 0x80 | CLOSE
_NORMAL = b"\x03\xe8"  # RFC 6455 7.4.1: 1000
_GOODBYE = bytes((_FIN_CLOSE,)) + client_frame(_NORMAL)[1:]
_FAREWELL = server_frame(_FIN_CLOSE, _NORMAL)


@dataclass
class Churned:
    """What came of all handshakes; `waits_s` runs from the connect to the 101."""

    waits_s: list[float] = field(default_factory=list)
    failed: int = 0


class Visit(asyncio.Protocol):
    """One connection as RFC 6455 has it: upgrade, close frame, the server's close frame, its end of file."""

    def __init__(self, request: bytes) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.opened_at = 0.0
        self.is_complete = False
        self._request = request
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.opened_at:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._transport.abort()
                return
            self.opened_at, self._received = time.perf_counter(), rest
            self._transport.write(_GOODBYE)
        self.is_complete = self._received == _FAREWELL

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def churn(port: int, path: str, handshakes: int, at_once: int) -> Churned:
    """Open and close `handshakes` WebSockets, `at_once` at a time."""
    done, request = Churned(), upgrade_request(path)
    numbers = iter(range(handshakes))

    async def visitor() -> None:
        for _ in numbers:
            started = time.perf_counter()
            opened_at = await _visit(port, request)
            if opened_at is None:
                done.failed += 1
            else:
                done.waits_s.append(opened_at - started)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(visitor())
    return done


async def _visit(port: int, request: bytes) -> float | None:
    """Return when the 101 came, or None if anything went another way than it should."""
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            transport, visit = await asyncio.get_running_loop().create_connection(
                lambda: Visit(request), "127.0.0.1", port
            )
            try:
                await visit.ended
            finally:
                transport.abort()
    except (OSError, TimeoutError):
        return None
    return visit.opened_at if visit.is_complete else None
