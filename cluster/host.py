"""Which host and which name this process has."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import uuid
from functools import cache
from pathlib import Path


@cache
def host_id() -> str:
    """Return six characters (30 bits) that tell this host, or this container, from the others of a cluster.

    Built from the machine id and the host name: containers of one machine share the first, cloned machines often the
    second.
    """
    machine = next((text for path in ("/etc/machine-id", "/var/lib/dbus/machine-id") if (text := _text(path))), "")
    digest = hashlib.sha256(f"{machine or uuid.getnode()} {socket.gethostname()}".encode()).digest()
    return base64.b32encode(digest).decode()[:6].lower()


def usable_cpus() -> int:
    """Return how many CPUs this process may run on: those that taskset or a container's cpuset leave to it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def slot_name(port: int, *, private_redis: bool) -> str:
    """Return the default name of the node on `port`: `n3000`, or `n3000-<host id>` where other hosts may have one too.

    With an embedded Redis, which nobody outside this host can reach, the port alone is unique, and short in every sid.
    """
    return f"n{port}" if private_redis else f"n{port}-{host_id()}"


def reached_at(host: str) -> str:
    """Return where a process that listens on `host`, perhaps a wildcard address, is reached from its own host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
