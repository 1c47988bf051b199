"""The supervisor's composition root: `python -m lb`.

Order of start: run directory, listening sockets, Redis, secret, then nodes and workers at the same time.  Order of
stop: no new clients, workers and nodes drain at the same time (a tunnel ends when its node lets the client go), then
Redis, then the run directory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from cluster import descriptors, embedded, lifecycle, logs, redis_link
from cluster.child import Child, ChildState, End
from cluster.config import EMBEDDED, NO_REDIS, Config, Endpoint
from cluster.config_file import Loaded, load
from cluster.errors import StartError
from cluster.keys import Keys
from cluster.lifecycle import Stopped, unless
from cluster.listening import check_free
from cluster.output import Output
from cluster.registry import Registry
from cluster.restart import RestartLimits
from cluster.rundir import RunDir, base_directory, run_directory
from cluster.secret import agree_on_secret
from cluster.supervisor import Supervisor, lifeline
from cluster.version import version
from lb.banner import Facts, banner
from lb.crew import Crew
from lb.roster import Doors, Roster

log = logging.getLogger(__name__)

NAME = "supervisor"
REDIS_READY_WITHIN_S = 15.0
WITHDRAW_WITHIN_S = 2.0


def main(file: Path | None) -> int:
    """Run the stack that `file` describes until it is told to stop; return its exit status.

    Raises UsageError and StartError.
    """
    loaded = load(file)
    config = loaded.config
    descriptors.check_connections(config)
    with Output.standard(config.log.format) as output:
        logs.set_up(NAME, config.log.level, config.log.format, output.stream(NAME))
        descriptors.raise_limit()
        with run_directory(base_directory()) as run_dir, closing(Doors.open(config.lb)) as doors:
            check_ports(config)
            stack = Stack(loaded, output, run_dir, doors)
            return lifecycle.run(stack.run, on_second_signal=stack.hurry)


def check_ports(config: Config) -> None:
    """Raise StartError, one readable line, if a local node's port is in use."""
    for port in config.local_ports:
        check_free(Endpoint(config.nodes.host, port), "nodes.first_port")


class Stack:
    """One running stack: its children, and the sockets that they inherit."""

    def __init__(self, loaded: Loaded, output: Output, run_dir: RunDir, doors: Doors) -> None:
        self._loaded = loaded
        self._output = output
        self._run_dir = run_dir
        self._doors = doors
        self._redis_url = loaded.config.redis
        self._redis_name = ""
        self._status = 0
        self._failure: Exception | None = None

    async def run(self, stopping: asyncio.Event) -> int:
        """Run until `stopping`; no child is left afterwards."""
        async with self._supervised(stopping):
            try:
                await unless(stopping, self._start())
                self._show()
                await stopping.wait()
            except Stopped:
                log.info("stopped during start-up")
            finally:
                await self._stop()
        if self._failure is not None:
            raise self._failure
        return 0

    def hurry(self) -> None:
        """End all children at once."""
        self._supervisor.hurry()

    @asynccontextmanager
    async def _supervised(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        def changed(_: Child) -> None:
            self._failure = self._failure or self._crew.verdict()
            if self._failure is not None:
                stopping.set()

        limits = RestartLimits(**self._loaded.config.restart.model_dump())
        try:
            with lifeline() as lifeline_fd:
                async with asyncio.TaskGroup() as tasks:
                    self._supervisor = Supervisor(
                        tasks, self._run_dir, self._output, lifeline_fd, limits, on_end=self._ended, on_change=changed
                    )
                    self._crew = Crew(self._supervisor)
                    yield
        finally:
            self._output.flush()

    async def _start(self) -> None:
        config = self._loaded.config
        if config.redis == EMBEDDED:
            self._redis_url = await self._start_valkey()
        elif config.redis != NO_REDIS:
            await redis_link.check(self._redis_url)
            self._redis_name = redis_link.without_password(self._redis_url)
        else:
            self._redis_name = "none"
        self._roster = Roster.write(await self._resolved(config), self._loaded.base, self._run_dir, 0)
        self._crew.start(self._roster, self._doors)
        await self._crew.settled()

    async def _start_valkey(self) -> str:
        path = embedded.binary()
        self._redis_name = f"embedded (valkey {embedded.version(path)}, private socket)"
        child = self._supervisor.start(embedded.spec(path, self._run_dir))
        try:
            async with asyncio.timeout(REDIS_READY_WITHIN_S):
                await child.until(ChildState.READY, ChildState.WAITING, ChildState.GIVEN_UP)
        except TimeoutError:
            raise StartError(f"redis: the embedded Valkey does not answer after {REDIS_READY_WITHIN_S:g} s") from None
        if child.state is not ChildState.READY:
            raise StartError(f"redis: the embedded Valkey does not start: {child.reason}")
        return embedded.url(self._run_dir)

    async def _resolved(self, config: Config) -> Config:
        """Return `config` as children need it: the real URL of Redis, and the secret."""
        if self._redis_url == NO_REDIS:
            secret = await agree_on_secret(config, None)
        else:
            async with redis_link.connection(self._redis_url) as link:
                secret = await agree_on_secret(config, link)
        return config.model_copy(update={"redis": self._redis_url, "secret": secret.decode()})

    async def _ended(self, child: Child, end: End) -> None:
        """Take the record of a dead node out of the registry at once: nobody needs to wait for its lease."""
        if child.spec.facts.get("kind") != "node" or self._redis_url == NO_REDIS:
            return
        try:
            async with asyncio.timeout(WITHDRAW_WITHIN_S), redis_link.connection(self._redis_url) as link:
                registry = Registry(link, Keys(self._loaded.config.cluster))
                for record in await registry.members():
                    if record.name == child.name and record.pid == end.pid:
                        await registry.withdraw(record.name, record.incarnation)
                        log.info("dead node signed off", extra={"node": record.name, "pid": end.pid})
        except redis_link.REDIS_AWAY as exc:
            # Its lease ends anyway.
            log.debug("dead node not signed off", extra={"node": child.name, "reason": str(exc)})

    def _show(self) -> None:
        facts = Facts(
            version=version(),
            listen=self._doors.listen,
            admin=self._doors.admin_at,
            nodes=[child.name for child in self._crew.nodes.values()],
            redis=self._redis_name,
            not_ready=self._crew.not_ready(),
        )
        if self._output.form == "text":
            self._output.plain(banner(self._loaded.config, facts))
        else:
            log.info("up", extra={"listen": str(facts.listen), "admin": str(facts.admin), "nodes": list(facts.nodes)})

    async def _stop(self) -> None:
        self._doors.close()
        everyone = self._supervisor.children
        await self._supervisor.stop(*(child for child in everyone if child.name != embedded.NAME))
        await self._supervisor.stop(*everyone)
