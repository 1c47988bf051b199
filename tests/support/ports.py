"""Free TCP ports on loopback."""

from __future__ import annotations

import os
import random
import socket

_PARTS = 8
_PART = 22_000 // _PARTS


def free_port() -> int:
    """Return a port that nothing listens on now.  Prefer to bind port 0 yourself and ask where you landed."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive ports that nothing listens on now.

    They are taken from below the kernel's ephemeral range, so that no outgoing connection grabs one meanwhile; and of
    tests that run side by side, each process takes them from a part of its own.
    """
    begin = 10_000 + _PART * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PARTS)
    for _ in range(200):
        first = random.randrange(begin, begin + _PART - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError(f"no {count} consecutive free ports found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
