"""What the kernel knows of a TCP connection, so that we need not count: tcp(7), struct tcp_info in linux/tcp.h."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys
import termios
from typing import Any, NamedTuple

_CLOSED = 7
_END_HAS_COME = frozenset({6, 8, 9, 11})
"""TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING: states that begin with the other side's FIN (net/tcp_states.h)."""

# tcpi_state, tcpi_bytes_received (since Linux 4.2), tcpi_notsent_bytes (4.6), tcpi_bytes_sent and _retrans (4.19)
_INFO = struct.Struct("=B127xQ8xI52xQQ")


class Counted(NamedTuple):
    """What came and what went since the connection opened."""

    state: int
    arrived: int
    """Bytes that came in order, read or not, and 1 for the end of file (RFC 9293 3.4: a FIN takes a number)."""
    unsent: int
    """Bytes that were written and have never left."""
    left: int
    """Bytes that have left, each once."""

    def received(self, *, ended: bool) -> int:
        """Return how many bytes have come.  `ended`: the end of file has been read, if it has come at all.

        The state tells, but for a connection that is over: one that was reset is in the same state as any other.
        """
        return self.arrived - (self.state in _END_HAS_COME or (ended and self.state == _CLOSED))


def counted(sock: Any) -> Counted | None:
    """Return what the kernel has counted of the connection `sock`, or None where it does not tell.

    `sock` is a socket, or what a transport gives for one.  Raises OSError: it is closed.
    """
    if sys.platform != "linux" or sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    if len(info) < _INFO.size:
        return None
    state, arrived, unsent, sent, again = _INFO.unpack(info)
    return Counted(state, arrived, unsent, sent - again)


def unread(sock: Any) -> int:
    """Return how many bytes wait in the kernel to be read (SIOCINQ), without the end of file."""
    found = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, found)
    return found[0]


def untaken(sock: Any) -> int:
    """Return how many bytes that were written wait in the kernel for the peer to take them (SIOCOUTQ, on Linux)."""
    if sys.platform != "linux":
        return 0
    found = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, found)
    return found[0]


def carried(sock: Any) -> tuple[int, int] | None:
    """Return how many bytes were read from `sock`, and how many were written to it, since its connection opened.

    For a connection that nobody reads just now.  None where the kernel does not tell.  Raises OSError: it is closed.
    """
    waiting = unread(sock)
    while (counts := counted(sock)) is not None:
        # What comes between the two questions would be counted on one side only.
        before, waiting = waiting, unread(sock)
        if waiting == before:
            return counts.received(ended=False) - waiting, counts.left + counts.unsent
    return None
