"""The load generator, a process of its own: WebSocket echo round trips, or idle connections.

    python -m benchmarks.load echo --port P --pid B --connections 100 --size 32 --seconds 5
    python -m benchmarks.load idle --port P --pid B --connections 1000

It reads the CPU time or the memory of the process B and its descendants itself, exactly over its own measuring window,
and prints one JSON object.  Every connection has one message in flight; each message differs from the one before it
and must come back byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from benchmarks.frames import client_frame, echoed
from benchmarks.measure import BenchmarkError, allow_descriptors, cpu_s, family, memory, new_event_loop

OPENING_AT_ONCE = 100
OPEN_TIMEOUT_S = 30.0
DRAIN_S = 3.0
SETTLE_S = 1.0
TICK_S = 0.001

_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True)
class EchoResult:
    """What came of a measuring window.  Times are in seconds unless they say µs."""

    round_trips: int
    seconds: float
    lost: int
    mismatched: int
    cpu_us: float
    """CPU time of the measured processes per round trip."""
    p50_us: float
    p99_us: float
    generator_cpu_percent: float


@dataclass(frozen=True)
class IdleResult:
    """Memory of the measured processes before, and with all connections open."""

    connections: int
    lost: int
    pss_kib_before: int
    rss_kib_before: int
    pss_kib_per_connection: float
    rss_kib_per_connection: float


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


class Connection(asyncio.Protocol):
    """One client: the handshake, then one message after the other."""

    def __init__(self, tally: Tally, messages: list[bytes]) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_closed = False
        self._tally = tally
        self._frames = [(client_frame(message), echoed(message)) for message in messages]
        self._next = 0
        self._head: bytes | None = b""
        self._expected = b""
        self._got = 0
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(_UPGRADE)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"closed during the handshake, after {self._head!r}"))

    def close(self) -> None:
        self._transport.abort()

    def send(self) -> None:
        frame, self._expected = self._frames[self._next]
        self._next = (self._next + 1) % len(self._frames)
        self._got = 0
        self._tally.in_flight += 1
        self._sent_at = time.perf_counter()
        self._transport.write(frame)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._read_head(data)
            return
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

    def _read_head(self, data: bytes) -> None:
        assert self._head is not None
        self._head += data
        if not self._head.endswith(b"\r\n\r\n"):
            return
        if self._head.startswith(b"HTTP/1.1 101"):
            self._head = None
            self.opened.set_result(None)
        else:
            self._transport.abort()


async def open_all(port: int, count: int, tally: Tally, size: int) -> list[Connection]:
    """Open `count` WebSockets to loopback.  Raises BenchmarkError if one cannot be opened."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(OPENING_AT_ONCE)

    connections: list[Connection] = []

    async def open_one(index: int) -> None:
        async with gate:
            messages = [f"{index}:{turn}:".encode().ljust(size, b"x")[:size] for turn in (0, 1)]
            _, connection = await loop.create_connection(lambda: Connection(tally, messages), "127.0.0.1", port)
            connections.append(connection)
            await connection.opened

    reasons: list[str] = []
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S), asyncio.TaskGroup() as group:
            for index in range(count):
                group.create_task(open_one(index))
    except* (OSError, TimeoutError) as failed:
        reasons = [str(exc) or f"not within {OPEN_TIMEOUT_S:g} s" for exc in failed.exceptions]
    if reasons:
        for connection in connections:
            connection.close()  # uvloop never ends the closing of a loop that still has some
        raise BenchmarkError(f"not all {count} connections to port {port} could be opened: {reasons[0]}")
    return connections


async def echo(options: argparse.Namespace) -> EchoResult:
    """Round trips on every connection; measured for `seconds`, after `warmup` seconds that are not."""
    tally = Tally(closed_loop=not options.rate)
    connections = await open_all(options.port, options.connections, tally, options.size)
    async with asyncio.TaskGroup() as group:
        pacing = group.create_task(_pace(tally, connections, options.rate))
        await asyncio.sleep(options.warmup)
        pids = family(options.pid)
        cpu_before, own_before, started = cpu_s(pids), time.process_time(), time.perf_counter()
        tally.recording = True
        await asyncio.sleep(options.seconds)
        tally.recording, tally.closed_loop = False, False
        used_s, seconds = cpu_s(pids) - cpu_before, time.perf_counter() - started
        own_s = time.process_time() - own_before
        pacing.cancel()
    lost = await _drained(tally)
    for connection in connections:
        connection.close()
    times = sorted(tally.latencies_s) or [0.0]
    return EchoResult(
        round_trips=tally.round_trips,
        seconds=seconds,
        lost=lost,
        mismatched=tally.mismatched,
        cpu_us=used_s / max(1, tally.round_trips) * 1e6,
        p50_us=times[len(times) // 2] * 1e6,
        p99_us=times[len(times) * 99 // 100] * 1e6,
        generator_cpu_percent=own_s / seconds * 100,
    )


async def idle(options: argparse.Namespace) -> IdleResult:
    """Open connections that stay silent, and see what they cost."""
    before = memory(family(options.pid))
    connections = await open_all(options.port, options.connections, Tally(closed_loop=False), 16)
    await asyncio.sleep(SETTLE_S)
    after = memory(family(options.pid))
    lost = sum(connection.is_closed for connection in connections)
    for connection in connections:
        connection.close()
    return IdleResult(
        connections=options.connections,
        lost=lost,
        pss_kib_before=before.pss_kib,
        rss_kib_before=before.rss_kib,
        pss_kib_per_connection=(after.pss_kib - before.pss_kib) / options.connections,
        rss_kib_per_connection=(after.rss_kib - before.rss_kib) / options.connections,
    )


async def _pace(tally: Tally, connections: list[Connection], rate: float) -> None:
    """Send the first message on every connection, or (open loop) `rate` messages a second on those that are free."""
    if not rate:
        for connection in connections:
            connection.send()
        return
    tally.idle.extend(connections)
    started, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - started) * rate) - sent
        for _ in range(min(due, len(tally.idle))):
            tally.idle.popleft().send()
            sent += 1
        await asyncio.sleep(TICK_S)


async def _drained(tally: Tally) -> int:
    """Wait for what is still in flight; return how many messages never came back."""
    tally.at_rest.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            if tally.in_flight:
                await tally.at_rest.wait()
    return tally.in_flight


_MODES: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, EchoResult | IdleResult]]] = {
    "echo": echo,
    "idle": idle,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description="WebSocket load generator")
    parser.add_argument("mode", choices=_MODES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="whose CPU time or memory is read")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args(arguments)
    try:
        allow_descriptors(options.connections + 50)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            result = runner.run(_MODES[options.mode](options))
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
