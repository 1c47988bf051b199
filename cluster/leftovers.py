"""What a supervisor that was killed left behind: its run directory, and processes that have not ended yet.

Its children end by themselves (lifeline; on Linux the embedded Redis with its parent), which takes them as long as they
drain.  Nodes with `outlive_supervisor` go on serving.  A new supervisor that needs their ports takes over: it stops
those that would not stop by themselves, and waits for all of them.  What it does not need it leaves alone: it may
belong to another stack of the same user.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import psutil

from cluster.embedded import NAME as REDIS
from cluster.embedded import PID_FILE
from cluster.rundir import SUPERVISOR, RunDir, dead_directories

log = logging.getLogger(__name__)

REDIS_STOP_S = 5.0
CLOCK_STEP_S = 2.0
"""How far the start time of one process may differ between two readings: it is derived from the wall clock."""


def clear(base: Path, ports: Collection[int]) -> None:
    """End what the dead left in `base` as far as it is in the way of `ports`, and remove directories without a user.

    Blocks for as long as their nodes and workers may take to drain.
    """
    for run_dir in dead_directories(base):
        _end(_orphaned_redis(run_dir), REDIS_STOP_S)
        children = _children(run_dir)
        in_the_way = [(process, child) for process, child in children if _uses(child, ports)]
        if in_the_way:
            names = " ".join(child["name"] for _, child in in_the_way)
            log.warning("taking over from a supervisor that died", extra={"processes": names})
            _wait_for(in_the_way)
        if not any(process.is_running() for process, _ in children):
            log.info("run directory of a dead supervisor removed", extra={"directory": str(run_dir.path)})
            shutil.rmtree(run_dir.path, ignore_errors=True)


def _children(run_dir: RunDir) -> list[tuple[psutil.Process, dict[str, Any]]]:
    """Return the workers and nodes of the report that still run."""
    try:
        report = run_dir.report(SUPERVISOR) or {}
    except (OSError, ValueError) as exc:
        log.warning("report of a dead supervisor not read", extra={"directory": str(run_dir.path), "reason": str(exc)})
        return []
    found = []
    for child in report.get("children", []):
        if child["name"] == REDIS or not child["pid"] or not child["created"]:
            continue
        try:
            process = psutil.Process(child["pid"])
            if abs(process.create_time() - child["created"]) < CLOCK_STEP_S and _is_alive(process):
                found.append((process, child))
        except psutil.Error:
            continue
    return found


def _orphaned_redis(run_dir: RunDir) -> list[psutil.Process]:
    """Return the embedded Redis of `run_dir` if it still runs: it works in that very directory, and it is ours."""
    try:
        process = psutil.Process(int((run_dir.path / PID_FILE).read_text(encoding="ascii")))
        ours = process.uids().real == os.getuid() and Path(process.cwd()) == run_dir.path.resolve()
        return [process] if ours and _is_alive(process) else []
    except (OSError, ValueError, psutil.Error):
        # No pid file, or nobody who has that pid: the common case.
        return []


def _uses(child: dict[str, Any], ports: Collection[int]) -> bool:
    return not set(child.get("ports", [])).isdisjoint(ports)


def _wait_for(children: Iterable[tuple[psutil.Process, dict[str, Any]]]) -> None:
    ending: list[psutil.Process] = []
    serving: list[psutil.Process] = []
    within_s = 0.0
    for process, child in children:
        # Those with a lifeline are ending already; a second request would cut their clients off.
        (ending if child["lifeline"] else serving).append(process)
        within_s = max(within_s, child["stop_within_s"])
    _end(serving, within_s, also=ending)


def _end(processes: Iterable[psutil.Process], within_s: float, also: Iterable[psutil.Process] = ()) -> None:
    """Ask `processes` to end, wait for them and for `also`, and kill those that take longer than `within_s`."""
    waited = [*processes, *also]
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(waited, timeout=within_s)
    for process in alive:
        log.warning("process of a dead supervisor killed", extra={"pid": process.pid})
        _signal(process.kill)
    psutil.wait_procs(alive, timeout=within_s)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        # It ended meanwhile, which is what we want.
        return


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
