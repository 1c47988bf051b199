"""permessage-deflate (RFC 7692), without context takeover either way.  Pure.

A context would cost each connection more memory than everything else of it, and without one the compressed form of a
message is the same for all clients: it is made once.
"""

from __future__ import annotations

import zlib
from typing import Final

LEAST_BYTES: Final = 1024
"""Messages shorter than that are sent as they are: compressing them gains nothing."""

WIDEST_WINDOW: Final = 15
NARROWEST_WINDOW: Final = 9
"""In bits.  RFC 7692 allows 8, which zlib cannot do for raw deflate."""

MOST_STREAMS: Final = 16
"""Deflate streams in one message.  Each costs a window, and a client that sends honestly needs one."""

_TAIL = b"\x00\x00\xff\xff"
_LEVEL = 1
_MEMORY = 8


class Inflated(Exception):
    """A message cannot be inflated: it is no deflate stream, or it grows beyond the limit (`is_too_big`)."""

    def __init__(self, text: str, *, is_too_big: bool) -> None:
        super().__init__(text)
        self.is_too_big = is_too_big


def deflate(payload: bytes, window_bits: int = WIDEST_WINDOW) -> bytes:
    """Return `payload` compressed as the payload of a message (RFC 7692 7.2.1)."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window_bits, _MEMORY)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


def inflate(payload: bytes | bytearray, most_bytes: int) -> bytes:
    """Undo `deflate` (RFC 7692 7.2.2).  Raises Inflated, without ever holding more than `most_bytes` + 1."""
    rest = bytes(payload) + _TAIL
    inflated = b""
    for _ in range(MOST_STREAMS):
        unpacker = zlib.decompressobj(-WIDEST_WINDOW)
        try:
            inflated += unpacker.decompress(rest, most_bytes + 1 - len(inflated))
        except zlib.error:
            raise Inflated("not a deflate stream", is_too_big=False) from None
        if len(inflated) > most_bytes:
            raise Inflated(f"at most {most_bytes} bytes", is_too_big=True)
        # RFC 7692 7.2.3.4: a stream may end inside a message, and another follow.
        rest = unpacker.unused_data
        if not rest:
            return inflated
    raise Inflated("too many deflate streams in one message", is_too_big=False)
