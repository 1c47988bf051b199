"""What a supervisor that was killed left behind: its run directory, and processes that have not ended yet.

Workers end by themselves (lifeline), which takes them as long as they drain; nodes and the embedded Redis go on for as
long as they were told to (cluster/outlive.py).  A new supervisor takes them over or, where it cannot, ends those that
hold its ports.  What it does not need it leaves alone: it may belong to another stack of the same user.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.birth import birth
from cluster.embedded import NAME as REDIS
from cluster.embedded import PID_FILE
from cluster.rundir import SUPERVISOR, RunDir, dead_directories

log = logging.getLogger(__name__)

REDIS_STOP_S = 5.0
LET_GO_S = 5.0
"""How long a worker may take to notice that its supervisor is gone, and to close its listening sockets."""


@dataclass(frozen=True)
class Left:
    """A process that a dead supervisor left behind; `facts` is all that its report says of it."""

    name: str
    kind: str
    pid: int
    born: str
    goes_on: bool
    """It was told to go on without a supervisor for a while, rather than to end at once."""
    stop_within_s: float
    ports: frozenset[int]
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, child: Mapping[str, Any]) -> Left:
        """Raises LookupError, TypeError or ValueError."""
        return cls(
            name=str(child["name"]),
            kind=str(child["kind"]),
            pid=int(child["pid"]),
            born=str(child["birth"]),
            goes_on=bool(child["outlives"]),
            stop_within_s=float(child["stop_within_s"]),
            ports=frozenset(child.get("ports", ())),
            facts=child,
        )

    def uses(self, ports: Collection[int]) -> bool:
        return not self.ports.isdisjoint(ports)

    @property
    def process(self) -> psutil.Process | None:
        """That very process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            return process if birth(self.pid) == self.born and _is_alive(process) else None
        except psutil.Error:
            return None


@dataclass(frozen=True)
class Estate:
    """The run directory of a dead supervisor, and who of its children still runs."""

    run_dir: RunDir
    supervisor: int | None
    """The pid that it had."""
    file: str
    """The configuration that it read."""
    left: tuple[Left, ...]

    @classmethod
    def of(cls, run_dir: RunDir) -> Estate:
        try:
            report = run_dir.report(SUPERVISOR) or {}
            everyone = [Left.read(child) for child in report.get("children", []) if child["pid"] and child["birth"]]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
            extra = {"directory": str(run_dir.path), "reason": repr(exc)}
            log.warning("report of a dead supervisor not read", extra=extra)
            return cls(run_dir, None, "", ())
        alive = tuple(left for left in everyone if left.process is not None)
        return cls(run_dir, report.get("pid"), str(report.get("file", "")), alive)

    def kind(self, kind: str) -> list[Left]:
        return [left for left in self.left if left.kind == kind]


def estates(base: Path) -> list[Estate]:
    """Return what the dead left in `base`.  Ask while `starting_up` (cluster/rundir.py)."""
    return [Estate.of(run_dir) for run_dir in dead_directories(base)]


def is_inhabited(run_dir: RunDir) -> bool:
    """Return whether a process that its report names still runs."""
    return bool(Estate.of(run_dir).left)


def clear(estate: Estate, ports: Collection[int]) -> None:
    """End what is in the way of `ports`, and remove the directory if nobody needs it.

    Blocks for as long as its nodes and workers may take to drain.
    """
    others = [left for left in estate.left if left.name != REDIS]
    in_the_way = [left for left in others if left.uses(ports)]
    end(in_the_way)
    if any(left.process is not None for left in others):
        return
    _end([process for left in estate.kind("redis") if (process := left.process) is not None], REDIS_STOP_S)
    _end(_orphaned_redis(estate.run_dir), REDIS_STOP_S)
    shutil.rmtree(estate.run_dir.path, ignore_errors=True)
    log.info("run directory of a dead supervisor removed", extra={"directory": str(estate.run_dir.path)})


def vacate(estate: Estate, are_free: Callable[[], bool]) -> None:
    """Wait until its workers have let go of the listening sockets, so that `are_free`; kill those that do not.

    Their connections are not cut by that alone: a worker that drains has closed its listening sockets at once.
    """
    deadline = time.monotonic() + LET_GO_S
    workers = estate.kind("worker")
    while any(left.process is not None for left in workers) and not are_free():
        if time.monotonic() > deadline:
            _kill(process for left in workers if (process := left.process) is not None)
            return
        # A process that is not our child tells nobody what it closes.
        time.sleep(0.02)


def end_orphaned_redis(run_dir: RunDir) -> None:
    """End a server that has lost its guard: another one shall listen at its socket."""
    _end(_orphaned_redis(run_dir), REDIS_STOP_S)


def _orphaned_redis(run_dir: RunDir) -> list[psutil.Process]:
    """Return the embedded Redis of `run_dir` if it still runs: it works in that very directory, and it is ours."""
    try:
        process = psutil.Process(int((run_dir.path / PID_FILE).read_text(encoding="ascii")))
        ours = process.uids().real == os.getuid() and Path(process.cwd()) == run_dir.path.resolve()
        return [process] if ours and _is_alive(process) else []
    except (OSError, ValueError, psutil.Error):
        # No pid file, or nobody who has that pid: the common case.
        return []


def end(some: Collection[Left]) -> None:
    """End these in order.  Blocks for as long as they may take to drain."""
    if not some:
        return
    names = " ".join(left.name for left in some)
    log.warning("ending what a supervisor that died left behind", extra={"processes": names})
    ending: list[psutil.Process] = []
    serving: list[psutil.Process] = []
    within_s = 0.0
    for left in some:
        if (process := left.process) is not None:
            # Those that do not go on are ending already.
            (serving if left.goes_on else ending).append(process)
            within_s = max(within_s, left.stop_within_s)
    _end(serving, within_s, also=ending)


def _end(processes: Iterable[psutil.Process], within_s: float, also: Iterable[psutil.Process] = ()) -> None:
    """Ask `processes` to end, wait for them and for `also`, and kill those that take longer than `within_s`."""
    asked = list(processes)
    for process in asked:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs([*asked, *also], timeout=within_s)
    _kill(alive)


def _kill(processes: Iterable[psutil.Process]) -> None:
    killed = list(processes)
    for process in killed:
        log.warning("process of a dead supervisor killed", extra={"pid": process.pid})
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(killed, timeout=LET_GO_S)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        # psutil looks first whether the pid is still this process's.
        process.send_signal(number)
    except psutil.NoSuchProcess:
        # It ended meanwhile, which is what we want.
        return


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
