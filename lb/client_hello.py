"""The first bytes of a connection that should speak TLS: does it, and does it want what we speak?  Pure.

OpenSSL reads all this again.  But Python gives no way to refuse a client by its ALPN (RFC 7301 3.2), and who speaks
plain HTTP to a TLS port deserves an answer that it can read.
"""

from __future__ import annotations

import re
from enum import Enum

ALPN = b"http/1.1"

NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
"""The fatal alert 120 in a record of its own (RFC 8446 5.1, 6; RFC 7301 3.2)."""

HEADER = 5
"""Bytes in front of each record: type, version, length (RFC 8446 5.1)."""

MOST_RECORD = 2**14 + 256
_HANDSHAKE, _CLIENT_HELLO, _ALPN_EXTENSION = 22, 1, 16

_HTTP = re.compile(rb"[A-Z]{3,12} ")
"""What the line of a plain HTTP request begins with, as far as anybody sends it to us by mistake."""


class Opening(Enum):
    """What a connection begins with."""

    HELLO = "hello"
    HTTP = "http"
    OTHER_PROTOCOL = "other protocol"
    """A ClientHello that offers protocols, and none of ours."""
    GARBAGE = "garbage"


def opening(received: bytes) -> Opening | int:
    """Return what `received` begins, or how many bytes there must be to tell: more than there are."""
    if received[:1] != b"\x16":
        if _HTTP.match(received):
            return Opening.HTTP
        may_be_http = len(received) < 13 and (not received or (received.isalpha() and received.isupper()))
        return len(received) + 1 if may_be_http else Opening.GARBAGE
    if len(received) < HEADER:
        return HEADER
    size = int.from_bytes(received[3:HEADER], "big")
    if received[1] != 3 or not 0 < size <= MOST_RECORD:
        return Opening.GARBAGE
    if len(received) < HEADER + size:
        return HEADER + size
    offered = protocols(received[HEADER : HEADER + size])
    return Opening.OTHER_PROTOCOL if offered and ALPN not in offered else Opening.HELLO


def protocols(record: bytes) -> list[bytes]:
    """Return what a client offers in ALPN (RFC 7301 3.1), none if it offers nothing.

    `record` is the content of its first one.  What cannot be read there, or continues in the next record, is as good as
    not offered: OpenSSL judges it.
    """
    try:
        hello = _Reader(record)
        if hello.number(1) != _CLIENT_HELLO:
            return []
        hello = _Reader(hello.vector(3))
        hello.take(2 + 32)  # legacy_version, random (RFC 8446 4.1.2)
        for length in (1, 2, 1):  # session id, cipher suites, compression methods
            hello.vector(length)
        extensions = _Reader(hello.vector(2))
        while extensions.left:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == _ALPN_EXTENSION:
                names = _Reader(_Reader(content).vector(2))
                offered = []
                while names.left:
                    offered.append(names.vector(1))
                return offered
    except _CutOff:
        return []
    return []


class _CutOff(Exception):
    pass


class _Reader:
    """Takes bytes from the front.  Raises _CutOff where there are too few."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _CutOff
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length: int) -> bytes:
        """Return what stands behind its own length, which has `length` bytes (RFC 8446 3.4)."""
        return self.take(self.number(length))
