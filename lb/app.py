"""A balancer worker, put together: `python -m lb worker`, which the supervisor starts on the sockets that it holds."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from dataclasses import dataclass

import setproctitle
from aiohttp import web

from cluster import descriptors, lifecycle, logs
from cluster.collecting import Collector
from cluster.config_file import Loaded
from cluster.errors import StartError
from cluster.host import host_id
from cluster.member import State
from cluster.rundir import RunDir
from lb.admin import Sources, admin_app
from lb.canary import Canary
from lb.certificates import Files
from lb.discovery import Discovery
from lb.drains import Drains
from lb.entrance import Entrance
from lb.events import Events
from lb.eviction import Eviction
from lb.front import Front
from lb.gate import OPEN, Gate
from lb.health import Health
from lb.history import History
from lb.kept import inherited
from lb.limits import connection_limit
from lb.metrics import Metrics
from lb.operations import Operations
from lb.pool import Change, Node, Pool
from lb.reports import Reports
from lb.roster import worker_count
from lb.terms import Terms
from lb.tls import Tls

log = logging.getLogger(__name__)

FIRST_PICTURE_S = 2.0
"""How long a starting worker waits to know its nodes before it accepts clients: without any it would answer 503."""


@dataclass(frozen=True)
class WorkerOptions:
    """What the supervisor gives to a worker.  Descriptors are inherited."""

    loaded: Loaded
    run_dir: RunDir
    index: int
    listen_fd: int
    admin_fd: int
    redirect_fd: int | None
    certificates_fd: int | None
    lifeline_fd: int | None
    ready_fd: int | None


def main(options: WorkerOptions) -> int:
    """Serve until told to stop; return the exit status."""
    config = options.loaded.config
    name = f"worker-{options.index}"
    logs.set_up(name, config.log.level, config.log.format, access=config.log.access)
    setproctitle.setproctitle(f"flotilla {name}")
    worker = Worker(options)

    async def run(stopping: asyncio.Event) -> int:
        descriptors.reserve_table()
        with Collector():
            return await worker.run(stopping)

    return lifecycle.run(run, lifeline_fd=options.lifeline_fd, on_hangup=worker.look_again)


class Worker:
    """One balancer worker."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._config = options.loaded.config
        self._tls: Tls | None = None

    def look_again(self) -> None:
        """Take a new certificate into use now, if there is one."""
        if self._tls is not None:
            self._tls.hurry()

    async def run(self, stopping: asyncio.Event) -> int:
        """Serve until `stopping`: stop accepting, drain, end."""
        options, config = self._options, self._config
        listening, admin_listening = _inherited(options.listen_fd), _inherited(options.admin_fd)
        plain = None if options.redirect_fd is None else _inherited(options.redirect_fd)
        metrics = Metrics()
        events = Events(options.run_dir, options.index)
        tls = self._tls = _tls(options, events, metrics)
        # The state of a TLS connection is in this process, and cannot go with its descriptor.
        handing = config.lb.handoff == "auto" and tls is None

        def changed(change: Change) -> None:
            metrics.node_changed(change)
            events.changed(change)

        pool = Pool(
            time.monotonic,
            on_change=changed,
            our_host=host_id() if handing else "",
            terms=Terms.of(config, worker_count(config.lb)),
            on_panic=events.panicked,
        )
        drains = Drains(pool, config, options.run_dir)
        discovery = Discovery(pool, config, options.run_dir.path if handing else None, drains=drains)
        canary = Canary(config)
        health = Health(pool, config.lb.health, redis_works=canary.is_heard)
        most = _most_connections(config.lb.max_connections)
        front = Front(config, pool, metrics, most_connections=most, tls=tls, base=options.loaded.base)
        eviction = Eviction(pool, front.close_some, pool.terms.share)
        reports = Reports(options.run_dir, options.index, metrics, pool, Entrance(front, events.happened), tls)
        history = History(pool)
        operations = Operations(pool, drains, events)
        sources = Sources(config, pool, reports, discovery, options.run_dir, history, operations, canary)
        admin = web.AppRunner(admin_app(sources), access_log=None)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(run())
                for run in (
                    *(discovery.run, health.run, reports.run, history.run),
                    *(drains.run, canary.run, events.run, eviction.run),
                    *((tls.run,) if tls else ()),
                )
            ]
            await admin.setup()
            admin_site = web.SockSite(admin, admin_listening)
            await admin_site.start()
            await _first_picture(pool)
            front.start(listening, plain)
            lifecycle.say_ready(options.ready_fd)
            if options.index == 0 and Gate.of(config.lb).is_closed:
                log.warning(
                    "admin API and dashboard are closed: set lb.admin_token, or lb.admin to a loopback address",
                    extra={"admin": str(config.lb.admin), "open": sorted(OPEN)},
                )
            log.info("serving", extra={"nodes": sum(node.takes_new for node in pool), "most_connections": most})
            await stopping.wait()
            # Whoever comes next shall have both addresses while we drain.
            await admin_site.stop()
            await front.stop(config.lb.drain_s)
            await admin.cleanup()
            for task in background:
                task.cancel()
        return 0


def _tls(options: WorkerOptions, events: Events, metrics: Metrics) -> Tls | None:
    """Return what TLS is spoken with, if it is.  Raises StartError."""
    files = Files.of(options.loaded.config.lb.tls, options.loaded.base)
    kept = () if options.certificates_fd is None else inherited(options.certificates_fd)
    return Tls(files, events.happened, metrics, kept=kept) if files else None


async def _first_picture(pool: Pool) -> None:
    """Wait until every node that is known was probed, and at least one is ready; not for long."""
    changed = asyncio.Event()

    def watcher(_: Node) -> None:
        changed.set()

    pool.watchers.append(watcher)
    try:
        async with asyncio.timeout(FIRST_PICTURE_S):
            while True:
                changed.clear()
                if any(node.takes_new for node in pool) and all(node.state is not State.JOINING for node in pool):
                    return
                await changed.wait()
    except TimeoutError:
        log.warning("serving with what is known", extra={"nodes": len(pool.nodes)})
    finally:
        pool.watchers.remove(watcher)


def _inherited(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as exc:
        raise StartError(f"descriptor {fd} is no socket: {exc.strerror}") from None
    sock.setblocking(False)
    return sock


def _most_connections(configured: int) -> int:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connection_limit(configured, descriptors)
