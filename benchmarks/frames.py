"""WebSocket frames as bytes (RFC 6455 5.2), as far as the load generator and the echo server need them.  Pure."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80

_MASKED = 0x80
_NO_MASK = bytes(4)


@dataclass(frozen=True)
class Frame:
    """A frame as it came: `first` is its first byte (FIN, RSV, opcode), `payload` is unmasked, `size` is all of it."""

    first: int
    payload: bytes
    size: int

    @property
    def opcode(self) -> int:
        return self.first & 0x0F


def server_frame(first: int, payload: bytes) -> bytes:
    """Return an unmasked frame with this first byte."""
    return _head(first, len(payload), 0) + payload


def client_frame(payload: bytes) -> bytes:
    """Return a masked binary message in one frame.

    Its masking key is zero, which leaves the payload as it is: masking costs neither end anything, and no balancer that
    tunnels bytes can tell the difference.
    """
    return masked_frame(FIN | BINARY, payload, _NO_MASK)


def masked_frame(first: int, payload: bytes, key: bytes) -> bytes:
    """Return a client's frame with this first byte, masked with these four bytes."""
    return _head(first, len(payload), _MASKED) + key + _masked(payload, key)


def echoed(payload: bytes) -> bytes:
    """Return what an echo server answers to `client_frame(payload)`."""
    return server_frame(FIN | BINARY, payload)


def read_frame(data: bytes | bytearray, start: int = 0) -> Frame | None:
    """Return the frame that begins at `start`, a client's or a server's, or None if it is not whole yet."""
    if len(data) < start + 2:
        return None
    key_width = 4 if data[start + 1] & _MASKED else 0
    length, at = data[start + 1] & 0x7F, start + 2
    for marker, width in ((126, 2), (127, 8)):
        if length == marker:
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
            break
    payload_at = at + key_width
    end = payload_at + length
    if len(data) < end:
        return None
    key = bytes(data[at:payload_at]) or _NO_MASK
    return Frame(data[start], _masked(bytes(data[payload_at:end]), key), end - start)


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _head(first: int, length: int, masked: int) -> bytes:
    if length < 126:
        return bytes((first, masked | length))
    if length < 65536:
        return bytes((first, masked | 126)) + length.to_bytes(2, "big")
    return bytes((first, masked | 127)) + length.to_bytes(8, "big")


def _masked(payload: bytes, key: bytes) -> bytes:
    # RFC 6455 5.3: masking and unmasking are the same.
    if key == _NO_MASK:
        return payload
    # One big number for the whole payload: what `for` does byte by byte, XOR of integers does in C.
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(payload), "big")
