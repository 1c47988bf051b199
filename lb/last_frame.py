"""The close code at the end of a WebSocket's bytes, read off the last of them once all is over.  Pure.

A tunnel reads no frames, and so does not know where one begins.  But what was read at once mostly begins with one: if
it is frames from its first byte to its last and the last says goodbye, that is no chance.  Anything else tells nothing.
"""

from __future__ import annotations

from itertools import cycle

from cluster.ends import NO_STATUS

MOST_BYTES = 4096
"""What is looked at, and kept for it, of each direction."""

_CLOSE = 0x88
_FIN, _OPCODE, _MASKED, _SIZE = 0x80, 0x0F, 0x80, 0x7F
_DATA, _CONTROL = frozenset({0, 1, 2}), frozenset({8, 9, 10})
_CODES = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))
"""Those that may be sent: RFC 6455 7.4."""


def close_code(read: bytes, *, masked: bool) -> int | None:
    """Return the code of the close frame that ends `read`, 1005 if it has none; None if there certainly is none.

    `masked`: these are a client's bytes (RFC 6455 5.1).
    """
    at, end = 0, len(read)
    while at < end:
        frame = _frame_at(read, at, masked=masked)
        if frame is None:
            return None
        first, payload_at, at = frame
        if first == _CLOSE:
            return _code_in(read, payload_at, masked=masked) if at == end else None
    return None


def _frame_at(read: bytes, at: int, *, masked: bool) -> tuple[int, int, int] | None:
    """Return the first byte of the frame at `at`, where its payload begins, and where it ends (RFC 6455 5.2)."""
    if at + 2 > len(read):
        return None
    first, second = read[at], read[at + 1]
    size, start = second & _SIZE, at + 2
    if bool(second & _MASKED) is not masked or first & _OPCODE not in _DATA | _CONTROL:
        return None
    if first & _OPCODE in _CONTROL and (first & ~_OPCODE != _FIN or size > 125):
        return None
    if size > 125:
        start += 2 if size == 126 else 8
        size = int.from_bytes(read[at + 2 : start], "big")
        if size < (126 if start == at + 4 else 65536):
            return None  # "the minimal number of bytes MUST be used"
    start += 4 if masked else 0
    return (first, start, start + size) if start + size <= len(read) else None


def _code_in(read: bytes, at: int, *, masked: bool) -> int | None:
    payload = read[at:]
    if masked:
        payload = bytes(byte ^ key for byte, key in zip(payload, cycle(read[at - 4 : at]), strict=False))
    if not payload:
        return NO_STATUS
    code = int.from_bytes(payload[:2], "big")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return None
    return code if code in _CODES and len(payload) > 1 else None
