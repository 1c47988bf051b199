"""Listening sockets, opened with readable errors: which key of the configuration names the address, and what is wrong.

The supervisor opens them and its workers inherit them, so that a worker's crash refuses nobody: the kernel's backlog
waits for the next one.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from cluster.config import Endpoint
from cluster.errors import StartError

BACKLOG = max(1024, socket.SOMAXCONN)
"""Connections that may wait for an accept; the kernel cuts it to net.core.somaxconn."""


def listen(endpoint: Endpoint, key: str) -> socket.socket:
    """Return a non-blocking TCP socket that listens on `endpoint`, which the configuration's `key` names.

    `[::]` takes IPv4 clients too, where the system can.  Raises StartError, one readable line.
    """
    bound = _bound(endpoint, key)
    try:
        bound.listen(BACKLOG)
    except OSError as exc:
        # Another socket may have begun to listen since we bound ours (SO_REUSEADDR allows that much).
        bound.close()
        raise _reason(exc, endpoint, key) from None
    bound.setblocking(False)
    return bound


def check_free(endpoint: Endpoint, key: str) -> None:
    """Raise StartError, one readable line, unless `endpoint` could be listened on now."""
    listen(endpoint, key).close()


def _bound(endpoint: Endpoint, key: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise StartError(f"{key}: {endpoint}: the host cannot be resolved: {reason}") from None
    try:
        bound = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise _reason(exc, endpoint, key) from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6 and endpoint.host == "::":
        with suppress(OSError):
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        bound.bind(address)
    except OSError as exc:
        bound.close()
        raise _reason(exc, endpoint, key) from None
    return bound


def _reason(exc: OSError, endpoint: Endpoint, key: str) -> StartError:
    known = {
        errno.EADDRINUSE: "is in use by another process",
        errno.EACCES: "is not permitted to this user; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)",
        errno.EADDRNOTAVAIL: "is not an address of this host",
        errno.EAFNOSUPPORT: "is of an address family that this host does not have",
    }
    return StartError(f"{key}: {endpoint} {known.get(exc.errno or 0, f'cannot be listened on: {exc.strerror}')}")
