"""What a client posts: packets in a payload (Engine.IO protocol 4, "Packet encoding", "HTTP long-polling").  Pure."""

from __future__ import annotations

import binascii
from base64 import b64decode

MOST_POSTED = 1000
"""Packets in one request of a client: the JavaScript client puts everything that it has to say into one."""

_KINDS = frozenset("0123456")


class NotAPayload(ValueError):
    """What a client posted is not Engine.IO."""


def packets_in(body: bytes) -> list[str | bytes]:
    """Return the packets of a payload; messages that are binary as bytes.  Raises NotAPayload."""
    try:
        packets = body.decode().split("\x1e")
    except UnicodeDecodeError as exc:
        raise NotAPayload(f"not UTF-8: {exc.reason}") from None
    if len(packets) > MOST_POSTED:
        raise NotAPayload(f"{len(packets)} packets, more than {MOST_POSTED}")
    return [_packet_of(each) for each in packets]


def _packet_of(text: str) -> str | bytes:
    if text[:1] in _KINDS:
        return text
    if text[:1] != "b":
        raise NotAPayload(f"no type of packet: {text[:1]!r}")
    try:
        return b64decode(text[1:], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise NotAPayload(f"not base64: {exc}") from None
