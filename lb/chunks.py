"""A body that comes in chunks (RFC 9112 7.1), read as it comes.  Pure."""

from __future__ import annotations

import re

MOST_LINE_BYTES = 8190
"""Of a chunk's first line with its extensions, and of all trailer fields together."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class BadChunk(ValueError):
    """What came is no chunk, or has a line that is too long."""


class Chunks:
    """Takes the framing off one body.  Extensions and trailer fields are read and go no further (RFC 9112 7.1.2)."""

    __slots__ = ("_in_trailer", "_left", "_line", "_trailer_bytes", "ended", "rest")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the chunk that are yet to come, the line end behind it included."""
        self._line = b""
        """What has come of a line."""
        self._in_trailer = False
        self._trailer_bytes = 0
        self.ended = False
        self.rest = b""
        """What came behind the body's end."""

    def feed(self, data: bytes) -> bytes:
        """Return the body's bytes among `data`.  Raises BadChunk."""
        if self._line:
            data, self._line = self._line + data, b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data):
            if self.ended:
                self.rest = data[at:]
                break
            at = self._data(data, at, pieces) if self._left else self._next(data, at)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _data(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take what there is of a chunk; return where the next thing begins."""
        payload = self._left - 2
        if payload > 0:
            piece = data[at : at + payload]
            pieces.append(piece)
            self._left -= len(piece)
            return at + len(piece)
        end = data[at : at + self._left]
        if end != b"\r\n"[-self._left :][: len(end)]:
            raise BadChunk("no line end behind a chunk")
        self._left -= len(end)
        return at + len(end)

    def _next(self, data: bytes, at: int) -> int:
        """Take the line that begins at `at`, if it is whole; return where the next thing begins."""
        end = data.find(b"\r\n", at)
        if (end if end >= 0 else len(data)) - at > MOST_LINE_BYTES:
            raise BadChunk("a line that is too long")
        if end < 0:
            self._line = data[at:]
            if b"\n" in self._line:
                raise BadChunk("a line that ends without CR")
            return len(data)
        line = data[at:end]
        if self._in_trailer:
            self._trailer(line)
        else:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise BadChunk("no chunk size")
            size = int(match[1], 16)
            self._left, self._in_trailer = (size + 2, False) if size else (0, True)
        return end + 2

    def _trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if not line:
            self.ended = True
        elif self._trailer_bytes > MOST_LINE_BYTES or _TRAILER.fullmatch(line) is None:
            raise BadChunk("no trailer field, or too much of it")
