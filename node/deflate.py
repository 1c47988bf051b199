"""permessage-deflate (RFC 7692), without context takeover either way.  Pure.

A context would cost each connection more memory than everything else of it, and without one the compressed form of a
message is the same for all clients: it is made once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

from node.frames import RSV1, frame

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


NAME: Final = "permessage-deflate"


class Agreed(NamedTuple):
    """What client and server will do."""

    window_bits: int
    """With which the server compresses."""
    answer: str
    """The value of the answer's Sec-WebSocket-Extensions."""


def agree(offers: Iterable[str]) -> Agreed | None:
    """Accept the first offer in these values of Sec-WebSocket-Extensions that we can keep (RFC 7692 5.1, 7.1).

    One with parameters that are unknown, twice there or have a wrong value is declined, as is a window that zlib does
    not have.  Both sides go without context takeover, whether the client offered it or not: 7.1.1 lets us say so.
    """
    for offer in (offer for value in offers for offer in value.split(",")):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name.lower() != NAME:
            continue
        bits = _window_bits(parameters)
        if bits:
            window = f"; server_max_window_bits={bits}" if bits < WIDEST_WINDOW else ""
            return Agreed(bits, f"{NAME}; server_no_context_takeover; client_no_context_takeover{window}")
    return None


def _window_bits(parameters: list[str]) -> int:
    """Return the window that an offer leaves us; 0 if it must be declined."""
    given: dict[str, str | None] = {}
    for parameter in parameters:
        name, has_value, value = (part.strip() for part in parameter.partition("="))
        if name in given or name not in _ALLOWED:
            return 0
        given[name] = value.strip('"') if has_value else None
        if given[name] not in _ALLOWED[name]:
            return 0
    return int(given.get("server_max_window_bits") or WIDEST_WINDOW)


_WINDOWS = [str(bits) for bits in range(NARROWEST_WINDOW, WIDEST_WINDOW + 1)]
_ALLOWED: dict[str, list[str | None]] = {
    "server_no_context_takeover": [None],
    "client_no_context_takeover": [None],
    "server_max_window_bits": [*_WINDOWS],
    "client_max_window_bits": [None, "8", *_WINDOWS],
}
"""Values of an offer's parameters that we can keep; None: without one."""


class Inflated(Exception):
    """A message cannot be inflated: it is no deflate stream, or it grows beyond the limit (`is_too_big`)."""

    def __init__(self, text: str, *, is_too_big: bool) -> None:
        super().__init__(text)
        self.is_too_big = is_too_big


def deflate(payload: bytes, window_bits: int = WIDEST_WINDOW) -> bytes:
    """Return `payload` compressed as the payload of a message (RFC 7692 7.2.1)."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window_bits, _MEMORY)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


def framed(first: int, payload: bytes, window_bits: int) -> bytes:
    """Return the frame that carries a message, compressed if that was agreed on (a window of 0: not) and pays."""
    if not window_bits or len(payload) < LEAST_BYTES:
        return frame(first, payload)
    return frame(first | RSV1, deflate(payload, window_bits))


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
