"""The composition root of a node: builds its parts, runs them in one TaskGroup, and takes them down in order."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis.asyncio as redis

from cluster import descriptors, handoff, lifecycle
from cluster.collecting import Collector
from cluster.config import NO_REDIS, Config, Endpoint
from cluster.config_file import Loaded
from cluster.errors import StartError
from cluster.host import host_id, slot_name
from cluster.keys import Keys
from cluster.listening import listen
from cluster.member import NodeRecord
from cluster.orders import Orders
from cluster.proxies import TrustedProxies
from cluster.redis_link import REDIS_AWAY, connection, reason_of, without_password
from cluster.registry import Registry
from cluster.rundir import RunDir
from cluster.secret import agree_on_secret
from cluster.tag import tag_of
from cluster.version import version
from cluster.written_orders import WrittenOrders
from node.adoption import Adoption
from node.announce import SIGN_OFF_S, Announcer, advertised_host, report_metrics
from node.arrival import finish_adopted
from node.company import Company
from node.directory import RedisDirectory
from node.door import Door
from node.draining import Draining, OrderBook
from node.healthz import add_healthz
from node.loading import one_line, users_traceback
from node.presence import Presence
from node.roster import Seat
from node.server import EngineLimits, NodeInfo, Server
from node.shortcut import Shortcut
from node.state_news import shared_state
from node.vitals import LagMeter, Sampler

log = logging.getLogger(__name__)

CLOSE_S = 2.0
"""For the application's clean-up hooks and the connections that are left."""


@dataclass(frozen=True)
class NodeOptions:
    """How to run one node; `loaded` holds what the command line says too.  An empty name is derived from the port."""

    loaded: Loaded
    host: str
    port: int
    name: str = ""
    advertise: str = ""
    run_dir: Path | None = None
    """The supervisor's run directory: the handoff socket is there."""
    lifeline_fd: int | None = None
    ready_fd: int | None = None


def main(options: NodeOptions, sio: Server) -> int:
    """Run the application `sio` as a node until it is told to stop; return the exit status.

    Raises StartError: the port is in use, no Redis to agree on a secret, the application's own start-up failed.
    """

    async def run(stopping: asyncio.Event) -> int:
        descriptors.reserve_table()
        with Collector():
            return await serve(options, sio, stopping)

    return lifecycle.run(run, lifeline_fd=options.lifeline_fd)


async def serve(options: NodeOptions, sio: Server, stopping: asyncio.Event) -> int:
    """As `main`, in a running event loop, until `stopping` is set."""
    async with AsyncExitStack() as stack:
        node = await _built(options, sio, stack)
        await node.run(stopping)
    return 0


async def _built(options: NodeOptions, sio: Server, stack: AsyncExitStack) -> _Node:
    config = options.loaded.config
    url = None if config.redis == NO_REDIS else config.redis
    listener = listen(Endpoint(options.host, options.port), "--host, --port")
    stack.callback(listener.close)
    port = listener.getsockname()[1]
    link = None
    if url is not None:
        link = await stack.enter_async_context(connection(url))
    secret = await _secret(config, link)
    info = NodeInfo(
        name=options.name or slot_name(port, private_redis=config.has_private_redis),
        cluster=config.cluster,
        host=options.advertise or advertised_host(options.host, url),
        port=port,
        incarnation=secrets.token_hex(8),
    )
    node = _Node(options, sio, info, link, Door(sio.web, listener), agreed=b"" if config.secret else secret)
    if url is not None and not sio.brings_manager:
        node.join(secret)
    node.bind(tag_of(info.name, secret))
    return node


async def _secret(config: Config, link: redis.Redis | None) -> bytes:
    try:
        return await agree_on_secret(config, link)
    except REDIS_AWAY as exc:
        raise StartError(
            f"no Redis at {without_password(config.redis)}: {reason_of(exc)};"
            " the nodes agree there on the cluster's secret (set `secret` to start without)"
        ) from None


class _Node:
    """One running node."""

    _company: Company | None = None
    _adoption: Adoption | None = None

    def __init__(
        self,
        options: NodeOptions,
        sio: Server,
        info: NodeInfo,
        link: redis.Redis | None,
        door: Door,
        agreed: bytes,
    ) -> None:
        self._options, self._sio, self._info, self._link, self._door = options, sio, info, link, door
        self._config = options.loaded.config
        nodes = self._config.nodes
        self.keys = Keys(info.cluster)
        self._registry = registry = None if link is None else Registry(link, self.keys, agreed)
        seat = Seat(info.name, info.incarnation, info.port)
        self._presence = Presence(
            None if link is None or registry is None else RedisDirectory(link, registry, self.keys, seat),
            seat,
            refresh_s=nodes.heartbeat_s,
            trust_s=nodes.lease_s,
            grace_s=nodes.presence_grace_s,
        )
        self._state, self._news = shared_state(link, self._config.redis, self.keys)
        self._lag = LagMeter()
        self._announcer = Announcer(
            registry,
            self._measuring(self._lag.sampler()),
            heartbeat_s=nodes.heartbeat_s,
            lease_s=nodes.lease_s,
            forgotten=self._presence.forgotten,
        )
        self._draining = Draining(info.name, sio, self._announcer, self._orders(), nodes)

    def _orders(self) -> OrderBook | None:
        """Where operators' orders to drain are read: in Redis, or else where our supervisor's workers write them."""
        if self._link is not None:
            return Orders(self._link, self.keys)
        run_dir = self._options.run_dir
        return None if run_dir is None else WrittenOrders(RunDir(run_dir))

    def join(self, secret: bytes) -> None:
        """Be one of several."""
        assert self._registry is not None
        self._company = Company(self._config, self._info, self._registry, secret)

    def bind(self, tag: str) -> None:
        nodes = self._config.nodes
        limits = EngineLimits(
            nodes.ping_interval_s,
            nodes.ping_timeout_s,
            nodes.max_message_bytes,
            nodes.slow_consumer_bytes,
            nodes.compression,
            nodes.connect_timeout_s,
            nodes.ordered,
        )
        company = self._company
        fanout = None if company is None else company.fanout
        self._sio.bind(self._info, tag, self._presence, self._state, limits, fanout)
        add_healthz(self._sio, self._announcer, None if company is None else company.bus)
        self._sio.web.on_response_prepare.extend((self._sio.eio.guests.seen, finish_adopted))
        if self._link is not None and self._sio.brings_manager:
            log.warning("the application brings its own client manager: it must reach the other nodes by itself")

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping`, then leave: stop accepting, drain, cancel."""
        try:
            await self._door.set_up()
        except Exception as exc:  # noqa: BLE001  (the application's own code: anything may happen in it)
            raise StartError(f"{users_traceback(exc)}\nthe application's start-up failed: {one_line(exc)}") from None
        async with asyncio.TaskGroup() as group:
            tasks = []
            if self._company is not None:
                tasks += [group.create_task(job) for job in self._company.jobs()]
                await self._company.up()
            self._open_handoff(group)
            await self._door.open()
            await self._draining.begin()
            tasks += [group.create_task(job) for job in self._jobs()]
            obeying = group.create_task(self._draining.run())
            lifecycle.say_ready(self._options.ready_fd)
            log.info("node ready", extra=self._described())
            await stopping.wait()
            obeying.cancel()  # Who ends is not ready again.
            await self._draining.leave()
            if self._company is not None:
                await self._company.flushed(SIGN_OFF_S)
            for task in tasks:
                task.cancel()
            if self._adoption is not None:
                self._adoption.close()
        await self._door.close(CLOSE_S)
        await self._sign_off()

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        jobs = [
            self._lag.run(),
            self._announcer.run(),
            self._presence.run(),
            report_metrics(
                self._link, self.keys, self._measuring(self._lag.sampler()), self._config.nodes.metrics_interval_s
            ),
        ]
        if self._news is not None:
            jobs.append(self._news.run())
        return jobs

    def _open_handoff(self, group: asyncio.TaskGroup) -> None:
        run_dir = self._options.run_dir
        if run_dir is None:
            return
        sio = self._sio
        # A middleware of the application's must see each request.
        shortcut = None if sio.web.middlewares else Shortcut(sio.eio.intake, sio.eio.path)
        path = handoff.socket_path(run_dir, self._info.name)
        proxies = TrustedProxies.of(self._config.lb.trusted_proxies)
        adoption = Adoption(path, self._door.server, group, shortcut, proxies)
        try:
            adoption.open()
        except OSError as exc:
            log.warning("no handoff socket: balancers tunnel", extra={"reason": exc.strerror or str(exc)})
            return
        self._adoption = self._draining.adoption = adoption

    async def _sign_off(self) -> None:
        try:
            async with asyncio.timeout(SIGN_OFF_S):
                await self._presence.withdraw()
        except TimeoutError:
            log.info("users left behind: Redis does not answer")
        await self._announcer.withdraw()
        log.info("node ended", extra={"node": self._info.name})

    def _measuring(self, sampler: Sampler) -> Callable[[], NodeRecord]:
        info, engine = self._info, self._sio.eio
        still = NodeRecord(
            name=info.name,
            host=info.host,
            port=info.port,
            incarnation=info.incarnation,
            pid=os.getpid(),
            host_id=host_id(),
            version=version(),
        )

        def measure() -> NodeRecord:
            return dataclasses.replace(
                still,
                **dataclasses.asdict(sampler.sample()),
                handoff="" if self._adoption is None else str(self._adoption.path),
                connections=engine.clients,
                users=self._presence.own_users,
                messages_in=engine.messages_in,
                messages_out=engine.messages_out,
                **({} if self._company is None else self._company.figures()),
            )

        return measure

    def _described(self) -> dict[str, object]:
        redis_url = self._config.redis
        return {
            "node": self._info.name,
            "port": self._info.port,
            "announced_as": f"{self._info.host}:{self._info.port}",
            "app": self._config.nodes.app,
            "redis": redis_url if redis_url == NO_REDIS else without_password(redis_url),
        }
