"""What the kernel knows of a TCP connection, so that we need not count: tcp(7), struct tcp_info in linux/tcp.h."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import struct
import sys
import termios

_BYTES_RECEIVED = struct.Struct("=128xQ")
"""tcpi_bytes_received, since Linux 4.2: what came in order, read or not, and 1 for the end of file."""


def bytes_received(transport: asyncio.Transport) -> int | None:
    """Return how many bytes have come since the connection opened; None where the kernel does not say."""
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
    return int(_BYTES_RECEIVED.unpack(info)[0]) if len(info) == _BYTES_RECEIVED.size else None


def bytes_unread(transport: asyncio.Transport) -> int:
    """Return how many of them wait in the kernel to be read (SIOCINQ)."""
    found = array.array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, found)
    return found[0]
