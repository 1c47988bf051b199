"""What the workers of one stack tell each other through the run directory, so that any of them can answer for all.

Each worker keeps one report, `worker-<index>-<pid>.json`.  Counters of a worker that is no more still count, as what it
carried was carried; its open tunnels and its memory do not.  Its successor takes the counters over and the file away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from cluster.rundir import WORKER, RunDir
from cluster.usage import Usage
from lb.entrance import Entrance
from lb.metrics import Metrics, Totals
from lb.pool import Node, Pool
from lb.tls import InUse, Tls

log = logging.getLogger(__name__)

PUBLISH_S = 1.0
CHANGES_GAP_S = 0.05
"""Nodes that change together cost one report."""

READY_NODES = "ready_nodes"
"""Key of a report: the nodes that the worker sends new clients to, each with its pid, or null if it does not say."""

STALE_S = 10.0
"""A worker that has not reported for so long is not counted as alive: it hangs, or its pid is another process's now."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One balancer process, as it measures itself.  `loop_lag_s` is the delay of its event loop at the last report."""

    index: int
    pid: int
    at: float
    """Monotonic seconds, which all processes of a host share (CLOCK_MONOTONIC)."""
    uptime_s: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    loop_lag_s: float = 0.0
    waiting: int = 0
    """New clients that wait for their turn (lb/turnstile.py)."""
    hash_key: str = ""
    hash_share: float = 0.0
    """The address that most clients that are placed by address have, and its share of them."""
    certificates: tuple[InUse, ...] = ()
    """What it speaks TLS with, if it does."""

    def is_alive(self, now: float) -> bool:
        return now - self.at < STALE_S and psutil.pid_exists(self.pid)


@dataclass
class Stack:
    """All workers of this stack together."""

    totals: Totals = field(default_factory=Totals)
    workers: list[Worker] = field(default_factory=list)
    """Those that are alive, by index."""


class Reports:
    """The report of worker `index`, which counts in `metrics`, and the reports of its neighbours."""

    def __init__(
        self,
        run_dir: RunDir,
        index: int,
        metrics: Metrics,
        pool: Pool,
        entrance: Entrance | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._entrance = entrance
        self._tls = tls
        self._metrics = metrics
        self._pool = pool
        self._usage = Usage()
        self._started = time.monotonic()
        self._index = index
        self._loop_lag_s = 0.0
        self._unwritten = False
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        """The name of this worker's report in the run directory."""
        return f"{WORKER}{self._index}-{os.getpid()}"

    async def run(self) -> None:
        """Report each second, soon after a node changed, and once more at the end.  Never returns."""
        self._take_over()
        self._pool.watchers.append(self._on_change)
        try:
            while True:
                self.publish()
                await asyncio.sleep(CHANGES_GAP_S)
                await self._changed_or_due()
        finally:
            self._pool.watchers.remove(self._on_change)
            self.publish()

    def _on_change(self, _: Node) -> None:
        self._changed.set()

    async def _changed_or_due(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + PUBLISH_S - CHANGES_GAP_S
        try:
            async with asyncio.timeout_at(due):
                await self._changed.wait()
        except TimeoutError:
            self._loop_lag_s = max(0.0, loop.time() - due)
        self._changed.clear()

    def publish(self) -> None:
        """Write this worker's report now."""
        self._metrics.settle(self._pool, time.monotonic())
        report = {
            "worker": asdict(self.worker()),
            "totals": self._metrics.totals.to_dict(),
            READY_NODES: {node.name: _pid_of(node) for node in self._pool if node.takes_new},
        }
        try:
            self._run_dir.publish(self.name, report)
        except OSError as exc:
            # The balancer balances without it; only the sums that its neighbours show lag behind.
            if not self._unwritten:
                log.warning("report not written", extra={"report": self.name, "reason": str(exc)})
            self._unwritten = True
        else:
            self._unwritten = False

    def worker(self) -> Worker:
        """Return what this worker measures of itself now."""
        now = time.monotonic()
        return Worker(
            index=self._index,
            pid=os.getpid(),
            at=now,
            uptime_s=now - self._started,
            cpu_seconds=self._usage.cpu_seconds(),
            memory_bytes=self._usage.memory_bytes(),
            loop_lag_s=self._loop_lag_s,
            **({} if self._entrance is None else self._entrance.look()),  # type: ignore[arg-type]
            certificates=() if self._tls is None else self._tls.report(),
        )

    def stack(self) -> Stack:
        """Return the sum over all workers: our own numbers as of now, the others' at most a second old."""
        self._metrics.settle(self._pool, time.monotonic())
        stack = Stack(workers=[self.worker()])
        stack.totals += self._metrics.totals
        now = time.monotonic()
        for name, raw in self._run_dir.reports(WORKER).items():
            if name == self.name:
                continue
            read = _read(name, raw)
            if read is None:
                continue
            worker, totals = read
            if worker.is_alive(now):
                stack.workers.append(worker)
            else:
                _close_tunnels(totals)
            stack.totals += totals
        stack.workers.sort(key=lambda worker: (worker.index, worker.pid))
        return stack

    def _take_over(self) -> None:
        """Count on from where dead predecessors of this index ended, and take their reports away."""
        for name, raw in self._run_dir.reports(f"{WORKER}{self._index}-").items():
            read = _read(name, raw)
            if read is None:
                continue
            worker, totals = read
            if worker.pid != os.getpid() and psutil.pid_exists(worker.pid):
                # It still serves what it has: a worker that was replaced, not one that died.
                continue
            _close_tunnels(totals)
            self._metrics.totals += totals
            self._run_dir.forget(name)


def _pid_of(node: Node) -> int | None:
    return None if node.record is None else node.record.pid


def _close_tunnels(totals: Totals) -> None:
    for counts in totals.nodes.values():
        counts.tunnels_open = counts.handoffs_open = 0


def _read(name: str, raw: Mapping[str, Any]) -> tuple[Worker, Totals] | None:
    try:
        certificates = tuple(InUse(**each) for each in raw["worker"].get("certificates", ()))
        return Worker(**raw["worker"] | {"certificates": certificates}), Totals.from_dict(raw["totals"])
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        # Written by a worker of another version, while the stack is being upgraded under us.
        log.debug("report ignored", extra={"report": name, "reason": repr(exc)})
        return None
