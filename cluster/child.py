"""The life of one child process: started, ready, ended, started again after a delay, or given up.

Its descriptors: standard output and error are pipes whose lines go to our output under the child's name; the lifeline
is the reading end of a pipe whose other end only the supervisor holds; the ready descriptor is a pipe to which the
child writes when it serves.  Every end that we keep is closed on exec, so that no child holds another one's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import psutil

from cluster.backoff import full_jitter
from cluster.lifecycle import GIVE_UP
from cluster.output import Output
from cluster.pipes import PipeReader, Pipes
from cluster.restart import RestartPolicy

log = logging.getLogger(__name__)

LAST_LINES_S = 0.5
"""How long the pipes of a dead child may take to end; its own children may hold them open for ever."""


class ChildState(StrEnum):
    """What a child is doing; shown in the supervisor's report."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """It died, and waits for its next start."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to run.  `--lifeline-fd N` and `--ready-fd N` are added to `argv`, unless they are switched off.

    A child with a `probe` has no ready descriptor: it is ready when the probe answers true.
    """

    name: str
    argv: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    lifeline: bool = True
    probe: Callable[[], Awaitable[bool]] | None = None
    stop_within_s: float = 10.0
    """From SIGTERM to SIGKILL."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the report says of it."""
    drop_lines: tuple[str, ...] = ()
    """Lines of output that contain one of these are not shown."""


@dataclass(frozen=True)
class End:
    """How one life of a child ended."""

    pid: int
    reason: str
    hopeless: bool = False
    """It would fail the same way again."""


@dataclass(eq=False)
class Child:
    """One child that is kept running.  `run` is its whole life; all else may be called from outside meanwhile."""

    spec: Spec
    policy: RestartPolicy
    output: Output
    lifeline_fd: int | None = None
    on_change: Callable[[Child], None] = lambda _: None
    on_end: Callable[[Child, End], Awaitable[None]] | None = None
    state: ChildState = ChildState.STARTING
    pid: int | None = None
    created: float | None = None
    """When its process was made, as the system tells it: with it a pid names one process, also after it was reused."""
    restarts: int = 0
    reason: str = ""
    """Why it ended last."""
    was_ready: bool = False
    """Whether it ever was."""
    is_hopeless: bool = False
    """It was given up because it would fail the same way again."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _turn: asyncio.Event = field(default_factory=asyncio.Event)
    _process: asyncio.subprocess.Process | None = None
    _last_line: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    def ask_to_stop(self) -> None:
        """Let it end in order: SIGTERM, and SIGKILL when its time is over."""
        self._stop.set()

    def hurry(self) -> None:
        """End it at once."""
        self._stop.set()
        self._hurry.set()

    def hang_up(self) -> None:
        """Send it SIGHUP, once it serves (before, it may not have its handler yet): it reads again what it follows."""
        if self.state is ChildState.READY and self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def until(self, *states: ChildState) -> ChildState:
        """Wait until its state is one of `states`, and return which."""
        while self.state not in states:
            await self._turn.wait()
        return self.state

    async def run(self) -> None:
        """Keep it running until it is asked to stop, or given up.  However this ends, no process is left."""
        final = ChildState.STOPPED
        try:
            while not self._stop.is_set():
                end = await self._live()
                if self.on_end is not None:
                    await self.on_end(self, end)
                if self._stop.is_set():
                    break
                if (delay_s := self._again_after(end)) is None:
                    final = ChildState.GIVEN_UP
                    break
                self._become(ChildState.WAITING)
                await _unless(self._stop, delay_s)
                self.restarts += 1
        finally:
            # Also when we were cancelled: whoever stops us waits for this.
            self._become(final)

    def _again_after(self, end: End) -> float | None:
        """Return the delay before its next start in seconds, or None if there shall be none."""
        self.reason = end.reason
        now = asyncio.get_running_loop().time()
        self.is_hopeless = end.hopeless
        if end.hopeless:
            log.error("child given up: it would fail the same way again", extra=self._facts(end))
            return None
        delay_s = self.policy.died(now)
        if delay_s is None:
            deaths = {"deaths": self.policy.deaths(now), "window_s": self.policy.limits.window_s}
            log.error("child given up: it died too often", extra=self._facts(end) | deaths)
        else:
            log.warning("child died", extra=self._facts(end) | {"again_in_s": delay_s})
        return delay_s

    def _facts(self, end: End) -> dict[str, object]:
        return {"child": self.name, "pid": end.pid, "reason": end.reason}

    def _become(self, state: ChildState) -> None:
        self.state = state
        self.was_ready |= state is ChildState.READY
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()
        self.on_change(self)

    async def _live(self) -> End:
        """Run one process of it from start to end."""
        self._last_line = ""
        try:
            async with self._started() as process, asyncio.TaskGroup() as tasks:
                stopper = tasks.create_task(self._end_when_asked(process))
                prober = tasks.create_task(self._probe())
                status = await process.wait()
                stopper.cancel()
                prober.cancel()
        except OSError as exc:
            return End(0, f"cannot be started: {exc.strerror or exc}")
        finally:
            self._process = self.pid = self.created = None
        last_line = self._last_line
        if status == GIVE_UP:
            return End(process.pid, last_line or _ending(status, last_line), hopeless=True)
        return End(process.pid, _ending(status, last_line))

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start it; when the block ends, it is dead, reaped, and its last lines are written."""
        self._become(ChildState.STARTING)
        with Pipes(ready=self.spec.probe is None) as pipes:
            process = await self._spawn(pipes)
            self._process, self.pid, self.created = process, process.pid, _created_at(process.pid)
            pipes.close_theirs()
            readers: list[PipeReader] = []
            try:
                for file, hear in zip(pipes.reading, (self._show, self._show_error, self._hear), strict=False):
                    readers.append(await PipeReader.connect(file, hear))
                yield process
            finally:
                if process.returncode is None:
                    _kill_group(process)
                    await process.wait()
                if readers:
                    await asyncio.wait([reader.ended for reader in readers], timeout=LAST_LINES_S)
                for reader in readers:
                    reader.close()

    async def _spawn(self, pipes: Pipes) -> asyncio.subprocess.Process:
        fds, options = [*self.spec.pass_fds], []
        if self.spec.lifeline and self.lifeline_fd is not None:
            fds.append(self.lifeline_fd)
            options += ["--lifeline-fd", str(self.lifeline_fd)]
        if pipes.ready is not None:
            fds.append(pipes.ready)
            options += ["--ready-fd", str(pipes.ready)]
        return await asyncio.create_subprocess_exec(
            *self.spec.argv,
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipes.out,
            stderr=pipes.err,
            env=self.spec.env,
            pass_fds=fds,
            # The terminal's Ctrl-C is for us alone: we stop our children in order.
            start_new_session=True,
        )

    async def _end_when_asked(self, process: asyncio.subprocess.Process) -> None:
        await self._stop.wait()
        self._become(ChildState.STOPPING)
        if not self._hurry.is_set():
            process.send_signal(signal.SIGTERM)
            await _unless(self._hurry, self.spec.stop_within_s)
            log.warning("child killed: it did not end in time", extra={"child": self.name, "pid": process.pid})
        _kill_group(process)

    async def _probe(self) -> None:
        if self.spec.probe is None:
            return
        for delay_s in full_jitter(0.02, 0.2):
            if await self.spec.probe():
                self._ready()
                return
            await asyncio.sleep(delay_s)

    def _hear(self, _: str) -> None:
        self._ready()

    def _ready(self) -> None:
        if self.state is ChildState.STARTING:
            self._become(ChildState.READY)

    def _show(self, line: str) -> None:
        if not any(part in line for part in self.spec.drop_lines):
            self.output.line(self.name, line)

    def _show_error(self, line: str) -> None:
        # The last line is where a process of ours says why it cannot go on.
        self._last_line = line.strip() or self._last_line
        self._show(line)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill it and the processes that it started: its process group, which has its pid while it is not reaped."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            # It ended meanwhile, or has not come so far as to make its session.
            process.send_signal(signal.SIGKILL)


def _created_at(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        # It has ended already.
        return None


def _ending(status: int, last_line: str) -> str:
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"ended with status {status}" + (f": {last_line}" if last_line else "")


async def _unless(event: asyncio.Event, delay_s: float) -> None:
    """Wait `delay_s`, or until `event`."""
    try:
        async with asyncio.timeout(delay_s):
            await event.wait()
    except TimeoutError:
        return
