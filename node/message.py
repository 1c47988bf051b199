"""One Engine.IO message on its way to clients: encoded once, in each form once, however many get it.  Pure.

A Socket.IO packet is one text and its binary attachments, or (msgpack) one binary alone.  They must not be torn apart:
what lies between them in a client's stream would be taken for an attachment.
"""

from __future__ import annotations

from base64 import b64encode

from node.deflate import framed
from node.frames import BINARY, TEXT, frame

SEPARATOR = b"\x1e"
"""Between the packets of a payload (Engine.IO protocol 4, "Payload encoding")."""


_SHORT = [frame(TEXT, b"4" + b" " * length)[:3] for length in range(125)]
"""What comes before a text of so many bytes in a frame with a header of two bytes: most messages are that short."""


class Message:
    """What a client gets as one: `text` (UTF-8, without the packet type), if any, then `binaries`."""

    __slots__ = ("_deflated", "_frames", "_payload", "binaries", "text")

    def __init__(self, text: bytes | None, binaries: tuple[bytes, ...] = ()) -> None:
        self.text = text
        self.binaries = binaries
        self._frames = self._payload = b""
        self._deflated: dict[int, bytes] | None = None

    @property
    def frames(self) -> bytes:
        """The WebSocket frames that carry it, uncompressed."""
        if not self._frames:
            if not self.binaries and self.text is not None and len(self.text) < len(_SHORT):
                self._frames = _SHORT[len(self.text)] + self.text
                return self._frames
            parts = [] if self.text is None else [frame(TEXT, b"4" + self.text)]
            parts += [frame(BINARY, binary) for binary in self.binaries]
            self._frames = b"".join(parts)
        return self._frames

    def deflated(self, window_bits: int) -> bytes:
        """Return the WebSocket frames that carry it, compressed for clients that agreed on that window."""
        if self._deflated is None:
            self._deflated = {}
        if window_bits not in self._deflated:
            parts = [] if self.text is None else [framed(TEXT, b"4" + self.text, window_bits)]
            parts += [framed(BINARY, binary, window_bits) for binary in self.binaries]
            self._deflated[window_bits] = b"".join(parts)
        return self._deflated[window_bits]

    @property
    def payload(self) -> bytes:
        """The packets that carry it in the answer to a poll."""
        if not self._payload:
            parts = [] if self.text is None else [b"4" + self.text]
            parts += [b"b" + b64encode(binary) for binary in self.binaries]
            self._payload = SEPARATOR.join(parts)
        return self._payload

    @property
    def packets(self) -> int:
        """Engine.IO packets that it is made of."""
        return len(self.binaries) + (self.text is not None)

    @property
    def size(self) -> int:
        """Bytes of content."""
        return len(self.text or b"") + sum(map(len, self.binaries))
