"""The first bytes of a connection that should speak TLS: does it, to whom, and does it want what we speak?  Pure.

OpenSSL reads all this again.  But Python gives no way to refuse a client by its ALPN (RFC 7301 3.2), its callback for
the name writes a traceback for each that is not ASCII, and who speaks plain HTTP to a TLS port deserves an answer that
it can read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

ALPN = b"http/1.1"

NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
"""The fatal alert 120 in a record of its own (RFC 8446 5.1, 6; RFC 7301 3.2)."""

HEADER = 5
"""Bytes in front of each record: type, version, length (RFC 8446 5.1)."""

MOST_RECORD = 2**14 + 256

MOST_RECORDS = 8
"""A ClientHello in more records, or with more bytes than one may have, is left to OpenSSL, name and all."""

MOST_OPENING = HEADER + MOST_RECORD

_HANDSHAKE, _CLIENT_HELLO = b"\x16", 1
_NAME_EXTENSION, _ALPN_EXTENSION, _HOST_NAME = 0, 16, 0

_HTTP = re.compile(rb"[A-Z]{3,12} ")
"""What the line of a plain HTTP request begins with, as far as anybody sends it to us by mistake."""


class Opening(Enum):
    """What a connection begins with that is not to be served by TLS."""

    HTTP = "http"
    OTHER_PROTOCOL = "other protocol"
    """A ClientHello that offers protocols, and none of ours."""
    GARBAGE = "garbage"


@dataclass(frozen=True, slots=True)
class Hello:
    """A ClientHello, or what OpenSSL is to judge; then nothing is known of it."""

    name: str = ""
    """The host that the client asks for (RFC 6066 3), if it does."""
    protocols: tuple[bytes, ...] = ()
    """What it offers in ALPN (RFC 7301 3.1)."""


def opening(received: bytes) -> Hello | Opening | int:
    """Return what `received` begins, or how many bytes there must be to tell: more than there are."""
    if received[:1] != _HANDSHAKE:
        if _HTTP.match(received):
            return Opening.HTTP
        may_be_http = len(received) < 13 and (not received or (received.isalpha() and received.isupper()))
        return len(received) + 1 if may_be_http else Opening.GARBAGE
    message, at = b"", 0
    for _ in range(MOST_RECORDS):
        start = at + HEADER
        if len(received) < start:
            return start
        size = int.from_bytes(received[at + 3 : start], "big")
        if received[at : at + 2] != _HANDSHAKE + b"\x03" or not 0 < size <= MOST_RECORD:
            return Hello() if at else Opening.GARBAGE
        at = start + size
        if at > MOST_OPENING:
            return Hello()
        if len(received) < at:
            return at
        message += received[start:at]
        if _is_whole(message):
            hello = hello_in(message)
            return Opening.OTHER_PROTOCOL if hello.protocols and ALPN not in hello.protocols else hello
    return Hello()


def hello_in(message: bytes) -> Hello:
    """Read a ClientHello (RFC 8446 4.1.2).  What cannot be read in it is as good as not there: OpenSSL judges it."""
    name, offered = "", tuple[bytes, ...]()
    try:
        hello = _Reader(message)
        if hello.number(1) != _CLIENT_HELLO:
            return Hello()
        hello = _Reader(hello.vector(3))
        hello.take(2 + 32)  # legacy_version, random
        for length in (1, 2, 1):  # session id, cipher suites, compression methods
            hello.vector(length)
        extensions = _Reader(hello.vector(2))
        while extensions.left:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == _ALPN_EXTENSION:
                offered = _protocols(content)
            elif kind == _NAME_EXTENSION:
                name = _name(content)
    except _CutOff:
        return Hello(name, offered)
    return Hello(name, offered)


def _is_whole(message: bytes) -> bool:
    """Return whether a handshake message is there from its begin to its end, or is none that we read."""
    return message[0] != _CLIENT_HELLO or 4 <= len(message) >= 4 + int.from_bytes(message[1:4], "big")


def _protocols(content: bytes) -> tuple[bytes, ...]:
    names, offered = _Reader(_Reader(content).vector(2)), []
    while names.left:
        offered.append(names.vector(1))
    return tuple(offered)


def _name(content: bytes) -> str:
    names = _Reader(_Reader(content).vector(2))
    while names.left:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            return name.decode("ascii", "backslashreplace")
    return ""


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
