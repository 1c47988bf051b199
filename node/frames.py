"""WebSocket frames as a server sends them (RFC 6455 5.2): never masked, never fragmented.  Pure."""

from __future__ import annotations

from struct import pack

TEXT = 0x81
BINARY = 0x82
CLOSE = 0x88
PING = 0x89
PONG = 0x8A
"""First bytes of whole frames: FIN and the opcode."""

RSV1 = 0x40
"""Set in the first byte of a frame that permessage-deflate compressed (RFC 7692 6)."""

MOST_CLOSE_REASON_BYTES = 123


def frame(first: int, payload: bytes) -> bytes:
    """Return the frame that begins with the byte `first` and carries `payload`."""
    length = len(payload)
    if length < 126:
        return b"%c%c%b" % (first, length, payload)
    if length < 65536:
        return pack("!BBH", first, 126, length) + payload
    return pack("!BBQ", first, 127, length) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Return the close frame with `code`, 0 for none, and as much of `reason` as fits (RFC 6455 5.5)."""
    if not code:
        return frame(CLOSE, b"")
    text = reason.encode(errors="replace")[:MOST_CLOSE_REASON_BYTES].decode(errors="ignore").encode()
    return frame(CLOSE, pack("!H", code) + text)
