"""WebSocket frames as they come from a client (RFC 6455 5): bytes in, whole messages out.  No I/O.

Why not aiohttp's compiled reader: it takes unmasked frames, reserved bits in control frames, lengths that are longer
than needed and close codes that must not be sent, and cannot be asked for what it has read by half.  Nor is it faster
where it counts: one message in a read costs 0.4 µs here and 0.55 there, twenty in a read 0.7 and 0.5 each
(`benchmarks/reading.py`).  Masking is what needs a compiler, and aiohttp's is used.

Everything is refused as soon as it can be known: a header before its payload is there, and text at the first byte
that is not UTF-8.
"""

from __future__ import annotations

from codecs import utf_8_decode
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp._websocket.helpers import websocket_mask

from node.deflate import Inflated, inflate
from node.frames import RSV1

PROTOCOL_ERROR = 1002
INVALID_DATA = 1007
TOO_BIG = 1009
NO_CODE = 1005
"""Close codes (RFC 6455 7.4.1).  NO_CODE is never sent: it says that a close frame had none."""

_FIN = 0x80
_RESERVED = 0x70
_OPCODE = 0x0F
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_CODES = frozenset((*range(1000, 1004), *range(1007, 1015)))
"""Codes below 3000 that an endpoint may send: RFC 6455 7.4.1 and IANA's registry."""


class ProtocolError(Exception):
    """The client broke the protocol: the connection fails with the close code `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Ping(NamedTuple):
    payload: bytes


class Close(NamedTuple):
    code: int
    """NO_CODE if there is none in the frame."""
    reason: str


Event = str | bytes | Ping | Close

_Header = tuple[int, int, int]
"""Of a frame: its first byte, where in the bytes at hand its payload begins, and the payload's length."""


@dataclass(frozen=True, slots=True)
class HalfRead:
    """What a reader holds between two events, as a value: it may go to another process."""

    unread: bytes = b""
    """As they came: the beginning of a frame's header, or whole frames that were not asked for yet."""
    message: bytes = b""
    """Unmasked, of the message under way."""
    opcode: int = 0
    """Of the message under way; 0: there is none."""
    compressed: bool = False
    final: bool = False
    """Whether the frame under way is its message's last."""
    left: int = 0
    """Bytes of its payload that are still to come."""
    mask: bytes = b""
    """For these bytes."""


class Reader:
    """Takes what one client sends, however it is cut; gives one event at a time.

    `most_bytes` bounds a message, `inflates` says that permessage-deflate was agreed on.
    """

    __slots__ = (
        "_at",
        "_checked",
        "_compressed",
        "_data",
        "_final",
        "_inflates",
        "_left",
        "_mask",
        "_message",
        "_most_bytes",
        "_opcode",
    )

    def __init__(self, most_bytes: int, *, inflates: bool = False, half: HalfRead | None = None) -> None:
        self._most_bytes = most_bytes
        self._inflates = inflates
        half = half or _NOTHING
        self._data, self._at = half.unread, 0
        self._message: bytearray | None = bytearray(half.message) if half.opcode else None
        self._opcode, self._compressed = half.opcode, half.compressed
        self._final, self._left, self._mask = half.final, half.left, half.mask
        self._checked = 0

    @property
    def is_idle(self) -> bool:
        """Whether it holds nothing, so that a new one is as good."""
        return self._message is None and self._at == len(self._data)

    def half_read(self) -> HalfRead:
        """Return what it holds."""
        message = bytes(self._message or b"")
        unread = self._data[self._at :]
        return HalfRead(unread, message, self._opcode, self._compressed, self._final, self._left, self._mask)

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def next(self) -> Event | None:
        """Return the next event: text, binary data, a ping, the close; None when more bytes are needed for it.

        Raises ProtocolError; nothing can be read after that.
        """
        data, at = self._data, self._at
        # Most of what comes: a text in one frame, whole.
        if self._message is None and len(data) - at > 5 and data[at] == _FIN | _TEXT:
            length, start = data[at + 1] - 128, at + 6
            if length == 126:
                length, start = data[at + 2] << 8 | data[at + 3], at + 8
                is_plain = length > 125
            else:
                is_plain = 0 <= length < 126
            end = start + length
            if is_plain and length <= self._most_bytes and end <= len(data):
                self._at = end
                payload = bytearray(data[start:end])
                websocket_mask(data[start - 4 : start], payload)
                return _text(payload)
        return self._next()

    def _next(self) -> Event | None:
        while True:
            event: Event | None = None
            if self._left:
                if not self._read_payload():
                    return None
                if self._left == 0 and self._final:
                    event = self._whole()
            elif (header := self._header()) is None:
                return None
            elif header[0] & _OPCODE < _CLOSE:
                event = self._data_frame(header)
            elif self._is_there(header):
                event = self._control(header)
            else:
                return None
            if event is not None:
                return event

    def _is_there(self, header: _Header) -> bool:
        return len(self._data) >= header[1] + header[2]

    def _header(self) -> _Header | None:
        """Check the header that is next, and return it if it is whole."""
        data, at = self._data, self._at
        have = len(data) - at
        if have < 2:
            if have:
                self._check_first(data[at])
            return None
        first, second = data[at], data[at + 1]
        self._check_first(first)
        if not second & 0x80:
            raise ProtocolError(PROTOCOL_ERROR, "a client's frames are masked")  # RFC 6455 5.1
        length = second & 0x7F
        start = at + 6
        if length > 125:
            if first & _OPCODE >= _CLOSE:
                raise ProtocolError(PROTOCOL_ERROR, "a control frame holds at most 125 bytes")
            size = 2 if length == 126 else 8
            if have < 2 + size:
                return None
            length = int.from_bytes(data[at + 2 : at + 2 + size], "big")
            if length < (126 if size == 2 else 65536) or length >> 63:
                raise ProtocolError(PROTOCOL_ERROR, "a length takes as few bytes as it can")  # RFC 6455 5.2
            start += size
        if first & _OPCODE < _CLOSE and length + len(self._message or b"") > self._most_bytes:
            raise ProtocolError(TOO_BIG, f"at most {self._most_bytes} bytes")
        return None if len(data) < start else (first, start, length)

    def _check_first(self, first: int) -> None:
        opcode = first & _OPCODE
        if first & _RESERVED and not (
            first & _RESERVED == RSV1 and self._inflates and opcode in (_TEXT, _BINARY)  # RFC 7692 6
        ):
            raise ProtocolError(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise ProtocolError(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
            if not first & _FIN:
                raise ProtocolError(PROTOCOL_ERROR, "a control frame is not fragmented")
        elif opcode > _BINARY:
            raise ProtocolError(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        elif (opcode == _CONTINUATION) == (self._message is None):
            raise ProtocolError(PROTOCOL_ERROR, "a message begins inside another, or goes on without a beginning")

    def _take(self, header: _Header) -> bytearray:
        """Return the payload of a frame that is there, unmasked, and move on behind it."""
        data, start = self._data, header[1]
        self._at = end = start + header[2]
        payload = bytearray(data[start:end])
        websocket_mask(data[start - 4 : start], payload)
        return payload

    def _data_frame(self, header: _Header) -> str | bytes | None:
        """Read a frame with nothing before or behind it at once; begin to read any other."""
        first, start, length = header
        if self._message is None and first & (_FIN | RSV1) == _FIN and self._is_there(header):
            payload = self._take(header)
            return _text(payload) if first & _OPCODE == _TEXT else bytes(payload)
        if self._message is None:
            self._message = bytearray()
            self._opcode, self._compressed, self._checked = first & _OPCODE, bool(first & RSV1), 0
        self._final = bool(first & _FIN)
        self._left, self._mask = length, self._data[start - 4 : start]
        self._at = start
        return self._whole() if length == 0 and self._final else None

    def _read_payload(self) -> bool:
        """Move on in the frame under way; return whether there was anything."""
        assert self._message is not None
        at, count = self._at, min(self._left, len(self._data) - self._at)
        if count <= 0:
            return False
        piece = bytearray(self._data[at : at + count])
        websocket_mask(self._mask, piece)
        self._message += piece
        self._at += count
        self._left -= count
        turned = count % 4
        self._mask = self._mask[turned:] + self._mask[:turned]
        if self._opcode == _TEXT and not self._compressed:
            self._check_text(final=False)
        return True

    def _check_text(self, *, final: bool) -> str:
        assert self._message is not None
        try:
            text, used = utf_8_decode(self._message[self._checked :], "strict", final)
        except UnicodeDecodeError:
            raise ProtocolError(INVALID_DATA, "not UTF-8") from None
        self._checked += used
        return text

    def _whole(self) -> str | bytes:
        """Return the message under way, which is complete."""
        message, self._message = self._message, None
        assert message is not None
        opcode, self._opcode = self._opcode, 0
        if self._compressed:
            try:
                message = bytearray(inflate(message, self._most_bytes))
            except Inflated as exc:
                raise ProtocolError(TOO_BIG if exc.is_too_big else INVALID_DATA, str(exc)) from None
        return _text(message) if opcode == _TEXT else bytes(message)

    def _control(self, header: _Header) -> Ping | Close | None:
        opcode, payload = header[0] & _OPCODE, self._take(header)
        if opcode == _PING:
            return Ping(bytes(payload))
        if opcode == _PONG:
            return None
        if not payload:
            return Close(NO_CODE, "")
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (code in _CODES or 3000 <= code < 5000):
            raise ProtocolError(PROTOCOL_ERROR, "not a close code that may be sent")
        return Close(code, _text(payload[2:]))


def _text(payload: bytearray) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ProtocolError(INVALID_DATA, "not UTF-8") from None


_NOTHING = HalfRead()
