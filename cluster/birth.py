"""What tells one process from every other that had, or will have, its pid.

Standard library alone on Linux: cluster/guard.py runs without anything else.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path


def birth(pid: int) -> str | None:
    """Return when the process `pid` began, in words that no other process of that pid can have; None if there is none.

    On Linux: which boot of the system it was, and the clock tick since then (proc(5), `starttime`).  Neither moves when
    somebody sets the clock.
    """
    if sys.platform != "linux":
        return _birth_elsewhere(pid)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name of the program, in parentheses, may hold anything; field 22 is the twentieth behind it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot}/{int(fields[19])}"
    except (OSError, IndexError, ValueError):
        return None


def _birth_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def hold(pid: int, born: str) -> int | None:
    """Return a descriptor of that very process (pidfd_open(2)), which the caller closes; None if it is no more.

    While it is open nothing else can be meant by it, and it becomes readable when the process ends.
    """
    if not can_hold():
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        # Nobody has that pid, or no descriptor is left; the one who asks has to do without in either case.
        return None
    # Looked at only now: the pid cannot have changed hands since.
    if birth(pid) == born and not has_ended(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def has_ended(descriptor: int) -> bool:
    """Return whether the process of a descriptor that `hold` gave has ended, reaped or not."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def can_hold() -> bool:
    """Return whether this system lets us hold a process that is not our child: Linux 5.3 does, if no filter forbids."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
