"""The life of one child process: started, ready, ended, started again after a delay, or given up.

Its first life may be that of a process which survived an earlier supervisor; all others are started by us.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from io import FileIO
from typing import Any

from cluster.backoff import full_jitter
from cluster.lifecycle import GIVE_UP
from cluster.output import Output
from cluster.pipes import PipeReader, Pipes
from cluster.process import Process, Spawned, Survivor, kill_group
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
    outlive_s: float = 0.0
    """How long it is told to go on without a supervisor."""
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
    survivor: Survivor | None = None
    """Its first process, if that is there already."""
    state: ChildState = ChildState.STARTING
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
    _process: Process | None = None
    _last_line: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def process(self) -> Process | None:
        """What runs of it now."""
        return self._process or self.survivor

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def is_adopted(self) -> bool:
        """Whether what runs of it was started by a supervisor that is no more."""
        return isinstance(self.process, Survivor)

    def ask_to_stop(self) -> None:
        """Let it end in order: SIGTERM, and SIGKILL when its time is over."""
        self._stop.set()

    def hurry(self) -> None:
        """End it at once."""
        self._stop.set()
        self._hurry.set()

    def hang_up(self) -> None:
        """Send it SIGHUP, once it serves (before, it may not have its handler yet): it reads again what it follows."""
        if self.state is ChildState.READY and self._process is not None and not self._process.has_ended:
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
            # A survivor has to be ended even if we were asked to stop before we have begun.
            while self.survivor is not None or not self._stop.is_set():
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
                prober = tasks.create_task(self._probe(process))
                status = await process.wait()
                stopper.cancel()
                prober.cancel()
        except OSError as exc:
            return End(0, f"cannot be started: {exc.strerror or exc}")
        finally:
            self._process = None
        last_line = self._last_line
        if status == GIVE_UP:
            return End(process.pid, last_line or _ending(status, last_line), hopeless=True)
        return End(process.pid, _ending(status, last_line))

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[Process]:
        """Start it, or take it over; when the block ends, it is dead, reaped, and its last lines are written."""
        self._become(ChildState.STARTING)
        with ExitStack() as stack:
            process, files = await self._begun(stack)
            readers: list[PipeReader] = []
            try:
                for file, hear in zip(files, (self._show, self._show_error, self._hear), strict=False):
                    readers.append(await PipeReader.connect(file, hear))
                yield process
            finally:
                if not process.has_ended:
                    kill_group(process)
                    await process.wait()
                if readers:
                    await asyncio.wait([reader.ended for reader in readers], timeout=LAST_LINES_S)
                for reader in readers:
                    reader.close()

    async def _begun(self, stack: ExitStack) -> tuple[Process, list[FileIO]]:
        """Return its process and our ends of its pipes, all of them for `stack` to close."""
        survivor, self.survivor = self.survivor, None
        if survivor is not None:
            self._process = survivor
            stack.callback(survivor.close)
            return survivor, survivor.outputs(stack)
        pipes = stack.enter_context(Pipes(ready=self.spec.probe is None))
        self._process = await Spawned.start(
            self.spec.argv,
            pipes,
            env=self.spec.env,
            pass_fds=self.spec.pass_fds,
            lifeline_fd=self.lifeline_fd if self.spec.lifeline else None,
        )
        # At once: whoever takes over from us must know of it.
        self.on_change(self)
        return self._process, pipes.reading

    async def _end_when_asked(self, process: Process) -> None:
        await self._stop.wait()
        self._become(ChildState.STOPPING)
        if not self._hurry.is_set():
            process.send_signal(signal.SIGTERM)
            await _unless(self._hurry, self.spec.stop_within_s)
            log.warning("child killed: it did not end in time", extra={"child": self.name, "pid": process.pid})
        kill_group(process)

    async def _probe(self, process: Process) -> None:
        probe = self.spec.probe or (process.probe if isinstance(process, Survivor) else None)
        if probe is None:
            return
        for delay_s in full_jitter(0.02, 0.2):
            if await probe():
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


def _ending(status: int | None, last_line: str) -> str:
    if status is None:
        return "ended; its status went to the parent that it had" + (f": {last_line}" if last_line else "")
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
