"""One Engine.IO message on its way to clients: encoded once, in each form once, however many get it.  Pure.

A Socket.IO packet is one text and its binary attachments, or (msgpack) one binary alone.  They must not be torn apart:
what lies between them in a client's stream would be taken for an attachment.
"""

from __future__ import annotations

from base64 import b64encode

from node.frames import BINARY, TEXT, frame

SEPARATOR = b"\x1e"
"""Between the packets of a payload (Engine.IO protocol 4, "Payload encoding")."""


class Message:
    """What a client gets as one: `text` (UTF-8, without the packet type), if any, then `binaries`."""

    __slots__ = ("_frames", "_payload", "binaries", "text")

    def __init__(self, text: bytes | None, binaries: tuple[bytes, ...] = ()) -> None:
        self.text = text
        self.binaries = binaries
        self._frames = self._payload = b""

    @property
    def frames(self) -> bytes:
        """The WebSocket frames that carry it, uncompressed."""
        if not self._frames:
            parts = [] if self.text is None else [frame(TEXT, b"4" + self.text)]
            parts += [frame(BINARY, binary) for binary in self.binaries]
            self._frames = b"".join(parts)
        return self._frames

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
