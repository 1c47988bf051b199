"""Socket.IO as bytes: what a client of the load generator sends, and how it reads what it gets.  Pure.

Engine.IO 4 over a WebSocket (https://socket.io/docs/v4/engine-io-protocol/): a packet is a frame, its first byte the
type.  Socket.IO 5 (https://socket.io/docs/v4/socket-io-protocol/) is in the messages, type 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.frames import FIN, TEXT, masked_frame, read_frame

PATH = "/socket.io/?EIO=4&transport=websocket"

OPEN, PING, PONG, MESSAGE = b"0", b"2", b"3", b"4"
CONNECT, DISCONNECT = b"40", b"41"
EVENT, ACK = b"42", b"43"


def key_of(number: int) -> bytes:
    """Return a masking key for a client, another for each, and never zero."""
    return (number * 2_654_435_761 % 2**32 | 0x01010101).to_bytes(4, "big")


def framed(packet: bytes, key: bytes) -> bytes:
    """Return a packet as a client sends it."""
    return masked_frame(FIN | TEXT, packet, key)


def event(name: str, *data: object, ack: int | None = None) -> bytes:
    """Return the packet of an event; with `ack` the server acknowledges it under that number."""
    return EVENT + (b"" if ack is None else str(ack).encode()) + _json([name, *data])


def acknowledged(ack: int, *data: object) -> bytes:
    """Return the packet by which a server acknowledges an event."""
    return ACK + str(ack).encode() + _json(list(data))


@dataclass(frozen=True)
class Run:
    """Consecutive numbers, as many as `count`."""

    first: int
    count: int


def message_number(packet: bytes, text: str) -> int | None:
    """Return the number of an event `message` of benchmarks/sio/app.py; None if it is another, or its text is."""
    if not packet.startswith(b'42["message",'):
        return None
    try:
        _, content = json.loads(packet[2:])
        number = content["n"]
        return number if isinstance(number, int) and content == {"n": number, "text": text} else None
    except (ValueError, TypeError, KeyError):
        return None


def run_of_messages(data: bytes, text: str) -> Run | None:
    """Return which messages `data` consists of, if it is whole frames of consecutive ones and nothing else."""
    numbers: list[int] = []
    at = 0
    while at < len(data):
        frame = read_frame(data, at)
        if frame is None or frame.first != FIN | TEXT:
            return None
        number = message_number(frame.payload, text)
        if number is None or (numbers and number != numbers[-1] + 1):
            return None
        numbers.append(number)
        at += frame.size
    return Run(numbers[0], len(numbers)) if numbers else None


class Frames:
    """Cuts a stream of bytes into frames, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def is_between(self) -> bool:
        """Nothing of a frame is held: the next byte begins one."""
        return not self._pending

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the first byte and the payload of each frame that is whole now."""
        self._pending += data
        at = 0
        while (frame := read_frame(self._pending, at)) is not None:
            at += frame.size
            yield frame.first, frame.payload
        del self._pending[:at]


def _json(value: object) -> bytes:
    # As JSON.stringify writes it, so that echoes can be compared byte by byte.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
