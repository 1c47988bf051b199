"""Many Socket.IO clients on one thread and one epoll: a load generator must cost less than what it measures.

No asyncio: a callback through its transports costs as much as a server of ours needs for a delivery.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import TypeVar

from benchmarks.client import upgrade_request
from benchmarks.frames import CLOSE, FIN, PING, PONG, TEXT, masked_frame
from benchmarks.measure import BenchmarkError
from benchmarks.sio import wire

OPENING_AT_ONCE = 100
PATIENCE_S = 20.0
"""What makes no progress for so long never will."""

SOURCES = 250
"""Addresses that clients come from, 127.0.0.1, 127.0.1.1, ...: nginx' ip_hash looks at the first three bytes."""

_MOST_EVENTS = 128
"""Handled before the clock is looked at again: whoever paces a load must not be late."""

_RECEIVE_BYTES = 2**18
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python's socket has it from 3.12 on


class Phase(Enum):
    """How far a client has come: TCP, upgrade, Engine.IO's open packet, Socket.IO's connect packet."""

    CONNECTING = auto()
    UPGRADING = auto()
    OPENING = auto()
    JOINING = auto()
    READY = auto()
    GONE = auto()


class Client:
    """One WebSocket with one Socket.IO connection to the default namespace.  Subclasses say what it is for."""

    def __init__(self, swarm: Swarm, number: int) -> None:
        self.phase = Phase.CONNECTING
        self.reason = ""
        """Why it is gone."""
        self.number = number
        self.key = wire.key_of(number)
        self.frames = wire.Frames()
        self._swarm = swarm
        self._head = b""
        self._socket = _connecting(swarm.port, number)

    def ready(self) -> None:
        """It may emit from now on."""

    def packet(self, packet: bytes) -> None:
        """It got an Engine.IO packet that has nothing to do with the connection itself."""

    def gone(self) -> None:
        """The connection has ended; `reason` says why."""

    def received(self, data: bytes) -> None:
        """It got bytes, and nothing of a frame was held back."""
        self.parse(data)

    def send(self, frames: bytes) -> None:
        """Send what `wire.framed` made.  Raises BenchmarkError if the server does not read."""
        try:
            sent = self._socket.send(frames)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self.end(exc.strerror or str(exc))
            return
        if sent < len(frames):
            raise BenchmarkError(f"client {self.number} cannot send: the server does not read")

    def fileno(self) -> int:
        return self._socket.fileno()

    def end(self, reason: str = "closed by the client") -> None:
        """Close the connection at once."""
        if self.phase is not Phase.GONE:
            self.phase, self.reason = Phase.GONE, reason
            self._swarm.forget(self)
            self._socket.close()
            self.gone()

    def writable(self) -> None:
        """TCP is connected, or it is not."""
        failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self.end(os.strerror(failure))
            return
        self.phase = Phase.UPGRADING
        self.send(upgrade_request(wire.PATH))

    def readable(self, into: memoryview) -> None:
        try:
            size = self._socket.recv_into(into)
        except BlockingIOError:
            return
        except OSError as exc:
            self.end(exc.strerror or str(exc))
            return
        if not size:
            self.end("closed by the server")
            return
        data = bytes(into[:size])
        if self.phase is Phase.READY and self.frames.is_between:
            self.received(data)
        elif self.phase is Phase.UPGRADING:
            self._read_head(data)
        else:
            self.parse(data)

    def parse(self, data: bytes) -> None:
        """Go through the frames in `data`, behind what was held back."""
        for first, payload in self.frames.feed(data):
            if first == FIN | TEXT:
                self._read_packet(payload)
            elif first == FIN | PING:
                self.send(masked_frame(FIN | PONG, payload, self.key))
            elif first == FIN | CLOSE:
                self.end(f"closed by the server with code {int.from_bytes(payload[:2], 'big') or 1005}")
            elif first != FIN | PONG:
                self.end(f"unexpected frame, first byte 0x{first:02x}")
            if self.phase is Phase.GONE:
                return

    def _read_packet(self, packet: bytes) -> None:
        if packet == wire.PING:
            self.send(wire.framed(wire.PONG, self.key))
        elif self.phase is Phase.READY:
            self.packet(packet)
        elif self.phase is Phase.OPENING and packet.startswith(wire.OPEN):
            self.phase = Phase.JOINING
            self.send(wire.framed(wire.CONNECT, self.key))
        elif self.phase is Phase.JOINING and packet.startswith(wire.CONNECT):
            self.phase = Phase.READY
            self.ready()
        else:
            self.end(f"unexpected packet while {self.phase.name}: {packet[:80]!r}")

    def _read_head(self, data: bytes) -> None:
        self._head += data
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self.end(f"no upgrade: {head[:80]!r}")
            return
        self.phase = Phase.OPENING
        self.parse(rest)


AnyClient = TypeVar("AnyClient", bound=Client)


class Swarm:
    """The clients of one server on a port of loopback."""

    def __init__(self, port: int, patience_s: float = PATIENCE_S) -> None:
        self.port = port
        self._patience_s = patience_s
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._into = memoryview(bytearray(_RECEIVE_BYTES))

    def add(self, client: AnyClient) -> AnyClient:
        """Take part in what happens to it."""
        self._clients[client.fileno()] = client
        self._epoll.register(client.fileno(), select.EPOLLOUT)
        return client

    def forget(self, client: Client) -> None:
        """It is about to be closed."""
        self._clients.pop(client.fileno(), None)

    def turn(self, until: float) -> None:
        """Handle what has happened; wait for it until then, on the clock time.perf_counter."""
        wait_s = max(0.0, until - time.perf_counter())
        for number, events in self._epoll.poll(wait_s, _MOST_EVENTS):
            client = self._clients.get(number)
            if client is None:
                continue  # ended by an earlier one of these
            if client.phase is Phase.CONNECTING:
                self._epoll.modify(number, select.EPOLLIN)
                client.writable()
            elif events:
                client.readable(self._into)

    def until(self, done: Callable[[], bool], progress: Callable[[], int], what: str) -> None:
        """Go on until it is done.  Raises BenchmarkError if nothing progresses for `patience_s`."""
        known, deadline = progress(), time.perf_counter() + self._patience_s
        while not done():
            self.turn(min(deadline, time.perf_counter() + 0.1))
            if (now := progress()) != known:
                known, deadline = now, time.perf_counter() + self._patience_s
            elif time.perf_counter() >= deadline:
                raise BenchmarkError(f"{what}: nothing happens any more for {self._patience_s:g} s")

    def open(self, count: int, make: Callable[[int], AnyClient], at_once: int = OPENING_AT_ONCE) -> list[AnyClient]:
        """Open as many clients, each made of its number, `at_once` under way, and return them once all are ready.

        Raises BenchmarkError if one cannot be opened.
        """
        clients: list[AnyClient] = []
        under_way: set[AnyClient] = set()

        def done() -> bool:
            for client in [each for each in under_way if each.phase in (Phase.READY, Phase.GONE)]:
                under_way.remove(client)
                if client.phase is Phase.GONE:
                    raise BenchmarkError(f"client {client.number} of {count} cannot connect: {client.reason}")
            while len(clients) < count and len(under_way) < at_once:
                clients.append(self.add(make(len(clients))))
                under_way.add(clients[-1])
            return not under_way

        self.until(done, lambda: len(clients) - len(under_way), f"opening {count} clients")
        return clients

    def close(self) -> None:
        """End all that are left."""
        for client in list(self._clients.values()):
            client.end()
        self._epoll.close()


@contextmanager
def swarm_at(port: int, patience_s: float = PATIENCE_S) -> Iterator[Swarm]:
    """Hold a swarm; all of its clients are gone afterwards."""
    swarm = Swarm(port, patience_s)
    try:
        yield swarm
    finally:
        swarm.close()


def lost(clients: Sequence[Client]) -> list[str]:
    """Say why those are gone that should still be there."""
    return [f"client {client.number}: {client.reason}" for client in clients if client.phase is Phase.GONE]


def _connecting(port: int, number: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The port is chosen at connect, so that one is free as long as any to this server is.
    found.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        found.bind((f"127.0.{number % SOURCES}.1", 0))
        found.connect(("127.0.0.1", port))
    except BlockingIOError:
        pass  # as it should be: writable() says what came of it
    except OSError as exc:
        found.close()
        raise BenchmarkError(f"client {number} cannot connect: {exc.strerror}") from None
    return found
