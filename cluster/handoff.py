"""The handoff socket: what a balancer worker and a node on its host say to each other when a connection changes hands.

A SOCK_SEQPACKET unix socket in a directory of mode 0700, listened on by the node; both ends check that the other runs
under the same user (SO_PEERCRED).  One message is one packet:

* worker → node: `Handoff`, with the descriptor of the client's socket as ancillary data (SCM_RIGHTS, unix(7)),
* node → worker: `Taken` or `Refused`, once for each handoff, and later `Closed` for those that were taken, with what
  is known of how they ended (cluster/ends.py).

Until `Taken` the worker keeps its copy of the descriptor, and the node writes nothing to it before it has said so.  A
handoff is valid for a limited time on the monotonic clock that all processes of a host share: a node that reads it, or
has answered it, too late lets go of it.  The worker waits longer than that, so that a client never has two nodes.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.ends import MOST_WORDS, End, ends_in, packed
from cluster.errors import FlotillaError

MOST_BYTES = 96 * 1024
"""The largest packet.  A socket buffer of Linux' default size (212,992 bytes, counted with overhead) holds one."""

MOST_CLOSED_IN_ONE = MOST_BYTES // (8 * MOST_WORDS) - 1
"""How many ends one packet reports."""

VALID_S = 1.0
"""How long a worker waits for a node's answer, and how long a handoff may lie unread."""

COUNTED = 1 << 62
"""Set in the number of a connection whose end is to be reported with what it carried, as the access log wants it.

To ask the kernel for that is a good part of what an end costs.  A number comes back as it was, from nodes that know of
no such bit as well.
"""

LEAVING = "leaving"
"""Reason of a node that refuses because it drains: that is no fault."""

_OVERLOADED = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE})

_HANDOFF, _TAKEN, _REFUSED, _CLOSED = b"H", b"T", b"R", b"C"
_HANDOFF_FORM = struct.Struct("!cQQHI")
_ID_FORM = struct.Struct("!cQ")
_DESCRIPTOR = array.array("i", [0]).itemsize


def socket_path(run_dir: Path, node: str) -> Path:
    """Return where the node named `node` listens for handoffs."""
    return run_dir / f"{node}.sock"


class BadPacket(FlotillaError):
    """What came in on a handoff socket is no message of ours."""


@dataclass(frozen=True)
class Handoff:
    """A client's connection: what the node needs beside the descriptor.

    `received` is the rewritten request head with whatever was read behind it; `cookie` is a Set-Cookie value for the
    101, or empty; `valid_until_ns` is a time of `time.monotonic_ns`.
    """

    id: int
    valid_until_ns: int
    cookie: str
    received: bytes

    @property
    def is_counted(self) -> bool:
        """Whether the worker wants to know what the connection carried."""
        return bool(self.id & COUNTED)

    def to_bytes(self) -> bytes:
        cookie = self.cookie.encode()
        head = _HANDOFF_FORM.pack(_HANDOFF, self.id, self.valid_until_ns, len(cookie), len(self.received))
        return b"".join((head, cookie, self.received))


@dataclass(frozen=True)
class Taken:
    """The node has the connection; the worker may let go of it."""

    id: int

    def to_bytes(self) -> bytes:
        return _ID_FORM.pack(_TAKEN, self.id)


@dataclass(frozen=True)
class Refused:
    """The node does not take it, and has closed its copy of the descriptor unused."""

    id: int
    reason: str

    def to_bytes(self) -> bytes:
        return _ID_FORM.pack(_REFUSED, self.id) + self.reason.encode()


@dataclass(frozen=True)
class Closed:
    """These connections, taken before from this worker, have ended."""

    ends: tuple[End, ...]

    def to_bytes(self) -> bytes:
        return _CLOSED + packed(self.ends)


Message = Handoff | Taken | Refused | Closed


def message_in(packet: bytes) -> Message:
    """Return the message that `packet` holds.  Raises BadPacket."""
    kind, rest = packet[:1], packet[1:]
    try:
        if kind == _HANDOFF:
            return _handoff_in(packet)
        if kind == _CLOSED:
            return Closed(ends_in(rest))
        if kind == _TAKEN:
            return Taken(_ID_FORM.unpack(packet)[1])
        if kind == _REFUSED:
            return Refused(_ID_FORM.unpack_from(packet)[1], packet[_ID_FORM.size :].decode())
    except (struct.error, ValueError) as exc:  # UnicodeDecodeError is one
        raise BadPacket(f"malformed packet of kind {kind!r}: {exc}") from None
    raise BadPacket(f"unknown kind of packet: {kind!r}")


def _handoff_in(packet: bytes) -> Handoff:
    _, number, valid_until_ns, cookie_size, received_size = _HANDOFF_FORM.unpack_from(packet)
    cookie_end = _HANDOFF_FORM.size + cookie_size
    if len(packet) != cookie_end + received_size:
        raise BadPacket(f"a handoff of {cookie_end + received_size} bytes came as {len(packet)}")
    return Handoff(number, valid_until_ns, packet[_HANDOFF_FORM.size : cookie_end].decode(), packet[cookie_end:])


def send(sock: socket.socket, message: Message, descriptor: int | None = None) -> None:
    """Send one packet, with a copy of `descriptor` if there is one.

    Raises BlockingIOError when the other side does not read, OSError when it is gone or the kernel has no room
    (ENOBUFS, ETOOMANYREFS).
    """
    rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    sock.sendmsg([message.to_bytes()], rights, socket.MSG_NOSIGNAL if hasattr(socket, "MSG_NOSIGNAL") else 0)


def is_overload(exc: OSError) -> bool:
    """Tell whether the other side, or the kernel, has no room now: nothing is broken."""
    return exc.errno in _OVERLOADED


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next packet and the descriptors that came with it, which the caller owns; no bytes at the end.

    Raises BlockingIOError when there is none now, and OSError.
    """
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    # Room for more than one descriptor, so that too many are seen, and closed, not truncated.
    packet, ancillary, _, _ = sock.recvmsg(MOST_BYTES + 1024, socket.CMSG_SPACE(4 * _DESCRIPTOR), flags)
    return packet, [fd for level, kind, data in ancillary for fd in _rights(level, kind, data)]


def _rights(level: int, kind: int, data: bytes) -> Sequence[int]:
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return ()
    descriptors = array.array("i")
    descriptors.frombytes(data[: len(data) - len(data) % _DESCRIPTOR])
    return descriptors


def is_ours(sock: socket.socket) -> bool:
    """Tell whether the other end of a connected unix socket runs under our user, or as root (SO_PEERCRED, unix(7))."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # The directory's mode keeps others out there.
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user in (os.getuid(), 0)
