"""Where the heads of requests end in what a client sends, in whatever pieces it comes.  Pure."""

from __future__ import annotations

import re

HEAD_END = b"\r\n\r\n"

_EMPTY_LINES = re.compile(rb"[\r\n]+")  # RFC 9112 2.2


class HeadEnds:
    """Finds the ends of one connection's heads, one after the other."""

    __slots__ = ("_edge",)

    def __init__(self) -> None:
        self._edge = b""
        """The last bytes of a head that has not ended: they may begin its end."""

    def find(self, data: bytes, at: int) -> int:
        """Return where the head ends that begins, or goes on, at `at`; the end of `data`, if it does not end there."""
        edge = b"" if at else self._edge
        # Each empty line before a head by itself would take its time.
        if not edge and (empty := _EMPTY_LINES.match(data, at)) is not None:
            at = empty.end()
        end = (edge + data).find(HEAD_END, at)
        return len(data) if end < 0 else end + len(HEAD_END) - len(edge)

    def missed(self, data: bytes) -> None:
        """Go on behind `data`: the head has not ended with it."""
        begun = self._edge + data if self._edge else data.lstrip(b"\r\n")
        self._edge = begun[1 - len(HEAD_END) :]

    def found(self) -> None:
        """Begin with the next head."""
        self._edge = b""
