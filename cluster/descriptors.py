"""The limit of open files of this process and of the children that inherit it: every connection needs a descriptor."""

from __future__ import annotations

import fcntl
import logging
import os
import resource

from cluster.config import Config
from cluster.errors import UsageError

log = logging.getLogger(__name__)

SPARE = 200
"""Descriptors that a worker needs beside those of its clients: libraries, probes, connections to Redis."""

_ASK_INSTEAD = 65_536
"""macOS says that there is no limit, and then refuses what is beyond kern.maxfilesperproc."""

MOST_RESERVED = 65_536
"""Descriptors for which the kernel makes room at once, 8 bytes each."""


def reserve_table() -> None:
    """Have the kernel make room in this process' table for as many descriptors as it may open.

    Else it doubles the table whenever that is full, and in a process with threads waits until every CPU has noticed
    (expand_fdtable in Linux' fs/file.c): 10 ms and more in which no client is served, in the middle of a rush.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_RESERVED if soft == resource.RLIM_INFINITY else min(soft, MOST_RESERVED)
    first = last = -1
    try:
        first = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        last = fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, most - 1)
    except OSError as exc:
        # It grows when it must, then.
        log.info("no room reserved for descriptors", extra={"descriptors": most, "reason": exc.strerror})
    finally:
        for descriptor in (first, last):
            if descriptor >= 0:
                os.close(descriptor)


def raise_limit() -> int:
    """Raise the soft limit to the hard one as far as the system allows; return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ASK_INSTEAD if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as exc:
            log.warning("limit of open files not raised", extra={"limit": soft, "reason": str(exc)})
            return soft
        log.info("limit of open files raised", extra={"before": soft, "now": wanted})
        return wanted
    return soft


def check_connections(config: Config) -> None:
    """Raise UsageError if the hard limit cannot hold `lb.max_connections`; a tunnelled one takes two descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * config.lb.max_connections + SPARE
    if config.lb.max_connections and hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(
            f"lb.max_connections: {config.lb.max_connections} clients need {needed} open files, the limit is {hard};"
            f" allowed: at most {max(0, hard - SPARE) // 2}, or raise the limit (ulimit -Hn, LimitNOFILE=)"
        )
