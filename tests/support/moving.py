"""How a test's nodes pass sessions to each other: a stream socket of the unix kind, descriptors beside the bytes.

One group of sessions is one conversation.  There: how many, then a length and a state for each, its descriptor with
the length; back: one byte for each, whether it was taken.  Blocking, for a thread.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgpack

_COUNT, _LENGTH = struct.Struct("!I"), struct.Struct("!I")
_DESCRIPTOR = array.array("i", [0]).itemsize

State = dict[str, Any]
Passed = tuple[State, socket.socket]


def pass_on(path: str, states: Sequence[State], descriptors: Sequence[int]) -> list[bool]:
    """Send a group to whoever listens at `path`; return which of it were taken.  Raises OSError."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(path)
        link.sendall(_COUNT.pack(len(states)))
        for state, descriptor in zip(states, descriptors, strict=True):
            packed = msgpack.packb(state)
            socket.send_fds(link, [_LENGTH.pack(len(packed))], [descriptor])
            link.sendall(packed)
        return [byte == 1 for byte in _exactly(link, len(states))]


def listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def passed(link: socket.socket) -> list[Passed]:
    """Receive one group.  Raises OSError."""
    link.settimeout(10)
    [count] = _COUNT.unpack(_exactly(link, _COUNT.size))
    group = []
    for _ in range(count):
        length, descriptors, _, _ = socket.recv_fds(link, _LENGTH.size, 1)
        length += _exactly(link, _LENGTH.size - len(length))
        state = msgpack.unpackb(_exactly(link, *_LENGTH.unpack(length)), strict_map_key=False)
        group.append((state, socket.socket(fileno=descriptors[0])))
    return group


def _exactly(link: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the other process has gone")
        data += piece
    return bytes(data)
