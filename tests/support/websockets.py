"""A client's end of a WebSocket, raw: frames as they are, right or wrong (RFC 6455 5.2)."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.balancer import upgrade_request

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40


def masked(payload: bytes, mask: bytes) -> bytes:
    """Return `payload` under `mask` (RFC 6455 5.3)."""
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def client_frame(first: int, payload: bytes = b"", *, mask: bytes | None = b"\x00\x00\x00\x00") -> bytes:
    """Return a frame that begins with the byte `first`; one without a mask is not a client's."""
    size = len(payload)
    bit = 0 if mask is None else 0x80
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if mask is None:
        return head + payload
    return head + mask + (payload if mask == bytes(4) else masked(payload, mask))


def text(payload: str | bytes) -> bytes:
    """Return a whole text message."""
    return client_frame(FIN | TEXT, payload.encode() if isinstance(payload, str) else payload)


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return client_frame(FIN | CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


class Heard(NamedTuple):
    """A frame of the server's."""

    first: int
    payload: bytes

    @property
    def code(self) -> int | None:
        """The close code, if it is a close frame that has one."""
        return struct.unpack("!H", self.payload[:2])[0] if self.first == FIN | CLOSE and self.payload else None


def frames_in(data: bytes) -> tuple[list[Heard], bytes]:
    """Return the whole frames at the head of `data`, and what is left.  Raises AssertionError for a masked one."""
    frames = []
    while len(data) >= 2:
        assert not data[1] & 0x80, "a server's frames are not masked"
        size, start = data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            break
        frames.append(Heard(data[0], data[start : start + size]))
        data = data[start + size :]
    return frames, data


@dataclass
class Client:
    """A connection whose WebSocket is open; `with` closes it.  Blocking, with a deadline for each call."""

    sock: socket.socket
    answer: bytes
    unread: bytes = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hear(self) -> Heard | None:
        """Return the next frame; None at the end of the connection.  Raises TimeoutError, ConnectionResetError."""
        while True:
            frames, _ = frames_in(self.unread)
            if frames:
                first = frames[0]
                size = len(first.payload)
                self.unread = self.unread[size + (2 if size < 126 else 4 if size < 65536 else 10) :]
                return first
            data = self.sock.recv(1 << 20)
            if not data:
                assert not self.unread, "the connection ended inside a frame"
                return None
            self.unread += data

    def hear_all(self) -> list[Heard]:
        """Return everything up to the end of the connection."""
        data = self.unread
        while piece := self.sock.recv(1 << 20):
            data += piece
        frames, rest = frames_in(data)
        assert not rest, "the connection ended inside a frame"
        self.unread = b""
        return frames


def opened(port: int, target: str = "/echo", *, within_s: float = 30, **headers: str) -> Client:
    """Open a WebSocket on a port of this host."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=within_s)
    sock.sendall(upgrade_request(target, **headers))
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        assert piece, f"no answer but {data!r}"
        data += piece
    head, _, unread = data.partition(b"\r\n\r\n")
    return Client(sock, head, unread)


class Listener:
    """A node.receiver.Receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.ends: list[tuple[int, str]] = []

    def received(self, data: str | bytes) -> None:
        assert not self.ends, "nothing is received after the end"
        self.messages.append(data)

    def closed(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))


async def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection on loopback, not blocking: the server's and the client's."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.setblocking(False)
        listening.setblocking(False)
        await asyncio.gather(loop.sock_connect(client, listening.getsockname()))
        server, _ = await loop.sock_accept(listening)
    server.setblocking(False)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    return server, client
