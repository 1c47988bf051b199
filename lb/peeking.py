"""What has arrived on a socket that no transport reads yet: looked at, or waited for, and left where it is."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

MOST = 18 * 1024
"""Bytes of one look: more than the longest TLS record, or header of a proxy."""


def peek(sock: socket.socket) -> bytes:
    """Return what has arrived, and leave it there; nothing, if nothing has yet.  Raises OSError: nothing ever will."""
    return _received(sock, MOST, socket.MSG_PEEK)


def take(sock: socket.socket, most: int) -> bytes:
    """As `peek`, but take it, up to so many bytes."""
    return _received(sock, most, 0)


def has_ended(sock: socket.socket) -> bool:
    """Tell whether nothing will come any more, not even what has arrived already."""
    try:
        _received(sock, 1, socket.MSG_PEEK)
    except OSError:
        return True
    return False


def drop(sock: socket.socket) -> None:
    """Close `sock`, so that its peer can read what it was sent: what is left unread would make a reset of it."""
    with suppress(OSError):  # it has gone
        take(sock, MOST)
    sock.close()


async def arrival(sock: socket.socket, size: int) -> bytes:
    """Wait until `size` bytes are there, more than before; return all that are, and leave them.

    Raises OSError if the peer ends before that.  Nothing else may read from `sock` meanwhile.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    # Or else the few bytes that are there would wake us again and again (socket(7)).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    received = peek(sock)
    if len(received) < size:
        raise ConnectionAbortedError("it ended in the middle")
    return received


def _received(sock: socket.socket, most: int, flags: int) -> bytes:
    try:
        received = sock.recv(most, socket.MSG_DONTWAIT | flags)
    except BlockingIOError:
        return b""
    if not received:
        raise ConnectionAbortedError("it has come and gone")
    return received
