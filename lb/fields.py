"""What the fields of a client's plain requests say, read once for as long as it sends the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from lb import plain
from lb.headers import Headers, field_lines, onward_fields
from lb.yard import Yard


@dataclass(eq=False, slots=True)
class Fields:
    """Of one request."""

    block: bytes
    """The lines between the first one and the empty one."""
    headers: Headers
    length: int | None
    """Content-Length."""
    chunked: bool
    """The body comes in chunks."""
    onward: bytes
    """As a node gets them."""
    untraced: bool
    """They bring no traceparent, and need one of ours."""
    slot: str | None
    """The node that the cookie names."""
    address: str
    """The client's, masked."""


class Reader:
    """Reads the fields of one connection's requests."""

    __slots__ = ("_last", "_peer", "_yard")

    def __init__(self, yard: Yard, peer: str) -> None:
        self._yard = yard
        self._peer = peer
        self._last: Fields | None = None

    def read(self, block: bytes) -> Fields | None:
        """Return what the fields in `block` say; None: they are not plain."""
        if self._last is not None and self._last.block == block:
            return self._last
        read = plain.request_fields(block)
        if read is None:
            return None
        headers, length, chunked = read
        yard = self._yard
        onward, untraced = onward_fields(headers, yard.via(self._peer, yard.trace()), chunked=chunked)
        slot, address = yard.recogniser.recognise_fields(headers, self._peer)
        self._last = Fields(block, headers, length, chunked, field_lines(onward), untraced, slot, address)
        return self._last
