"""Clients of an echo server: how any of them opens, one that sends prebuilt frames, and how to open many."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast

from benchmarks.frames import client_frame, echoed
from benchmarks.measure import BenchmarkError

OPENING_AT_ONCE = 100
OPEN_TIMEOUT_S = 30.0
LEAST_PER_S = 200.0
"""How many connections a second must be opened at least, beyond that time."""


def upgrade_request(path: str) -> bytes:
    """Return the request for a WebSocket at `path` (RFC 6455 4.1, with its sample key)."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def percentile(ascending: list[float], percent: int) -> float:
    """Return the value below which `percent` % of these lie; 0 if there are none."""
    return ascending[len(ascending) * percent // 100] if ascending else 0.0


@dataclass
class Tally:
    """What all connections count together."""

    recording: bool = False
    closed_loop: bool = True
    round_trips: int = 0
    mismatched: int = 0
    latencies_s: list[float] = field(default_factory=list)
    in_flight: int = 0
    idle: deque[Connection] = field(default_factory=deque)
    """Connections that may send, in open loop."""
    at_rest: asyncio.Event = field(default_factory=asyncio.Event)

    def landed(self, messages: int = 1) -> None:
        self.in_flight -= messages
        if not self.in_flight:
            self.at_rest.set()


class Client(asyncio.Protocol, ABC):
    """One client up to the server's 101: `opened` is then done.  What follows is for those who derive from this."""

    def __init__(self, request: bytes) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_closed = False
        self._request = request
        self._head: bytes | None = b""
        """What has come of the server's head; None once the WebSocket is open."""

    @abstractmethod
    def heard(self, data: bytes) -> None:
        """Take what came behind the head, in any pieces."""

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"closed during the handshake, after {self._head!r}"))

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self.heard(data)
            return
        self._head += data
        head, ended, behind = self._head.partition(b"\r\n\r\n")
        if not ended:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self._transport.abort()
            return
        self._head = None
        self.opened.set_result(None)
        if behind:
            self.heard(behind)


class Connection(Client):
    """One message after the other, each once the one before is back."""

    def __init__(self, number: int, tally: Tally, size: int, request: bytes) -> None:
        super().__init__(request)
        messages = [f"{number}:{turn}:".encode().ljust(size, b"x")[:size] for turn in (0, 1)]
        self._tally = tally
        self._frames = [(client_frame(message), echoed(message)) for message in messages]
        self._next = 0
        self._expected = b""
        self._got = 0
        self._sent_at = 0.0

    def send(self) -> None:
        frame, self._expected = self._frames[self._next]
        self._next = (self._next + 1) % len(self._frames)
        self._got = 0
        self._tally.in_flight += 1
        self._sent_at = time.perf_counter()
        self._transport.write(frame)

    def heard(self, data: bytes) -> None:
        end = self._got + len(data)
        if self._expected[self._got : end] != data:
            # What follows cannot be told apart any more: this connection is over.
            self._tally.mismatched += 1
            self._tally.landed(int(self._got < len(self._expected)))
            self._expected, self._got = b"", 0
            self._transport.abort()
            return
        self._got = end
        if end == len(self._expected):
            self._round_trip_done()

    def _round_trip_done(self) -> None:
        self._expected, self._got = b"", 0  # whatever comes before the next message is one too many
        tally = self._tally
        tally.landed()
        if tally.recording:
            tally.round_trips += 1
            tally.latencies_s.append(time.perf_counter() - self._sent_at)
        if tally.closed_loop:
            self.send()
        else:
            tally.idle.append(self)


Opened = TypeVar("Opened", bound=Client)


async def open_all(port: int, count: int, client: Callable[[int], Opened]) -> list[Opened]:
    """Open `count` WebSockets to loopback, each with the protocol that `client` makes of its number, from 0 on.

    Raises BenchmarkError if one cannot be opened.
    """
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(OPENING_AT_ONCE)
    limit_s = OPEN_TIMEOUT_S + count / LEAST_PER_S
    opened: list[Opened] = []

    async def open_one(number: int) -> None:
        async with gate:
            _, one = await loop.create_connection(partial(client, number), "127.0.0.1", port)
            opened.append(one)
            await one.opened

    reasons: list[str] = []
    try:
        async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(open_one(number))
    except* (OSError, TimeoutError) as failed:
        reasons = [str(exc) or f"not within {limit_s:g} s" for exc in failed.exceptions]
    if reasons:
        for one in opened:
            one.close()  # uvloop never ends the closing of a loop that still has some
        raise BenchmarkError(f"not all {count} connections to port {port} could be opened: {reasons[0]}")
    return opened
