"""What happened to the nodes lately, and why: the last events of each worker, kept where all workers can read them.

Each worker probes for itself, so one fault is an event of every worker.  They are written to the run directory, and a
worker that takes the place of a dead one goes on with its list.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from cluster.rundir import RunDir
from lb.pool import Change

log = logging.getLogger(__name__)

KEEP = 200
"""Events that each worker remembers, and that all together show."""

PREFIX = "events-"

GAP_S = 0.1
"""Events that come together are written once."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """`at` is wall clock time in seconds; `kind` says what it is about; a change of a node has all fields."""

    at: float
    worker: int
    kind: str
    reason: str
    node: str = ""
    before: str = ""
    state: str = ""
    signal: str = ""


class Events:
    """The events of worker `index`."""

    def __init__(self, run_dir: RunDir, index: int, wall: Callable[[], float] = time.time) -> None:
        self._run_dir = run_dir
        self._index = index
        self._wall = wall
        self._own: deque[Event] = deque(maxlen=KEEP)
        self._changed = asyncio.Event()
        self._unwritten = False
        self._take_over()

    @property
    def name(self) -> str:
        """The name of this worker's report in the run directory."""
        return f"{PREFIX}{self._index}-{os.getpid()}"

    def changed(self, change: Change) -> None:
        """Remember and log a change of a node's state."""
        facts = {"node": change.node, "before": change.before, "state": change.after, "reason": change.reason}
        log.info("node changed", extra=facts)
        self._add(
            Event(
                at=self._wall(),
                worker=self._index,
                kind="node",
                reason=change.reason,
                node=change.node,
                before=change.before,
                state=change.after,
                signal=change.signal,
            )
        )

    def happened(self, kind: str, reason: str, node: str = "", level: int = logging.WARNING) -> None:
        """Remember and log something that is no change of a state."""
        log.log(level, kind, extra={"reason": reason} | ({"node": node} if node else {}))
        self._add(Event(at=self._wall(), worker=self._index, kind=kind, reason=reason, node=node))

    def panicked(self, begins: bool, reason: str) -> None:
        self.happened("too few nodes are well: using all that answer" if begins else "enough nodes are well", reason)

    def latest(self) -> list[Event]:
        """Return the last events of all workers, the newest at the end."""
        events = list(self._own)
        for name, report in self._run_dir.reports(PREFIX).items():
            if name != self.name:
                events += _read(name, report)
        events.sort(key=lambda event: event.at)
        return events[-KEEP:]

    async def run(self) -> None:
        """Write what happens, and what is unwritten at the end.  Never returns."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._write()
                await asyncio.sleep(GAP_S)
        finally:
            self._write()

    def _add(self, event: Event) -> None:
        self._own.append(event)
        self._changed.set()

    def _write(self) -> None:
        try:
            self._run_dir.publish(self.name, {"pid": os.getpid(), "events": [asdict(event) for event in self._own]})
        except OSError as exc:
            # The log has them; only the lists that the other workers show lag behind.
            if not self._unwritten:
                log.warning("events not written", extra={"report": self.name, "reason": str(exc)})
            self._unwritten = True
        else:
            self._unwritten = False

    def _take_over(self) -> None:
        """Go on with the lists of dead predecessors of this index, and take their reports away."""
        for name, report in self._run_dir.reports(f"{PREFIX}{self._index}-").items():
            pid = report.get("pid")
            if isinstance(pid, int) and pid != os.getpid() and psutil.pid_exists(pid):
                continue
            self._own.extend(_read(name, report))
            self._run_dir.forget(name)


def _read(name: str, report: Mapping[str, Any]) -> list[Event]:
    try:
        return [Event(**raw) for raw in report["events"]]
    except (KeyError, TypeError) as exc:
        # Written by a worker of another version, while the stack is being upgraded under us.
        log.debug("events ignored", extra={"report": name, "reason": repr(exc)})
        return []
