"""The process of a child, whether we have started it or a supervisor that died did.

Its descriptors: standard output and error are pipes whose lines we read; the lifeline is the reading end of a pipe
whose other end only the supervisor holds; the ready descriptor is a pipe to which the child writes when it serves.
Every end that we keep is closed on exec, so that no child holds another one's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from typing import Protocol, Self

from cluster.birth import birth, has_ended, hold
from cluster.pipes import Pipes

log = logging.getLogger(__name__)


class Process(Protocol):
    """One life of a child."""

    @property
    def pid(self) -> int: ...

    @property
    def born(self) -> str | None:
        """What distinguishes it from others of its pid; see cluster/birth.py."""

    @property
    def has_ended(self) -> bool: ...

    async def wait(self) -> int | None:
        """Wait for its end; return its exit status, or None if only its parent was told."""

    def send_signal(self, number: signal.Signals) -> None: ...


class Spawned:
    """A process that we have started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.born = birth(process.pid)

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        pipes: Pipes,
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        lifeline_fd: int | None,
    ) -> Self:
        """Run `argv`, with `--lifeline-fd N` and `--ready-fd N` added as far as there are any.  Raises OSError."""
        fds, options = [*pass_fds], []
        if lifeline_fd is not None:
            fds.append(lifeline_fd)
            options += ["--lifeline-fd", str(lifeline_fd)]
        if pipes.ready is not None:
            fds.append(pipes.ready)
            options += ["--ready-fd", str(pipes.ready)]
        process = await asyncio.create_subprocess_exec(
            *argv,
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipes.out,
            stderr=pipes.err,
            env=env,
            pass_fds=fds,
            # The terminal's Ctrl-C is for us alone: we stop our children in order.
            start_new_session=True,
        )
        pipes.close_theirs()
        return cls(process)

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    async def wait(self) -> int:
        return await self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


@dataclass(eq=False)
class Survivor:
    """A process that a supervisor started which is no more.  `close` it when it has ended."""

    pid: int
    born: str
    probe: Callable[[], Awaitable[bool]] | None = None
    """Whether it serves: its ready descriptor went with its supervisor."""
    restarts: int = 0
    """How often its child had been started again before."""
    _descriptor: int = field(kw_only=True)

    @classmethod
    def hold(cls, pid: int, born: str) -> Self | None:
        """Return that very process, or None if it is no more: nothing is ever done to another one of its pid."""
        descriptor = hold(pid, born)
        return None if descriptor is None else cls(pid, born, _descriptor=descriptor)

    @property
    def has_ended(self) -> bool:
        return has_ended(self._descriptor)

    async def wait(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._descriptor)

    def send_signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            # It has ended, and `wait` tells.
            return

    def outputs(self, stack: ExitStack) -> list[FileIO]:
        """Return reading ends of its standard output and error, which `stack` closes; none if they cannot be had."""
        files = []
        try:
            for number in (1, 2):
                fd = os.open(f"/proc/{self.pid}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
                files.append(stack.enter_context(FileIO(fd, "rb")))
                if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                    raise OSError(0, "its output is no pipe")
        except OSError as exc:
            if not self.has_ended:
                log.warning("lines of an adopted child are not shown", extra={"pid": self.pid, "reason": exc.strerror})
            return []
        # What we opened was its own only if it still runs.
        return [] if self.has_ended else files

    def close(self) -> None:
        os.close(self._descriptor)


def kill_group(process: Process) -> None:
    """Kill it and the processes that it started: its process group, which has its pid while it is not reaped."""
    if not process.has_ended:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            # It ended meanwhile, or has not come so far as to make its session.
            process.send_signal(signal.SIGKILL)
