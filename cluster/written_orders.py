"""Operators' orders to drain nodes, in the run directory of one stack.

Where there is Redis (cluster/orders.py) they are a copy, which a worker that starts obeys from its first moment on.
Without one they are all there is: the stack's workers write them and read what others wrote, and its nodes read theirs.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO

from cluster.member import BadRecord, Drain
from cluster.rundir import RunDir

log = logging.getLogger(__name__)

REPORT = "drains"

PATIENCE_S = 2.0
LOOK_AGAIN_S = 0.01

_LOCK = "drains.lock"


class WrittenOrders:
    """The orders that are written in `run_dir`."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._told = ""

    def all(self) -> dict[str, Drain] | None:
        """Return all orders; None, and a line in the log, if they cannot be read."""
        try:
            written = self._run_dir.report(REPORT)
            orders = {} if written is None else {name: Drain.from_json(text) for name, text in written.items()}
        except (BadRecord, ValueError, TypeError, AttributeError, OSError) as exc:
            # Told once, as this is read several times a second.
            if str(exc) != self._told:
                log.warning("orders not read", extra={"reason": str(exc)})
            self._told = str(exc)
            return None
        self._told = ""
        return orders

    async def of(self, node: str, before: Drain | None = None) -> Drain | None:
        """Return the order to `node`, None if there is none; `before` stands while they cannot be read."""
        orders = self.all()
        return before if orders is None else orders.get(node)

    def write(self, orders: Mapping[str, Drain]) -> None:
        """Replace them all.  Raises OSError."""
        self._run_dir.publish(REPORT, {name: order.to_json() for name, order in orders.items()})

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be the only one that changes them: two workers may be told something at the same time.

        Raises OSError: the disk is full, or somebody does not let go within `PATIENCE_S`.
        """
        with self._lock() as lock:
            await _locked(lock)
            yield

    def _lock(self) -> BinaryIO:
        return open(self._run_dir.path / _LOCK, "wb")


async def _locked(lock: BinaryIO) -> None:
    # No event loop can watch a lock.  It is held for one reading and one writing, unless its process hangs.
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not _taken(lock):
        if loop.time() > deadline:
            raise TimeoutError("another process holds the lock of the orders")
        await asyncio.sleep(LOOK_AGAIN_S)


def _taken(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
