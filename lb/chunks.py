"""A body that comes in chunks (RFC 9112 7.1), checked as it passes.  Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_LINE_BYTES = 8190
"""Of a chunk's first line with its extensions, and of all trailer fields together."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t -~\x80-\xff]*)?")
_NARROW = rb"[1-9A-Fa-f][0-9A-Fa-f]{0,6}"
_NARROW_LINE = re.compile(rb"(" + _NARROW + rb")\r\n")
"""Of any chunk but the last."""
_NARROW_SIZE = re.compile(rb"(0|" + _NARROW + rb")")
_NARROW_BEGINNING = re.compile(rb"(?:0|" + _NARROW + rb")\r?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


LAST_CHUNK = b"0\r\n\r\n"


class BadChunk(ValueError):
    """What came is no chunk, or has a line that is too long."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where `Chunks` is in the middle of a body, so that others can go on from there."""

    lead: bytes
    """What puts another reader there, in place of all that came."""
    invented: int
    """How many bytes of content it finds in `lead` that are none."""
    owed: bytes
    """What has to pass at once: the rest of the line end of a chunk whose content has passed."""
    lacks: int
    """How many bytes of content are yet to come of the chunk whose size has passed."""
    end: bytes
    """What has to pass when that reader has found the body's end."""


class Chunks:
    """Lets one body pass, but for chunk extensions and trailer fields: those concern one connection (RFC 9112 7.1.2).

    What can pass as it came is not copied: it may be gigabytes.
    """

    __slots__ = (
        "_before",
        "_in_trailer",
        "_is_narrow",
        "_left",
        "_line",
        "_trailer_bytes",
        "ended",
        "received",
        "rest",
    )

    def __init__(self, *, narrow: bool = False) -> None:
        """If `narrow`, take only what nearly all senders write, and no reader could misread.

        That is no extension and no trailer field, and each size in one spelling, far from the bounds of any integer.
        """
        self._is_narrow = narrow
        self._left = 0
        """Bytes of the chunk that are yet to come, the line end behind it included."""
        self._line = b""
        """What has come of a line: it passes when it is whole."""
        self._in_trailer = False
        self._trailer_bytes = 0
        self._before = (0, b"", False, 0, 0)
        """All of this before the last piece was fed."""
        self.received = 0
        """Bytes of content that have passed."""
        self.ended = False
        self.rest = b""
        """What came behind the body's end."""

    def undo(self) -> None:
        """Be again where we were before the last `feed`, even if that has raised."""
        self._left, self._line, self._in_trailer, self._trailer_bytes, self.received = self._before
        self.ended, self.rest = False, b""

    def stand(self) -> Stand:
        """Return where we are.  The body has not ended."""
        if self._left > 2:
            lacks = self._left - 2
            return Stand(b"%x\r\n" % lacks, 0, b"", lacks, LAST_CHUNK)
        if self._left:  # a reader that waits for the same line end has just read a chunk
            line_end = b"\r\n"
            return Stand(b"1\r\nx" + line_end[: 2 - self._left], 1, line_end[2 - self._left :], 0, LAST_CHUNK)
        if self._in_trailer:  # the size of the last chunk has passed
            return Stand(b"0\r\n" + self._line, 0, b"", 0, b"\r\n")
        return Stand(self._line, 0, b"", 0, LAST_CHUNK)

    def feed(self, data: bytes) -> bytes:
        """Return of `data` what passes, with its framing.  Raises BadChunk."""
        self._before = self._left, self._line, self._in_trailer, self._trailer_bytes, self.received
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
            if not self._in_trailer and (passed := self._pass_whole(data, at)) > at:
                at = passed
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
        self.received += came - max(0, of_end)
        return at + came

    def _pass_whole(self, data: bytes, at: int) -> int:
        """Let pass the chunks from `at` on that are here, all of each; return where the next thing begins.

        The rest of this class could read them as well, at thrice the price: of tiny chunks one read may bring 50,000.
        """
        received = self.received
        while line := _NARROW_LINE.match(data, at):
            size = int(line[1], 16)
            end = line.end() + size
            if data[end : end + 2] != b"\r\n":
                break
            received += size
            at = end + 2
        self.received = received
        return at

    def _line_end(self, data: bytes, at: int) -> int:
        """Return where the line that begins at `at` ends; if it does not, keep it for later and return -1."""
        end = data.find(b"\r\n", at, at + MOST_LINE_BYTES + 2)
        if end < 0:
            if len(data) - at > MOST_LINE_BYTES:
                raise BadChunk("a line that is too long")
            self._line = data[at:]
            if b"\n" in self._line:
                raise BadChunk("a line that ends without CR")
            if self._is_narrow and not self._may_become_narrow(self._line):
                raise BadChunk("no narrow line")
        return end

    def _may_become_narrow(self, beginning: bytes) -> bool:
        return beginning == b"\r" if self._in_trailer else _NARROW_BEGINNING.fullmatch(beginning) is not None

    def _read(self, line: bytes) -> int:
        """Go by what `line` says; return how much of it passes, from its beginning."""
        if not self._in_trailer:
            match = (_NARROW_SIZE if self._is_narrow else _SIZE).fullmatch(line)
            if match is None:
                raise BadChunk("no chunk size")
            size = int(match[1], 16)
            self._left, self._in_trailer = (size + 2, False) if size else (0, True)
            return match.end(1)
        self._trailer_bytes += len(line) + 2
        if not line:
            self.ended = True
        elif self._is_narrow or self._trailer_bytes > MOST_LINE_BYTES or _TRAILER.fullmatch(line) is None:
            raise BadChunk("no trailer field, or too much of it")
        return 0
