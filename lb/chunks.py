"""A body that comes in chunks (RFC 9112 7.1), checked as it passes.  Pure."""

from __future__ import annotations

import re

MOST_LINE_BYTES = 8190
"""Of a chunk's first line with its extensions, and of all trailer fields together."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class BadChunk(ValueError):
    """What came is no chunk, or has a line that is too long."""


class Chunks:
    """Lets one body pass, but for chunk extensions and trailer fields: those concern one connection (RFC 9112 7.1.2).

    What can pass as it came is not copied: it may be gigabytes.
    """

    __slots__ = ("_in_trailer", "_left", "_line", "_trailer_bytes", "ended", "rest")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the chunk that are yet to come, the line end behind it included."""
        self._line = b""
        """What has come of a line: it passes when it is whole."""
        self._in_trailer = False
        self._trailer_bytes = 0
        self.ended = False
        self.rest = b""
        """What came behind the body's end."""

    def feed(self, data: bytes) -> bytes:
        """Return of `data` what passes, with its framing.  Raises BadChunk."""
        if self._line:
            data, self._line = self._line + data, b""
        kept: list[bytes] = []
        """What passes of `data` up to `begin`, if that is not all."""
        begin = at = 0
        while at < len(data):
            if self.ended:
                self.rest = data[at:]
                kept.append(data[begin:at])
                return b"".join(kept)
            if self._left:
                at = self._pass(data, at)
                continue
            end = self._line_end(data, at)
            if end < 0:
                kept.append(data[begin:at])
                return b"".join(kept)
            passes = self._read(data[at:end])
            if passes < end - at:  # all of a trailer field, the line end too; else an extension
                kept.append(data[begin : at + passes])
                begin = end if passes else end + 2
            at = end + 2
        if not begin:
            return data
        kept.append(data[begin:])
        return b"".join(kept)

    def _pass(self, data: bytes, at: int) -> int:
        """Let pass what there is of a chunk; return where the next thing begins."""
        came = min(self._left, len(data) - at)
        of_end = came - max(0, self._left - 2)
        """How much of what came is of the line end behind the chunk."""
        left = self._left - came
        if of_end > 0 and data[at + came - of_end : at + came] != b"\r\n"[2 - left - of_end : 2 - left]:
            raise BadChunk("no line end behind a chunk")
        self._left = left
        return at + came

    def _line_end(self, data: bytes, at: int) -> int:
        """Return where the line that begins at `at` ends; if it does not, keep it for later and return -1."""
        end = data.find(b"\r\n", at, at + MOST_LINE_BYTES + 2)
        if end < 0:
            if len(data) - at > MOST_LINE_BYTES:
                raise BadChunk("a line that is too long")
            self._line = data[at:]
            if b"\n" in self._line:
                raise BadChunk("a line that ends without CR")
        return end

    def _read(self, line: bytes) -> int:
        """Go by what `line` says; return how much of it passes, from its beginning."""
        if not self._in_trailer:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise BadChunk("no chunk size")
            size = int(match[1], 16)
            self._left, self._in_trailer = (size + 2, False) if size else (0, True)
            return match.end(1)
        self._trailer_bytes += len(line) + 2
        if not line:
            self.ended = True
        elif self._trailer_bytes > MOST_LINE_BYTES or _TRAILER.fullmatch(line) is None:
            raise BadChunk("no trailer field, or too much of it")
        return 0
