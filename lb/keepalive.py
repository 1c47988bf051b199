"""TCP keep-alive (RFC 9293 3.8.4): a peer that vanished without a word is found, however quiet its WebSocket was."""

from __future__ import annotations

import socket

_OPTIONS = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}
"""Seconds, seconds, probes: two minutes in all.  Milliseconds: as long may sent bytes wait for a peer that is there and
takes nothing (tcp(7)), which keep-alive does not see; a connection that we closed would else wait for them for ever."""


def keep_alive(sock: socket.socket) -> None:
    """Set it on `sock`; on a listening socket Linux gives it to every connection accepted from it (tcp(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):  # not all systems have, or name, all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
