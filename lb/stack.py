"""The supervisor's composition root: `python -m lb`.

Order of start: run directory, listening sockets, Redis, secret, then nodes and workers at the same time; what a
supervisor that died left running is taken over (lb/takeover.py) rather than started.  Order of
stop: no new clients, workers and nodes drain at the same time (a tunnel ends when its node lets the client go), then
Redis, then the run directory.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import setproctitle

from cluster import descriptors, embedded, leftovers, lifecycle, logs
from cluster.child import Child, End
from cluster.config import Endpoint
from cluster.config_file import Loaded, load
from cluster.errors import StartError, UsageError
from cluster.lifecycle import Stopped, unless
from cluster.listening import check_free
from cluster.notify import READY, STOPPING, notify
from cluster.output import Output
from cluster.restart import RestartLimits
from cluster.rundir import RunDir, base_directory, run_directory, starting_up
from cluster.supervisor import Supervisor, lifeline
from cluster.terminal import Terminal
from cluster.version import version
from lb import certificates, kept
from lb.banner import Facts, banner
from lb.crew import Crew
from lb.reload import Running, conform, reload
from lb.roster import Doors, Roster, redis_outlive_s
from lb.stack_redis import Redis
from lb.takeover import Takeover, file_of, settle

log = logging.getLogger(__name__)

NAME = "supervisor"
HURRIED = 128 + signal.SIGINT
"""Exit status after a second signal."""


def main(file: Path | None) -> int:
    """Run the stack that `file` describes until it is told to stop; return its exit status.

    Raises UsageError and StartError.
    """
    loaded = load(file)
    config = loaded.config
    descriptors.check_connections(config)
    certificates.check(config.lb.tls, loaded.base)
    with Output.standard(config.log.format) as output:
        logs.set_up(NAME, config.log.level, config.log.format, output.stream(NAME))
        setproctitle.setproctitle(f"flotilla {NAME}")
        descriptors.raise_limit()
        base = base_directory()
        with ExitStack() as held:
            with starting_up(base):
                takeover = settle(base, loaded)
                inherited = takeover.estate.run_dir if takeover else None
                run_dir = held.enter_context(run_directory(base, inherited, keep=leftovers.is_inhabited))
                doors = held.enter_context(Doors.open(config.lb, loaded.base))
                for port in sorted({*config.local_ports} - (takeover.ports if takeover else set())):
                    check_free(Endpoint(config.nodes.host, port), "nodes.first_port")
            stack = Stack(loaded, output, run_dir, doors, takeover)
            return lifecycle.run(stack.run, on_second_signal=stack.hurry, starts_children=True)


class Stack:
    """One stack, from its start to its end."""

    def __init__(
        self, loaded: Loaded, output: Output, run_dir: RunDir, doors: Doors, takeover: Takeover | None = None
    ) -> None:
        self._loaded = loaded
        self._output = output
        self._run_dir = run_dir
        self._doors = doors
        self._takeover = takeover
        self._running: Running | None = None
        self._redis = Redis(loaded.config)
        self._failure: StartError | UsageError | None = None
        self._hurried = False
        self._hung_up = asyncio.Event()
        self._terminal = Terminal()

    async def run(self, stopping: asyncio.Event) -> int:
        """Run until `stopping`; no child is left afterwards.

        Raises StartError or UsageError: the stack cannot come up.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup, stopping)
        async with self._supervising(stopping) as tasks:
            try:
                await unless(stopping, self._live(tasks))
            except Stopped:
                notify(STOPPING)
            finally:
                await self._stop()
        if self._failure is not None:
            raise self._failure
        return HURRIED if self._hurried else 0

    def hurry(self) -> None:
        """End all children at once."""
        self._hurried = True
        self._supervisor.hurry()

    def _on_hangup(self, stopping: asyncio.Event) -> None:
        if self._terminal.is_gone:
            log.info("stopping: the terminal is gone")
            stopping.set()
        else:
            self._hung_up.set()

    @asynccontextmanager
    async def _supervising(self, stopping: asyncio.Event) -> AsyncIterator[asyncio.TaskGroup]:
        def changed(_: Child) -> None:
            self._failure = self._failure or self._crew.verdict()
            if self._failure is not None:
                stopping.set()

        limits = RestartLimits(**self._loaded.config.restart.model_dump())
        try:
            with lifeline() as lifeline_fd:
                async with asyncio.TaskGroup() as tasks:
                    self._supervisor = Supervisor(
                        tasks,
                        self._run_dir,
                        self._output,
                        lifeline_fd,
                        limits,
                        on_end=self._ended,
                        on_change=changed,
                        facts={"file": file_of(self._loaded)},
                    )
                    self._crew = Crew(self._supervisor)
                    yield tasks
        finally:
            # What else is said goes to standard error; let it come last.
            self._output.flush()

    async def _live(self, tasks: asyncio.TaskGroup) -> None:
        """Start all, then reload whenever we are asked to.  Never returns."""
        config, takeover = self._loaded.config, self._takeover
        await self._redis.check()
        redis = self._redis.spec(self._run_dir, redis_outlive_s(config))
        taken = None if takeover is None else takeover.take(self._supervisor, redis)
        await self._redis.start(self._supervisor, redis, taken.redis if taken else None)
        secret = await self._redis.secret(takeover.secret if takeover else "")
        resolved = config.model_copy(update={"redis": self._redis.url, "secret": secret})
        roster = Roster.write_next(resolved, self._loaded.base, self._run_dir)
        if taken is not None:
            self._crew.nodes.update(taken.nodes)
            tasks.create_task(self._supervisor.stop(*taken.workers), name="end old workers")
        self._crew.start(roster, self._doors)
        await self._crew.settled()
        self._running = Running(self._loaded, roster, self._doors, self._crew, self._supervisor, self._output, tasks)
        self._show()
        notify(READY)
        if takeover is not None and taken is not None:
            await conform(self._running, takeover, taken)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._redis.keep_secret(secret))
            group.create_task(_keep_certificates(self._running))
            while True:
                await self._hung_up.wait()
                self._hung_up.clear()
                await reload(self._running)

    def _show(self) -> None:
        facts = Facts(
            version=version(),
            listen=self._doors.listen,
            admin=self._doors.admin_at,
            redirect=self._doors.redirects_at,
            nodes=[child.name for child in self._crew.nodes.values()],
            redis=self._redis.name,
            adopted=[child.name for child in self._crew.nodes.values() if child.is_adopted],
            not_ready=self._crew.not_ready(),
        )
        if self._output.form == "text":
            self._output.plain(banner(self._loaded.config, facts))
        else:
            log.info("up", extra=facts.as_fields())

    async def _stop(self) -> None:
        self._doors.close()
        if self._running is not None:
            self._running.doors.close()
        children = list(self._supervisor.children)
        await self._supervisor.stop(*(child for child in children if child.name != embedded.NAME))
        await self._supervisor.stop(*(child for child in children if child.name == embedded.NAME))

    async def _ended(self, child: Child, end: End) -> None:
        if child.spec.facts["kind"] == "node":
            await self._redis.sign_off(child.name, end.pid)


async def _keep_certificates(running: Running) -> None:
    """Keep what workers to come would begin with as new as its files are.  Never returns."""
    while True:
        # Files do not tell that they were replaced.
        await asyncio.sleep(kept.LOOK_S)
        if running.doors.kept is not None:
            running.doors.kept.look()
