"""Small child processes for a supervisor under test, and a supervisor to run them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from cluster.child import Child, End, Spec
from cluster.output import Output
from cluster.restart import RestartLimits
from cluster.rundir import RunDir
from cluster.supervisor import Supervisor, lifeline

_PREAMBLE = """
import os, signal, sys, time
options = dict(zip(sys.argv[1::2], map(int, sys.argv[2::2])))
lifeline, ready = options.get("--lifeline-fd"), options.get("--ready-fd")
def say_ready():
    os.write(ready, b"ready\\n")
"""

SERVE = "say_ready()\nsignal.pause()"
"""A child that is ready at once, and ends when told to."""

QUICK = RestartLimits(first_delay_s=0.01, most_delay_s=0.05, give_up_after=3, window_s=60)


def script(code: str, name: str = "child", **options: Any) -> Spec:
    """Return a child that runs `code`; it may use `lifeline` and `ready` (descriptors), and `say_ready()`."""
    argv = (sys.executable, "-I", "-S", "-c", _PREAMBLE + code)
    return Spec(name=name, argv=argv, **({"stop_within_s": 5.0} | options))


@asynccontextmanager
async def supervising(
    directory: Path,
    limits: RestartLimits = QUICK,
    on_end: Callable[[Child, End], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[Supervisor, Path]]:
    """Run a supervisor until the block ends, which then stops all children; yields it and the file of its output."""
    said = directory / "said.log"
    with said.open("wb") as file, Output(file.fileno()) as output, lifeline() as fd:
        async with asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(tasks, RunDir(directory), output, fd, limits, on_end=on_end)
            try:
                yield supervisor, said
            finally:
                supervisor.hurry()
                await supervisor.stop(*supervisor.children)


def is_over(pid: int) -> bool:
    """Return whether the process `pid` does nothing any more: whoever adopts an orphan need not reap it at once."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_gone(pid: int) -> bool:
    """Return whether the process `pid` has ended (a zombie that nobody reaped has not: that would be our fault)."""
    return not psutil.pid_exists(pid)
