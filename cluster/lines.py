"""Cut a stream of bytes into lines of bounded length.  Pure."""

from __future__ import annotations

MAX_LINE_BYTES = 32 * 1024
CUT = " … (cut)"


class LineSplitter:
    """Take bytes as they come, give text lines without their ends.

    What a line has beyond `most_bytes` is dropped and the line ends in CUT, so that a process which never ends its
    line costs no more memory than that.
    """

    def __init__(self, most_bytes: int = MAX_LINE_BYTES) -> None:
        self._most = most_bytes
        self._begun = bytearray()
        self._dropped = False

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        *complete, begun = data.split(b"\n")
        lines = []
        for part in complete:
            self._add(part)
            lines.append(self._end())
        self._add(begun)
        return lines

    def rest(self) -> list[str]:
        """Return what is left when the stream has ended: a line without its end, or nothing."""
        return [self._end()] if self._begun or self._dropped else []

    def _add(self, part: bytes) -> None:
        room = self._most - len(self._begun)
        self._begun += part[:room]
        self._dropped |= len(part) > room

    def _end(self) -> str:
        line = self._begun.decode("utf-8", "backslashreplace").rstrip("\r")
        if self._dropped:
            line += CUT
        self._begun.clear()
        self._dropped = False
        return line
